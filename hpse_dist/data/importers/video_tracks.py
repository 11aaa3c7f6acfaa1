"""One person's boxes through a shot: what belongs together by place, motion and colours.

Boxes are assigned to tracks as a whole (Kuhn, The Hungarian method, 1955). Where two tracks could
as well be exchanged, both end: a track in two pieces costs some pairs, a swap makes false ones. So
boxes that cover each other are in no track, and after two people have met only their colours tell
who is who: they may have turned back.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy

from hpse_dist.data.importers.video_people import Found
from hpse_dist.geometry.boxes import area, iou

_NEVER = 1e3  # cost of what does not go together
_PLACE, _COLOUR = 0.5, 0.5  # shares of the cost
_MET = 0.1  # overlap of two people of whom one is not seen from which on they have met
_SPREAD = 1.4  # an outline this much larger than each of two people it covers shows both


@dataclass(frozen=True)
class TrackConfig:
    """When two boxes are of one person, and which tracks are kept."""

    max_gap_s: float = 0.6
    """A person not found for longer, or for twice as long behind another, begins a new track,
    seconds."""
    max_move: float = 0.6
    """How far a box's middle may be from where it is expected, in longer sides of the box."""
    max_growth: float = 1.6
    """How many times as long a box may be as the one before."""
    max_colour: float = 0.6
    """How different the colours may be, 0..1."""
    max_overlap: float = 0.25
    """People whose boxes overlap by more (intersection over union) are in no track meanwhile."""
    sure_by: float = 0.12
    """By how much two tracks must fit better than exchanged, 0..1, or both end."""
    min_track_s: float = 0.4
    """Tracks that are shorter are rejected, seconds."""
    min_track_frames: int = 3
    """Tracks with fewer frames are rejected."""
    min_moved: float = 0.03
    """What moves: tracks whose outlines never change by this share between two frames are no
    people but shades, reflections and things that were put down."""

    def __post_init__(self) -> None:
        for name in ("max_gap_s", "max_move", "max_colour"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, found {getattr(self, name)}")
        if self.max_growth <= 1 or self.sure_by < 0 or self.min_track_s < 0:
            raise ValueError("max_growth must be above 1, sure_by and min_track_s 0 or more")
        if self.min_track_frames < 1:
            raise ValueError(f"min_track_frames must be 1 or more, found {self.min_track_frames}")


@dataclass(eq=False)
class Track:
    """What is known of one person of one shot."""

    founds: list[Found]
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(2))
    """(2,) of the box's middle, pixels per second."""
    colours: np.ndarray | None = None
    met: set[Track] = field(default_factory=set)
    """Tracks it has met and not been told from since."""

    @property
    def last(self) -> Found:
        return self.founds[-1]

    @property
    def seconds(self) -> float:
        return self.last.time - self.founds[0].time

    def expected(self, time: float) -> np.ndarray:
        """(4,) the box at a time after the last."""
        way = self.velocity * (time - self.last.time)
        return self.last.box + np.concatenate([way, way])

    def take(self, found: Found) -> None:
        """The next box of this person."""
        gap = max(found.time - self.last.time, 1e-3)
        moved = (_middle(found.box) - _middle(self.last.box)) / gap
        weight = 0.5 if len(self.founds) > 1 else 1.0
        self.velocity = weight * moved + (1 - weight) * self.velocity
        if found.colours is not None and not self.met:
            old = found.colours if self.colours is None else self.colours
            self.colours = 0.8 * old + 0.2 * found.colours
        self.founds.append(found)


class Tracker:
    """Takes the people found in one shot's frames, in order, and makes tracks of them."""

    def __init__(self, config: TrackConfig) -> None:
        self._config = config
        self._active: list[Track] = []
        self._done: list[Track] = []
        self.several: list[Found] = []
        """Outlines of several people at once; they are in no track."""
        self.covered: list[Found] = []
        """Boxes of people before or behind others; they are in no track."""
        self.uncertain = 0
        """How often tracks were ended because they might have been exchanged."""

    def add(self, time: float, found: Sequence[Found]) -> None:
        """The people found in the frame of a time."""
        self._end([track for track in self._active if self._lost(track, time)])
        self._add_named([one for one in found if one.name is not None])
        free = self._apart(self._single(time, [one for one in found if one.name is None]))
        tracks = [track for track in self._active if track.last.name is None]
        costs = self._costs(time, tracks, free)
        rows, columns = scipy.optimize.linear_sum_assignment(costs)
        matched = {int(i): int(j) for i, j in zip(rows, columns, strict=True) if costs[i, j] < 1}
        doubtful = self._doubtful(costs, matched) | self._unknown(tracks, free, matched)
        self.uncertain += bool(doubtful)
        taken = set()
        for i, j in matched.items():
            if i not in doubtful:
                tracks[i].take(free[j])
                taken.add(j)
        self._meet(time, tracks, {tracks[i] for i in matched})
        self._end([tracks[i] for i in doubtful])
        self._active += [
            Track([one], colours=one.colours) for j, one in enumerate(free) if j not in taken
        ]

    def finish(self) -> list[Track]:
        """All tracks, in the order in which they begin."""
        self._end(self._active)
        return sorted(self._done, key=lambda track: track.founds[0].index)

    def _lost(self, track: Track, time: float) -> bool:
        """Whether somebody will not come back; behind another one may stay longer."""
        patience = self._config.max_gap_s * (2 if track.met else 1)
        return track.last.name is None and time - track.last.time > patience

    def _end(self, tracks: Sequence[Track]) -> None:
        self._done += tracks
        ended = set(tracks)
        self._active = [track for track in self._active if track not in ended]

    def _apart(self, found: Sequence[Found]) -> list[Found]:
        """Those whose boxes show one person rather than two."""
        kept: list[Found] = []
        for one in found:
            overlap = max((float(iou(one.box, o.box)) for o in found if o is not one), default=0.0)
            (self.covered if overlap > self._config.max_overlap else kept).append(one)
        return kept

    def _meet(self, time: float, tracks: Sequence[Track], seen: set[Track]) -> None:
        """Note who was lost from sight where another is."""
        for one, other in itertools.combinations(tracks, 2):
            if one in seen and other in seen:
                continue
            if iou(one.expected(time), other.expected(time)) > _MET:
                one.met.add(other)
                other.met.add(one)

    def _unknown(
        self, tracks: Sequence[Track], found: Sequence[Found], matched: Mapping[int, int]
    ) -> set[int]:
        """Tracks that have met and cannot be told apart by what they were given; others part."""
        place = {track: i for i, track in enumerate(tracks)}
        unknown = set()
        for i, j in matched.items():
            for other in list(tracks[i].met):
                k = place.get(other)
                theirs = None if k is None else matched.get(k)
                gain = _unlike(other.colours, found[j].colours) - _unlike(
                    tracks[i].colours, found[j].colours
                )
                if theirs is not None:
                    gain += _unlike(tracks[i].colours, found[theirs].colours)
                    gain -= _unlike(other.colours, found[theirs].colours)
                if gain < self._config.sure_by:
                    unknown |= {i} if k is None else {i, k}
                elif k is None or theirs is not None:
                    tracks[i].met.discard(other)
                    other.met.discard(tracks[i])
        return unknown

    def _add_named(self, found: Sequence[Found]) -> None:
        """A file's own names of tracks are believed."""
        known = {track.last.name: track for track in self._active}
        for one in found:
            if one.name in known:
                known[one.name].take(one)
            else:
                self._active.append(Track([one], colours=one.colours))

    def _single(self, time: float, found: Sequence[Found]) -> list[Found]:
        """Those that are not outlines of several people who were apart before."""
        if not found:
            return []
        sure = [track for track in self._active if len(track.founds) > 2 and track.last.outline]
        kept: list[Found] = []
        for one in found:
            size = float(area(one.box))
            covered = [
                track
                for track in sure
                if _covered(track.expected(time), one.box) > 0.6
                and size > _SPREAD * float(area(track.last.box))
            ]
            (self.several if one.outline and len(covered) > 1 else kept).append(one)
        return kept

    def _costs(self, time: float, tracks: Sequence[Track], found: Sequence[Found]) -> np.ndarray:
        """(tracks, found) 0..1 where they may go together, else _NEVER."""
        config = self._config
        costs: np.ndarray = np.full((len(tracks), len(found)), _NEVER)
        for i, track in enumerate(tracks):
            expected = track.expected(time)
            for j, one in enumerate(found):
                side = max(_longer(expected), _longer(one.box))
                move = float(np.linalg.norm(_middle(one.box) - _middle(expected))) / side
                growth = _longer(one.box) / max(_longer(expected), 1e-9)
                colour = _unlike(track.colours, one.colours)
                if (
                    move <= config.max_move
                    and 1 / config.max_growth <= growth <= config.max_growth
                    and colour <= config.max_colour
                ):
                    place = 0.5 * (1 - float(iou(expected, one.box))) + 0.5 * min(move, 1)
                    costs[i, j] = _PLACE * place + _COLOUR * colour
        return costs

    def _doubtful(self, costs: np.ndarray, matched: Mapping[int, int]) -> set[int]:
        """Tracks that fit about as well to what another got, or that another would have fitted."""
        doubtful = set()
        margin = self._config.sure_by
        for i, j in matched.items():
            for other in range(len(costs)):
                if other == i or costs[other, j] >= 1:
                    continue
                theirs = matched.get(other)
                if theirs is None:  # it lost its person to this track, or so it may be
                    if costs[other, j] - costs[i, j] < margin:
                        doubtful |= {i, other}
                elif costs[i, theirs] < 1:
                    exchanged = costs[i, theirs] + costs[other, j]
                    if exchanged - costs[i, j] - costs[other, theirs] < margin:
                        doubtful |= {i, other}
        return doubtful


def unlikely(track: Track, config: TrackConfig) -> str | None:
    """Why a finished track is no person worth keeping; None where it is one."""
    if len(track.founds) < config.min_track_frames:
        return f"the person is followed through {len(track.founds)} frames only"
    if max(one.moved for one in track.founds) < config.min_moved:
        return "what stands out from the background does not move: no person"
    if track.seconds < config.min_track_s:
        return f"the person is followed for {track.seconds:.2f} s only"
    return None


def _middle(box: np.ndarray) -> np.ndarray:
    return (box[:2] + box[2:]) / 2


def _longer(box: np.ndarray) -> float:
    return float((box[2:] - box[:2]).max())


def _covered(inner: np.ndarray, outer: np.ndarray) -> float:
    """Share of one box inside another."""
    low, high = np.maximum(inner[:2], outer[:2]), np.minimum(inner[2:], outer[2:])
    return float(area(np.concatenate([low, high])) / max(float(area(inner)), 1e-9))


def _unlike(a: np.ndarray | None, b: np.ndarray | None) -> float:
    """1 - what two histograms have in common; 0.3 where one is unknown."""
    return 0.3 if a is None or b is None else 1 - float(np.minimum(a, b).sum())
