"""Where a video's picture changes to that of another shot: hard cuts, dissolves and fades.

A hard cut: whatever frame before it is compared with whatever frame shortly after it, colours and
structure differ. So a flash is none (before and after it are alike), nor a pan (the frames beside
each other are alike). The limit grows with how much the video changes anyhow.

A dissolve or fade: all frames between two different ones are mixtures of the two (Lienhart,
Reliable Transition Detection in Videos, 2001), more and more of the second; a pan's frames are not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

_SIZE = (48, 27)  # width and height of what is looked at
_RIM = 6  # pixels by which the picture may have moved between two looks
_COLOURS = (8, 4, 4)  # histogram bins of hue, saturation, value
_SPANS_S = (2.0, 1.0, 0.5)  # lengths of what may hold one dissolve, the longest first
_SAME = 0.75  # correlation of structure that no cut leaves
_MIXED = (0.15, 0.85)  # shares of the second picture that make a mixture
_SETTLED_S, _SETTLED = 0.12, 0.975  # it is over when for so long so much is of the second picture


@dataclass(frozen=True)
class ShotConfig:
    """When a change is a cut."""

    change: float = 0.25
    """Difference of colours and structure, 0..1, that a cut has at least."""
    contrast: float = 3.0
    """How many times the usual difference between neighbouring frames a cut has at least."""
    flash_s: float = 0.2
    """What is over so soon is a flash, not a shot, seconds."""
    mixture: float = 0.12
    """Dissolves: share of a frame that may be no mixture of the two pictures, 0..1; 0 looks for
    none."""

    def __post_init__(self) -> None:
        if not 0 < self.change < 1 or self.contrast < 1 or not 0 < self.flash_s <= 1:
            raise ValueError("change must be in (0, 1), contrast 1 or more, flash_s in (0, 1]")
        if not 0 <= self.mixture < 1:
            raise ValueError(f"mixture must be in [0, 1), found {self.mixture}")


@dataclass(frozen=True)
class Change:
    """From one shot to the next: the last frame of the one and the first of the other."""

    last: int
    first: int


@dataclass(frozen=True)
class Shot:
    """Frames of one shot: first, and the one after its last."""

    start: int
    stop: int


def shots_between(changes: Sequence[Change], times: np.ndarray, shortest_s: float) -> list[Shot]:
    """The shots of a video whose frames were taken at `times` (n,); too short ones are left out,
    unless nothing ever changes.

    What lies between two shots is of neither: a dissolve, or a shot too short to be one.
    """
    starts = [0, *[change.first for change in changes]]
    stops = [*[change.last + 1 for change in changes], len(times)]
    return [
        Shot(start, stop)
        for start, stop in zip(starts, stops, strict=True)
        if stop > start and (not changes or times[stop - 1] - times[start] >= shortest_s)
    ]


@dataclass(frozen=True)
class _Look:
    """One small picture."""

    index: int
    time: float
    colours: np.ndarray
    """(bins,) shares."""
    grey: np.ndarray
    """(h, w) float32."""


class ShotFinder:
    """Takes a video's frames one by one and says where shots change; holds the last seconds."""

    def __init__(self, config: ShotConfig) -> None:
        self._config = config
        self._looks: deque[_Look] = deque()
        self._steps: deque[float] = deque(maxlen=48)  # differences of neighbouring frames
        self._undecided = 1  # from this frame on a cut may begin
        self._quiet_from = 0  # frames before are behind a change that was found

    def add(self, index: int, time: float, picture: np.ndarray) -> list[Change]:
        """One more frame (H, W, 3) uint8 BGR; the changes that it decides."""
        look = _look(index, time, picture)
        if self._looks:
            self._steps.append(difference(self._looks[-1], look))
        self._looks.append(look)
        while self._looks[0].time < time - 2 * max(_SPANS_S):
            self._looks.popleft()
        return self._decide(time - self._config.flash_s)

    def finish(self) -> list[Change]:
        """The changes among the last frames."""
        return self._decide(float("inf"))

    def _decide(self, until: float) -> list[Change]:
        """Changes at undecided frames up to that time: what follows them is known."""
        found = []
        looks = list(self._looks)
        for at, look in enumerate(looks):
            if look.index < self._undecided or look.time > until:
                continue
            self._undecided = look.index + 1
            if at == 0 or look.index <= self._quiet_from:
                continue
            change = self._cut(looks, at) or self._dissolve(looks, at)
            if change is not None:
                found.append(change)
                self._quiet_from = change.first
        return found

    def _cut(self, looks: list[_Look], at: int) -> Change | None:
        limit = max(
            self._config.change,
            self._config.contrast * float(np.median(self._steps)) if self._steps else 0.0,
        )
        if difference(looks[at - 1], looks[at]) < limit:
            return None
        reach = self._config.flash_s
        now = looks[at].time
        before = [
            look
            for look in looks[:at]
            if look.time >= looks[at - 1].time - reach and look.index >= self._quiet_from
        ]
        after = [look for look in looks[at:] if look.time <= now + reach]
        if min(difference(a, b) for a in before for b in after) < limit:
            return None
        return Change(looks[at - 1].index, looks[at].index)

    def _dissolve(self, looks: list[_Look], at: int) -> Change | None:
        """A change that ends at this frame or before it."""
        if self._config.mixture == 0:
            return None
        for span in _SPANS_S:
            inside = [
                look
                for look in looks[: at + 1]
                if look.time >= looks[at].time - span and look.index >= self._quiet_from
            ]
            # shorter than the span: too early in the shot
            if len(inside) < 5 or inside[-1].time - inside[0].time < 0.75 * span:
                continue
            if difference(inside[0], inside[-1]) < self._config.change:
                continue
            change = _mixtures(inside, self._config.mixture)
            if change is not None:
                return change
        return None


def _look(index: int, time: float, picture: np.ndarray) -> _Look:
    small = cv2.resize(picture, _SIZE, interpolation=cv2.INTER_AREA)
    tones = cv2.cvtColor(small, cv2.COLOR_BGR2HSV)
    ranges = [0, 180, 0, 256, 0, 256]
    colours = cv2.calcHist([tones], [0, 1, 2], None, list(_COLOURS), ranges)
    grey: np.ndarray = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(np.float32)
    return _Look(index, time, np.ravel(colours) / (_SIZE[0] * _SIZE[1]), grey)


def difference(a: _Look, b: _Look) -> float:
    """How much two small pictures differ, 0..1: in colours and in structure, wherever it moved."""
    colours = 0.5 * float(np.abs(a.colours - b.colours).sum())
    middle = a.grey[_RIM // 2 : -_RIM // 2, _RIM:-_RIM]
    if middle.std() < 2 or b.grey.std() < 2:  # a plain picture has no structure
        alike = float(middle.std() < 2 and b.grey.std() < 2)
    else:
        alike = float(cv2.matchTemplate(b.grey, middle, cv2.TM_CCOEFF_NORMED).max())
    # a light that goes on or off leaves the structure
    return 0.0 if alike > _SAME else float(np.sqrt(colours * (1 - max(alike, 0))))


def _mixtures(looks: list[_Look], most: float) -> Change | None:
    """The change if all pictures between the first and the last are mixtures of the two."""
    stack = np.stack([look.grey for look in looks]).reshape(len(looks), -1).astype(np.float64)
    way = stack[-1] - stack[0]
    length = float(way @ way)
    share = (stack - stack[0]) @ way / max(length, 1e-9)
    times = np.array([look.time for look in looks])
    if share[times > times[-1] - _SETTLED_S].mean() < _SETTLED:  # it still goes on
        return None
    mixed = (share > _MIXED[0]) & (share < _MIXED[1])
    if mixed.sum() < 3 or np.corrcoef(share, np.arange(len(share)))[0, 1] < 0.95:
        return None
    rest = stack[mixed] - stack[0] - share[mixed, None] * way
    if (rest**2).sum() > most * mixed.sum() * length:
        return None
    last = int(np.flatnonzero(share < _MIXED[0]).max(initial=0))
    first = int(np.flatnonzero(share > _MIXED[1])[0])
    rim = (first - last) // 4  # what has less than its share of the one still has some
    return Change(looks[max(last - rim, 0)].index, looks[min(first + rim, len(looks) - 1)].index)
