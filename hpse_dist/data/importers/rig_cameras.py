"""Cameras of a rig: an Anipose or Pose2Sim calibration file, its lenses, and pictures that do not
quite have the calibration's size."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from hpse_dist.data.importers.official import MOST
from hpse_dist.geometry.camera import undistort_points
from hpse_dist.safety import one_line

SizeMismatch = Literal["auto", "scale", "letterbox", "crop"]
_MOST_PX = 65_535


@dataclass(frozen=True, eq=False)
class Camera:
    """One calibrated camera: pixels of a picture of `size`, world in metres.

    Pixels count as OpenCV counts them, from the middle of the first, but for `from_corner`.
    """

    name: str
    size: tuple[int, int]
    """Width and height of the pictures that the matrix is for."""
    matrix: np.ndarray
    """(3, 3) intrinsics in pixels."""
    distortions: np.ndarray
    """OpenCV's coefficients: 4, 5, 8, 12 or 14 of them, 4 for a fisheye lens."""
    rotation: np.ndarray
    """(3, 3) world to camera."""
    translation: np.ndarray
    """(3,) world to camera, metres."""
    fisheye: bool = False
    """Whether the distortions are those of OpenCV's fisheye model."""

    @property
    def projection(self) -> np.ndarray:
        """(3, 4) world to pixels of the undistorted picture."""
        return self.matrix @ np.column_stack([self.rotation, self.translation])

    @property
    def from_corner(self) -> np.ndarray:
        """(3, 3) intrinsics as records have them: pixels count from the picture's corner, so that
        the middle of the first is at 0.5."""
        return np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]]) @ self.matrix

    @cached_property
    def _maps(self) -> tuple[np.ndarray, np.ndarray]:
        """For every pixel of the undistorted picture its place (x, y) in the lens's picture."""
        start = cv2.fisheye.initUndistortRectifyMap if self.fisheye else cv2.initUndistortRectifyMap
        x, y = start(self.matrix, self.distortions, np.eye(3), self.matrix, self.size, cv2.CV_32FC1)
        return x, y

    @cached_property
    def largest_shift(self) -> float:
        """Pixels by which the lens moves the pixel that it moves most."""
        if not self.distortions.any():
            return 0.0
        x, y = self._maps
        columns, rows = np.arange(self.size[0]), np.arange(self.size[1])[:, None]
        return float(np.hypot(x - columns, y - rows).max())

    def straight(self, least_px: float) -> Camera:
        """This camera with a perfect lens, if the real one moves no pixel by `least_px`."""
        if self.largest_shift >= least_px:
            return self
        return replace(self, distortions=np.zeros(4))

    def undistort(self, picture: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 as a camera with the same matrix and a perfect lens would take it."""
        if not self.distortions.any():
            return picture
        return cv2.remap(picture, *self._maps, interpolation=cv2.INTER_LINEAR)

    def undistort_points(self, points: np.ndarray) -> np.ndarray:
        """Pixels (N, 2) of the lens's picture -> pixels of the undistorted one."""
        if not self.distortions.any():
            return points
        if self.fisheye:
            pixels: np.ndarray = points.reshape(-1, 1, 2).astype(np.float64)
            straight = cv2.fisheye.undistortPoints(
                pixels, self.matrix, self.distortions, P=self.matrix
            )
            return straight.reshape(-1, 2)
        return undistort_points(points, self.matrix, self.distortions)

    def scaled(self, width: int, height: int) -> Camera:
        """The camera of the same picture shrunk to another size; pixel centres at whole numbers."""
        sx, sy = width / self.size[0], height / self.size[1]
        shrink = np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]])
        return replace(self, size=(width, height), matrix=shrink @ self.matrix)


def read_calibration(path: Path, unit_m: float = 1.0) -> dict[str, Camera]:
    """The cameras of an Anipose or Pose2Sim TOML file by name; ValueError says what is wrong in it.

    unit_m: metres per unit of the file's translations.
    """
    try:
        sections = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such calibration file; set `calibration`") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read as TOML: {one_line(str(error))}") from None
    cameras: dict[str, Camera] = {}
    for section, values in sections.items():
        if section == "metadata" or not isinstance(values, dict):
            continue
        camera = camera_of(f"{path}, [{section}]", str(values.get("name", section)), values, unit_m)
        if camera.name in cameras:
            raise ValueError(f"{path}: two cameras are named {camera.name!r}; rename one")
        cameras[camera.name] = camera
    if not cameras:
        raise ValueError(
            f"{path}: no camera in it; each needs a section with size, matrix, distortions, "
            "rotation and translation"
        )
    return cameras


def camera_of(where: str, name: str, values: dict[str, Any], unit_m: float) -> Camera:
    """The camera with these values, named as in the TOML files; ValueError begins with `where`."""
    size = _numbers(where, values, "size", [(2,)])
    matrix = _numbers(where, values, "matrix", [(3, 3)])
    fisheye = bool(values.get("fisheye", False))
    counts = [4] if fisheye else [4, 5, 8, 12, 14]
    distortions = _numbers(where, values, "distortions", [(n,) for n in counts])
    turn = _numbers(where, values, "rotation", [(3,), (3, 3)])
    rotation = cv2.Rodrigues(turn)[0] if turn.shape == (3,) else turn
    translation = _numbers(where, values, "translation", [(3,)]) * unit_m
    if min(size) < 1 or min(matrix[0, 0], matrix[1, 1]) <= 0:
        raise ValueError(f"{where}: size and focal lengths must be above 0")
    if max(size) > _MOST_PX:
        raise ValueError(f"{where}: pictures are at most {_MOST_PX} px wide and high, found {size}")
    if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3) or np.linalg.det(rotation) < 0:
        raise ValueError(f"{where}: rotation is no rotation (its rows must be at right angles)")
    width, height = round(float(size[0])), round(float(size[1]))
    return Camera(name, (width, height), matrix, distortions, rotation, translation, fisheye)


def _numbers(
    where: str, values: dict[str, Any], key: str, shapes: list[tuple[int, ...]]
) -> np.ndarray:
    """values[key] as a float64 array of one of these shapes."""
    wanted = " or ".join(" x ".join(map(str, shape)) for shape in shapes)
    if key not in values:
        raise ValueError(f"{where}: {key!r} is missing; it needs {wanted} numbers")
    try:
        numbers = np.array(values[key], dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        numbers = np.array(np.nan)
    if numbers.shape not in shapes or not np.isfinite(numbers).all():
        found = " ".join(str(values[key]).split())
        raise ValueError(f"{where}: {key!r} needs {wanted} finite numbers, found {found[:200]}")
    if np.abs(numbers).max() > MOST:
        raise ValueError(f"{where}: {key!r} holds a number beyond all bounds, above {MOST:.0e}")
    return numbers


def black_bars(picture: np.ndarray) -> tuple[int, int, int, int]:
    """Columns left and right, rows above and below, that are black beside an (H, W, 3) picture."""
    light: np.ndarray = picture.astype(np.float32).mean(axis=2)
    black = 0.2 * light.mean()  # compression leaves a glow on a bar's edge
    columns = np.flatnonzero(light.mean(axis=0) > black)
    rows = np.flatnonzero(light.mean(axis=1) > black)
    if len(columns) == 0:
        return 0, 0, 0, 0
    height, width = light.shape
    return int(columns[0]), width - 1 - int(columns[-1]), int(rows[0]), height - 1 - int(rows[-1])


def fit_to_picture(
    camera: Camera, size: tuple[int, int], bars: tuple[int, int, int, int], how: SizeMismatch
) -> tuple[Camera, str]:
    """The camera for pictures of another (width, height) than it was calibrated for, and what was
    assumed, as words for the user (empty where the sizes agree).

    auto: the same shape means scaled; black bars that leave the calibration's shape mean scaled
    evenly and padded; else the picture must be smaller and counts as cut out of the middle.
    """
    if size == camera.size:
        return camera, ""
    width, height = size
    even = min(width / camera.size[0], height / camera.size[1])
    blank = width - even * camera.size[0], height - even * camera.size[1]
    if how == "auto":
        how = _guess(blank, bars, size, camera.size)
    if how == "scale":
        fitted = camera.scaled(width, height)
        words = "taken as scaled to fit"
    elif how == "letterbox":
        fitted = _moved(_even(camera, even), size, blank[0] / 2, blank[1] / 2)
        words = (
            f"taken as scaled evenly by {even:.4f} with black bars of {blank[0] / 2:.1f} px at the "
            f"sides and {blank[1] / 2:.1f} px above and below (bars found: {bars})"
        )
    else:
        left, top = (width - camera.size[0]) / 2, (height - camera.size[1]) / 2
        fitted = _moved(camera, size, left, top)
        words = (
            "taken as cut out of the middle, which the picture cannot prove: set `size_mismatch` "
            "to scale or letterbox if it was scaled"
        )
    known = f"{camera.size[0]} x {camera.size[1]}"
    return fitted, f"picture {width} x {height}, calibration {known}: {words}"


def _guess(
    blank: tuple[float, float],
    bars: tuple[int, int, int, int],
    size: tuple[int, int],
    calibrated: tuple[int, int],
) -> SizeMismatch:
    if max(blank) <= 1.0:
        return "scale"
    left, right, top, bottom = bars
    sides = [(left, blank[0]), (right, blank[0]), (top, blank[1]), (bottom, blank[1])]
    if all(abs(found - expected / 2) <= 2.0 for found, expected in sides):
        return "letterbox"
    if size[0] <= calibrated[0] and size[1] <= calibrated[1]:
        return "crop"
    raise ValueError(
        f"the picture is {size[0]} x {size[1]}, the calibration is for {calibrated[0]} x "
        f"{calibrated[1]}, and neither shape nor black bars tell how one became the other; set "
        "`size_mismatch` to scale, letterbox or crop"
    )


def _even(camera: Camera, scale: float) -> Camera:
    shift = (scale - 1) / 2
    shrink = np.array([[scale, 0, shift], [0, scale, shift], [0, 0, 1]])
    return replace(camera, matrix=shrink @ camera.matrix)


def _moved(camera: Camera, size: tuple[int, int], left: float, top: float) -> Camera:
    """The camera whose picture lies at (left, top) of a picture of another size."""
    move = np.array([[1, 0, left], [0, 1, top], [0, 0, 1]])
    return replace(camera, size=size, matrix=move @ camera.matrix)
