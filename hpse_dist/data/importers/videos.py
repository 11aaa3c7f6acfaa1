"""Anybody's videos, without annotation: every person followed through every shot.

    root/                any videos at any depth, in any container that OpenCV reads
      boxes.csv          where people are, if known: see `video_boxes`

Shots are found (`shots`); people are where a file of boxes says, or where a detector of torchvision
says (`detector`), or what moves where the camera stands still (`moving_people`), or is held in a
hand (`hand_held`); they are followed within a shot (`video_tracks`) and left out where they are
tiny, cut off, blurred or badly lit (`video_quality`).

Nobody is known by name: the same person may be in two tracks, so frames carry a track and no
subject, the video is the sequence, a shot is the camera, and videos stay in one split.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from hpse_dist.data.appearance import appearance
from hpse_dist.data.importers.detector import load_detector
from hpse_dist.data.importers.official import Bad
from hpse_dist.data.importers.shots import Change, Shot, ShotConfig, ShotFinder, shots_between
from hpse_dist.data.importers.video_boxes import Entry, GivenBoxes, read_boxes
from hpse_dist.data.importers.video_config import VideosConfig
from hpse_dist.data.importers.video_files import (
    VideoFile,
    find_files,
    frame_times,
    lacking,
    open_video,
)
from hpse_dist.data.importers.video_finders import Detected, Finder, Given, Moving, spread
from hpse_dist.data.importers.video_people import Found
from hpse_dist.data.importers.video_quality import fault, whole_side
from hpse_dist.data.importers.video_tracks import Track, Tracker, unlikely
from hpse_dist.records import FrameRecord, Provenance, Reject

log = logging.getLogger(__name__)
_AROUND = 1.25  # the square that appearance is measured in, over the person's longer side
_STEADY_S = 1.0  # over this time to both sides a person's size is taken as one


Config = VideosConfig


@dataclass(eq=False)
class _Account:
    """What came out of the videos so far."""

    videos: int = 0
    shots: int = 0
    tracks: int = 0
    frames: int = 0
    uncertain: int = 0
    rejects: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return (
            f"{self.videos} videos, {self.shots} shots, {self.tracks} people followed, "
            f"{self.frames} frames of them; {self.rejects.total()} left out"
            + (f"; {self.uncertain} times tracks ended for fear of a swap" * (self.uncertain > 0))
        )


@dataclass(eq=False)
class _Watched:
    """One shot: its frames that are looked at, and who was followed through them."""

    number: int
    indices: list[int]
    studied: list[int]
    tracks: list[Track] = field(default_factory=list)


def frames(config: VideosConfig) -> Iterator[FrameRecord | Reject]:
    """Every person of every video, in the order of time; ValueError for what a user did.

    Each video is decoded three times (four, where people are what moves), a frame at a time.
    """
    videos, account = _Videos(config), _Account()
    yield from videos.rejects
    yield from _several(videos, videos.usable, account)
    log.warning("%s: %s", config.root, account)


def in_parts(config: VideosConfig, size: int, processes: int = 0) -> VideoParts:
    """The same records, a video or several short ones in each part, for any process to read."""
    return VideoParts(config, size)


class VideoParts:
    """Videos that follow one another until they promise `size` frames of one person: a part.

    By headers alone, so that every process cuts alike. The first part tells of unusable files.
    """

    def __init__(self, config: VideosConfig, size: int) -> None:
        self._videos, self._parts = _Videos(config), list[list[VideoFile]]()
        room = 0.0
        for video in self._videos.usable:
            if room <= 0:
                self._parts.append([])
                room = size
            self._parts[-1].append(video)
            # a header that does not say its length may stand before any length
            room -= video.seconds / config.step_s if video.promised else size
        self.count = len(self._parts)

    def frames(self, number: int) -> Iterator[FrameRecord | Reject] | None:
        """A part's records; None after the last part."""
        return self._part(number) if number < self.count else None

    def _part(self, number: int) -> Iterator[FrameRecord | Reject]:
        if number == 0:
            yield from self._videos.rejects
        account = _Account()
        yield from _several(self._videos, self._parts[number], account)
        names = [one.name for one in self._parts[number]]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        log.warning("%s%s: %s", ", ".join(names[:3]), more, account)

    def close(self) -> None:
        """Nothing goes on between parts."""


def provenance(config: VideosConfig) -> Provenance:
    """What the folder holds, by the videos' headers."""
    videos = _Videos(config)
    about = {
        video.name: {"frames_per_s": round(video.rate, 3), "frames_promised": video.promised}
        for video in videos.usable
    }
    found_by = f"detector {config.detector}" if config.detector else "moving foreground"
    details = {"videos": about, "boxes": str(config.boxes) if config.boxes else found_by}
    return Provenance("videos", config.licence, config.commercial, config.citation, None, details)


class _Videos:
    """The folder's videos, and how people are found in them."""

    def __init__(self, config: VideosConfig) -> None:
        self.config = config
        given = [config.root / path for path in (config.boxes, config.detector) if path]
        self.usable: list[VideoFile] = []
        self.rejects: list[Reject] = []
        for path in find_files(config.root, given):
            name = path.relative_to(config.root).as_posix()
            try:
                self.usable.append(open_video(path, name))
            except (Bad, OSError) as reason:
                self.rejects.append(Reject(name, str(reason)))
        if not self.usable:
            some = "; ".join(f"{one.source}: {one.reason}" for one in self.rejects[:3])
            raise ValueError(f"{config.root}: no video that can be read ({some or 'no file'})")
        self._entries: dict[str, list[Entry]] = {}
        if config.boxes is not None:
            names = [video.name for video in self.usable]
            self._entries = read_boxes(config.root / config.boxes, names)

    @cached_property
    def _detector(self) -> Any:
        """Loaded when the first video is read, by the process that reads it."""
        config = self.config
        assert config.detector is not None
        return load_detector(config.root / config.detector, config.detector_score)

    def finder(
        self, video: VideoFile, times: np.ndarray, shots: Sequence[Shot]
    ) -> tuple[Finder, list[Reject]]:
        """How people are found in one video, and boxes of it that are nowhere."""
        config = self.config
        if config.boxes is not None:
            entries = self._entries.get(video.name, [])
            boxes = GivenBoxes(entries, times, shots, config.interpolate_s)
            reason = f"a box is given, but the video has {len(times)} frames"
            rejects = [Reject(f"{video.name}, {where}", reason) for where in boxes.beyond]
            if not entries:
                rejects.append(Reject(video.name, "no box of this video is given"))
            return Given(boxes), rejects
        if config.detector is not None:
            return Detected(self._detector), []
        return Moving(config.foreground, config.quality.min_side_px, config.hand_held), []


def _several(
    videos: _Videos, some: Sequence[VideoFile], account: _Account
) -> Iterator[FrameRecord | Reject]:
    """Some of the videos, one after the other."""
    # a video is read through for its shots, then for its people
    total = round(2 * sum(video.seconds for video in some))
    with tqdm(total=total, desc="seconds of video", unit="s", disable=None, leave=False) as bar:
        for video in some:
            for record in _one_video(video, videos.finder, videos.config, account, bar):
                if isinstance(record, Reject):
                    account.rejects[record.reason] += 1
                else:
                    account.frames += 1
                yield record
            account.videos += 1
            bar.set_postfix_str(str(account), refresh=False)


def _one_video(
    video: VideoFile, choose: Any, config: VideosConfig, account: _Account, bar: Any
) -> Iterator[FrameRecord | Reject]:
    """Shots first; then shot by shot people are found, followed, and handed out."""
    times, changes = _scan(video, config.shots, bar)
    if len(times) == 0:
        yield Reject(video.name, "the video has no frame that can be decoded")
        return
    missing = lacking(video, len(times))
    if missing:
        yield Reject(video.name, missing)
    shots = shots_between(changes, times, config.min_shot_s)
    finder, rejects = choose(video, times, shots)
    yield from rejects
    yield from _between(video, shots, len(times))
    watched = [
        _Watched(number, finder.frames(shot, times, config.step_s), finder.studied(shot, times))
        for number, shot in enumerate(shots, start=1)
    ]
    account.shots += len(watched)
    wanted = [index for shot in watched for index in shot.indices]
    # three readers of one file, each behind the other: a shot is looked through, then searched,
    # then handed out, and no picture is kept
    ahead = video.pictures([index for shot in watched for index in shot.studied])
    search, last = video.pictures(wanted), video.pictures(wanted)
    for shot in watched:
        if not shot.indices:  # no box is given in it
            continue
        refusal = finder.begin(islice(ahead, len(shot.studied)))
        if refusal:
            place = f"{video.name}, frames {shot.indices[0]} to {shot.indices[-1]}"
            yield Reject(place, refusal)
            for stream in (search, last):
                _skip(stream, len(shot.indices))
            continue
        pictures = islice(search, len(shot.indices))
        yield from _follow(video, shot, times, finder, pictures, config, account)
        yield from _hand_out(video, shot, islice(last, len(shot.indices)), config)
        account.tracks += len(shot.tracks)
        bar.update(round(float(times[shot.indices[-1]] - times[shot.indices[0]])))


def _scan(video: VideoFile, config: ShotConfig, bar: Any) -> tuple[np.ndarray, list[Change]]:
    """When each frame was taken, and where shots change."""
    finder, stamps = ShotFinder(config), []
    changes: list[Change] = []
    for index, (stamp, picture) in enumerate(video.decode()):
        stamps.append(stamp)
        if index % max(round(video.rate), 1) == 0:
            bar.update(1)
        # the rate's clock: stamps may turn out to be broken
        changes += finder.add(index, index / video.rate, picture)
    return frame_times(stamps, video.rate), [*changes, *finder.finish()]


def _between(video: VideoFile, shots: Sequence[Shot], count: int) -> Iterator[Reject]:
    """What lies between the shots."""
    starts = [0, *[shot.stop for shot in shots]]
    stops = [*[shot.start for shot in shots], count]
    for start, stop in zip(starts, stops, strict=True):
        if start < stop:
            place = f"{video.name}, frames {start} to {stop - 1}"
            yield Reject(place, "a dissolve, a fade or a shot too short")


def _skip(pictures: Iterator[np.ndarray], count: int) -> None:
    for _ in islice(pictures, count):
        pass


def _follow(
    video: VideoFile,
    shot: _Watched,
    times: np.ndarray,
    finder: Finder,
    pictures: Iterator[np.ndarray],
    config: VideosConfig,
    account: _Account,
) -> Iterator[Reject]:
    """Find and follow the shot's people; those in too short tracks are rejects."""
    tracker = Tracker(config.tracks)
    for index, picture in zip(shot.indices, pictures, strict=False):
        found = finder.find(index, float(times[index]), picture)
        tracker.add(float(times[index]), found)
        if not found:
            yield Reject(video.source(index), "nobody is found in the frame")
    for one in tracker.several:
        yield Reject(video.source(one.index), "an outline of several people at once")
    for one in tracker.covered:
        yield Reject(video.source(one.index), "another person is before or behind this one")
    for track in tracker.finish():
        reason = unlikely(track, config.tracks)
        if reason is None:
            shot.tracks.append(track)
            continue
        for one in track.founds:
            yield Reject(video.source(one.index), reason)
    account.uncertain += tracker.uncertain


def _hand_out(
    video: VideoFile, shot: _Watched, pictures: Iterator[np.ndarray], config: VideosConfig
) -> Iterator[FrameRecord | Reject]:
    """Frame by frame the people of a shot's tracks."""
    at: dict[int, list[tuple[str, Found, float, Track]]] = {}
    for number, track in enumerate(shot.tracks, start=1):
        who = track.last.name or f"person{number}"
        sides = [float((one.box[2:] - one.box[:2]).max()) for one in track.founds]
        steady = spread(sides, np.array([one.time for one in track.founds]), _STEADY_S)
        for one, side in zip(track.founds, steady, strict=True):
            name = f"{video.name}/shot{shot.number}/{who}"
            at.setdefault(one.index, []).append((name, one, float(side), track))
    whole: dict[str, float | None] = {}
    for index, picture in zip(shot.indices, pictures, strict=False):
        height, width = picture.shape[:2]
        image = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB) if index in at else picture
        for name, one, side, track in at.get(index, ()):
            if name not in whole:
                boxes = np.array([other.box for other in track.founds])
                whole[name] = whole_side(boxes, width, height)
            reason = fault(picture, one.box, whole[name], config.quality)
            if reason:
                yield Reject(video.source(index), reason)
                continue
            yield _record(video, shot, name, one, side, image, config)


def _record(
    video: VideoFile,
    shot: _Watched,
    track: str,
    found: Found,
    side: float,
    image: np.ndarray,
    config: VideosConfig,
) -> FrameRecord:
    height, width = image.shape[:2]
    x0, y0, x1, y1 = found.box.tolist()
    return FrameRecord(
        image=image,
        box=(x0, y0, x1, y1),
        subject="",
        sequence=video.name,
        camera=f"{video.name}/shot{shot.number}",
        time=found.time,
        source=video.source(found.index),
        track=track,
        mask=found.outline.mask(height, width) if found.outline else None,
        appearance=appearance(_square(image, found.box, _AROUND * side)),
        split=config.split,
    )


def _square(image: np.ndarray, box: np.ndarray, side: float) -> np.ndarray:
    """The square of a given side around a box's middle; beyond the picture its border goes on."""
    reach = max(round(side / 2), 1)
    x, y = ((box[:2] + box[2:]) / 2).round().astype(int)
    height, width = image.shape[:2]
    columns = np.clip(np.arange(x - reach, x + reach), 0, width - 1)
    rows = np.clip(np.arange(y - reach, y + reach), 0, height - 1)
    return image[rows[:, None], columns[None]]
