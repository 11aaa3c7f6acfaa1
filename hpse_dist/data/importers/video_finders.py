"""Three ways to find people in a video: boxes of a file, a detector, what moves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import cv2
import numpy as np

from hpse_dist.data.importers.detector import Detector
from hpse_dist.data.importers.foreground import Background, ForegroundConfig
from hpse_dist.data.importers.hand_held import SceneFlow, people_in_motion
from hpse_dist.data.importers.moving_people import (
    ShotMotion,
    ShotSamples,
    learn_background,
    moving_people,
)
from hpse_dist.data.importers.shots import Shot
from hpse_dist.data.importers.video_boxes import GivenBoxes
from hpse_dist.data.importers.video_people import Found, colours

_SLACK_S = 1e-6


class Finder(Protocol):
    """Finds people in the frames of one video, shot by shot."""

    def frames(self, shot: Shot, times: np.ndarray, step_s: float) -> list[int]:
        """Which of a shot's frames are looked at."""

    def studied(self, shot: Shot, times: np.ndarray) -> list[int]:
        """Which of a shot's frames `begin` wants to look through."""

    def begin(self, pictures: Iterable[np.ndarray]) -> str | None:
        """Look through a shot's frames (BGR); why nobody can be found in this shot, or None."""

    def find(self, index: int, time: float, picture: np.ndarray) -> list[Found]:
        """Who is in a frame of that shot."""


def every(candidates: Iterable[int], times: np.ndarray, step_s: float) -> list[int]:
    """Of growing frame numbers those at least `step_s` apart, the first included."""
    kept: list[int] = []
    for index in candidates:
        if not kept or times[index] - times[kept[-1]] >= step_s - _SLACK_S:
            kept.append(index)
    return kept


class Given:
    """People where a file says."""

    def __init__(self, boxes: GivenBoxes) -> None:
        self._boxes = boxes

    def frames(self, shot: Shot, times: np.ndarray, step_s: float) -> list[int]:
        given = [i for i in self._boxes.frames() if shot.start <= i < shot.stop]
        return every(given, times, step_s)

    def studied(self, shot: Shot, times: np.ndarray) -> list[int]:
        return []

    def begin(self, pictures: Iterable[np.ndarray]) -> str | None:
        return None

    def find(self, index: int, time: float, picture: np.ndarray) -> list[Found]:
        return [_coloured(one, picture) for one in self._boxes.find(index)]


class Detected:
    """People where a detector says."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector

    def frames(self, shot: Shot, times: np.ndarray, step_s: float) -> list[int]:
        return every(range(shot.start, shot.stop), times, step_s)

    def studied(self, shot: Shot, times: np.ndarray) -> list[int]:
        return []

    def begin(self, pictures: Iterable[np.ndarray]) -> str | None:
        return None

    def find(self, index: int, time: float, picture: np.ndarray) -> list[Found]:
        boxes = self._detector.people(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
        return [_coloured(Found(index, time, box), picture) for box in boxes]


class Moving:
    """People where something moves before a camera that stands still, or, roughly, is held."""

    def __init__(self, config: ForegroundConfig, min_side_px: float, hand_held: bool) -> None:
        self._config, self._min_side_px, self._hand_held = config, min_side_px, hand_held
        self._scene: SceneFlow | None = None
        self._background: Background | None = None
        self._before: np.ndarray | None = None

    def frames(self, shot: Shot, times: np.ndarray, step_s: float) -> list[int]:
        return every(range(shot.start, shot.stop), times, step_s)

    def studied(self, shot: Shot, times: np.ndarray) -> list[int]:
        return every(range(shot.start, shot.stop), times, self._config.motion_s)

    def begin(self, pictures: Iterable[np.ndarray]) -> str | None:
        motion, samples = ShotMotion(), ShotSamples(self._config)
        for picture in pictures:
            small = self._shrink(picture)
            motion.add(small)
            samples.add(small)
        self._background = self._before = self._scene = None
        if not motion.still():
            if self._hand_held:
                self._scene = SceneFlow()
                return None
            return (
                "the camera moves, and so does everything in the picture: give a file of boxes "
                "(source.boxes) or the weights of a detector (source.detector), or allow rough "
                "boxes (source.hand_held=true)"
            )
        self._background = learn_background(samples, self._config)
        if self._background is None:
            return "nothing moves before the still camera, or too few frames to tell"
        return None

    def find(self, index: int, time: float, picture: np.ndarray) -> list[Found]:
        small = self._shrink(picture)
        about = (self._config, self._min_side_px)
        if self._scene is not None:
            own = self._scene.add(small)
            return [] if own is None else people_in_motion(index, time, picture, own, *about)
        assert self._background is not None, "begin said that nobody can be found"
        found = moving_people(
            index,
            time,
            picture,
            small,
            self._before,
            self._background,
            *about,
        )
        self._before = small
        return found

    def _shrink(self, picture: np.ndarray) -> np.ndarray:
        height, width = picture.shape[:2]
        scale = min(self._config.work_px / max(height, width), 1.0)
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
        return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _coloured(found: Found, picture: np.ndarray) -> Found:
    if found.name is not None:  # who it is is known
        return found
    return Found(found.index, found.time, found.box, colours(picture, found.box))


def spread(values: Sequence[float], times: np.ndarray, reach_s: float) -> np.ndarray:
    """(n,) running median of values over a time of `reach_s` to both sides."""
    found: np.ndarray = np.array(values, np.float64)
    return np.array([np.median(found[np.abs(times - time) <= reach_s]) for time in times])
