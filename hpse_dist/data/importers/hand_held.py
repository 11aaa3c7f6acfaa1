"""People before a camera in somebody's hand: what moves otherwise than the scene behind.

The scene's motion between two pictures is a homography (it is far away, or the camera turns);
where optical flow (Kroeger et al., Fast Optical Flow using Dense Inverse Search, 2016) departs from
it, something moves by itself or stands out towards the camera. Boxes are rough, people who stand
still before what is far behind them are missed, and legs and ground may run into one another.
"""

from __future__ import annotations

import cv2
import numpy as np

from hpse_dist.data.importers.foreground import ForegroundConfig
from hpse_dist.data.importers.moving_people import parts_of
from hpse_dist.data.importers.rig_boxes import box_around
from hpse_dist.data.importers.video_people import Found, colours

_MOVES_PX = 1.3  # of the shrunk picture, against the scene, since the frame looked at before
_TIMES_USUAL = 3.0  # and so many times as much as the picture's median pixel
_UPRIGHT = (0.9, 5.0)  # height over width of people
_FILLED = 0.35  # of a box, at least, moves
_LARGEST = 0.5  # of the picture, at most, is one person


class SceneFlow:
    """Where a picture's motion departs from its scene's."""

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._before: list[np.ndarray] = []

    def add(self, small: np.ndarray) -> np.ndarray | None:
        """(h, w) float32 pixels of own motion in one more shrunk picture; None where unknown.

        Against the two pictures before it, as motion since the last.
        """
        grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
        found = [self._own(grey, before) for before in self._before]
        self._before = [grey, *self._before[:1]]
        own = [field / (n + 1) for n, field in enumerate(found) if field is not None]
        return np.maximum.reduce(own) if own else None

    def _own(self, grey: np.ndarray, before: np.ndarray) -> np.ndarray | None:
        height, width = grey.shape
        start = np.zeros((height, width, 2), np.float32)
        flow: np.ndarray = self._flow.calc(grey, before, start)
        corners = cv2.goodFeaturesToTrack(grey, 400, 0.001, 10)
        if corners is None or len(corners) < 20:
            return None
        at: np.ndarray = corners[:, 0].astype(int)
        there = corners[:, 0] + flow[at[:, 1], at[:, 0]]
        scene, _ = cv2.findHomography(corners[:, 0], there, cv2.RANSAC, 1.5)
        if scene is None:
            return None
        y, x = np.mgrid[:height, :width].astype(np.float32)
        grid = np.stack([x, y], axis=-1)
        moved = cv2.perspectiveTransform(grid.reshape(-1, 1, 2), scene).reshape(height, width, 2)
        return np.linalg.norm(grid + flow - moved, axis=2).astype(np.float32)


def people_in_motion(
    index: int,
    time: float,
    picture: np.ndarray,
    own: np.ndarray,
    config: ForegroundConfig,
    min_side_px: float,
) -> list[Found]:
    """Who moves against the scene, from (h, w) own motion; boxes without outlines."""
    limit = max(_MOVES_PX, _TIMES_USUAL * float(np.median(own)))
    size = (picture.shape[1], picture.shape[0])
    people = []
    for mask in parts_of(own > limit, config.work_px):
        box = box_around(mask, size, config.margin)
        if box is None:
            continue
        width, height = box[2] - box[0], box[3] - box[1]
        filled = float(mask.sum()) / (width * height) * (size[0] / own.shape[1]) ** 2
        if (
            max(width, height) >= min_side_px
            and _UPRIGHT[0] <= height / width <= _UPRIGHT[1]
            and filled >= _FILLED
            and width * height < _LARGEST * size[0] * size[1]
        ):
            found = np.array(box)
            people.append(Found(index, time, found, colours(picture, found)))
    return people
