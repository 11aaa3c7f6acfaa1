"""People as what moves before a still camera: one background per shot, one outline per person.

The background and the silhouettes are those of `foreground`, which has several cameras agree; a
camera alone is believed here, so several people are several components, and whether the camera
stands still is measured first.
"""

from __future__ import annotations

import cv2
import numpy as np

from hpse_dist.data.importers.foreground import (
    Background,
    ForegroundConfig,
    difference,
    moving,
    without_specks,
)
from hpse_dist.data.importers.hull import grow
from hpse_dist.data.importers.rig_boxes import box_around
from hpse_dist.data.importers.video_people import Found, Outline, colours

_CORNERS = 300  # points that are followed through a shot
_APART_PX = 16  # at least so far from each other, so that a textured person has few of them
_FAINT = 0.001  # corners this much weaker than the strongest are followed too: walls are plain
_STILL_PX = 1.0  # of the shrunk picture: a point that moved less did not move
_STILL_SHARE = 0.3  # of the points do not move if the camera does not; many may be on people
_LIMB_SHARE, _LIMB_APART = 0.5, 0.15  # of a larger part's area and length: no person of its own
_LOST = 0.4  # share of points found again below which others are taken: the light has changed


class ShotMotion:
    """Whether the camera stands still during a shot, from corners followed through it."""

    def __init__(self) -> None:
        self._first: np.ndarray | None = None
        self._points: np.ndarray | None = None
        self._shares: list[float] = []

    def add(self, small: np.ndarray) -> None:
        """One more shrunk picture (h, w, 3)."""
        grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
        if self._first is None or self._points is None:
            self._take(grey)
            return
        guess = self._points.copy()
        there, found, _ = cv2.calcOpticalFlowPyrLK(self._first, grey, self._points, guess)
        back, again, _ = cv2.calcOpticalFlowPyrLK(grey, self._first, there, there.copy())
        sure = (found[:, 0] == 1) & (again[:, 0] == 1)
        sure &= np.linalg.norm((back - self._points)[:, 0], axis=1) < 1
        if sure.mean() < _LOST:
            # covered, or the light has changed, or the camera went elsewhere: as moved counts
            # what cannot be followed from one picture to the next either
            self._shares.append(0.0)
            self._take(grey)
            return
        way = np.linalg.norm((there - self._points)[sure, 0], axis=1)
        self._shares.append(float((way < _STILL_PX).mean()))

    def _take(self, grey: np.ndarray) -> None:
        points = cv2.goodFeaturesToTrack(grey, _CORNERS, _FAINT, _APART_PX)
        self._first, self._points = (grey, points) if points is not None else (None, None)

    def still(self) -> bool:
        """True also where nothing can be followed: a plain background shows no motion."""
        return not self._shares or float(np.quantile(self._shares, 0.1)) >= _STILL_SHARE


class ShotSamples:
    """Shrunk pictures spread over a shot of unknown length, with what moved in them."""

    def __init__(self, config: ForegroundConfig) -> None:
        self._config = config
        self._recent: list[np.ndarray] = []
        self._count, self._stride = 0, 1
        self.pictures: list[np.ndarray] = []
        self.motion: list[np.ndarray] = []

    def add(self, small: np.ndarray) -> None:
        """One more shrunk picture (h, w, 3); of a long shot every 2nd, 4th, 8th ... is kept."""
        self._recent = [*self._recent[-2:], small]
        if len(self._recent) < 3:
            return
        if self._count % self._stride == 0:
            before, now, after = self._recent
            self.pictures.append(now)
            self.motion.append(moving(before, now, after, self._config.motion_threshold))
        self._count += 1
        if len(self.pictures) > self._config.background_frames:
            self.pictures, self.motion = self.pictures[::2], self.motion[::2]
            self._stride *= 2


def learn_background(samples: ShotSamples, config: ForegroundConfig) -> Background | None:
    """What the still camera sees without people; None where too little is seen or nothing moves."""
    if len(samples.pictures) < 4:
        return None
    covers = np.stack([_cover(mask, config.work_px) for mask in samples.motion])
    if not covers.any():
        return None
    pictures = np.stack(samples.pictures)
    first = Background(pictures, covers, None)
    for n, picture in enumerate(pictures):
        _, surely = first.silhouettes(picture, config.threshold)
        covers[n] |= grow(surely & grow(covers[n], config.work_px / 16), config.work_px / 160)
    return Background(pictures, covers, first.colour)


def _cover(motion: np.ndarray, work_px: int) -> np.ndarray:
    """Where people may be, from what moves: the hulls of its parts, generously."""
    near: np.ndarray = grow(motion, work_px / 40).astype(np.uint8)
    cover: np.ndarray = np.zeros_like(near)
    contours, _ = cv2.findContours(near, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    for contour in contours:
        cv2.fillConvexPoly(cover, cv2.convexHull(contour), 1)
    return cover.astype(bool)


def moving_people(
    index: int,
    time: float,
    picture: np.ndarray,
    small: np.ndarray,
    before: np.ndarray | None,
    background: Background,
    config: ForegroundConfig,
    min_side_px: float,
) -> list[Found]:
    """Everyone who stands out from the background, with box and outline; small parts are not.

    `small` is the shrunk picture, `before` that of the frame looked at before.
    """
    change = None if before is None else difference(small, before) > config.motion_threshold
    _, surely = background.silhouettes(small, config.threshold)
    size = (picture.shape[1], picture.shape[0])
    people = []
    for mask in parts_of(surely, config.work_px):
        box = box_around(mask, size, config.margin)
        if box is None or max(box[2] - box[0], box[3] - box[1]) < min_side_px:
            continue
        shrunk = np.array(box) * (small.shape[1] / size[0])
        outline = Outline.of(mask)
        moved = 0.0 if change is None else float(change[mask].mean())
        tones = colours(small, shrunk, mask)
        people.append(Found(index, time, np.array(box), tones, outline=outline, moved=moved))
    return people


def parts_of(mask: np.ndarray, work_px: int) -> list[np.ndarray]:
    """Outlines that belong to different people, the largest first.

    A part much smaller than its neighbour and near it is the neighbour's: a leg below shorts that
    look like the wall behind them.
    """
    near: np.ndarray = grow(mask, work_px / 120).astype(np.uint8)
    count, labels = cv2.connectedComponents(near)
    parts = [without_specks(mask & (labels == label)) for label in range(1, count)]
    whole: list[np.ndarray] = []
    for part in sorted(parts, key=np.count_nonzero, reverse=True):
        if not part.any():
            continue
        for place, larger in enumerate(whole):
            reach = _LIMB_APART * max(_extent(larger))
            if part.sum() < _LIMB_SHARE * larger.sum() and (grow(larger, reach) & part).any():
                whole[place] = larger | part
                break
        else:
            whole.append(part)
    return whole


def _extent(mask: np.ndarray) -> tuple[int, int]:
    """Height and width of what is in a mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)
