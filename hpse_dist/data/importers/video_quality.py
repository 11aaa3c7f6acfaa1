"""Which people of a video are worth keeping: size, sharpness, light, and how much is in view."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from hpse_dist.geometry.boxes import area, clip

_LOOK_PX = 160  # longer side at which sharpness is measured, whatever the person's size
_AT_BORDER = 0.005  # share of the picture's longer side within which a box touches its border


@dataclass(frozen=True)
class QualityConfig:
    """What a person's picture must be, to be kept."""

    min_side_px: float = 100.0
    """Least longer side of a box, pixels: smaller people are too tiny."""
    min_visible: float = 0.7
    """Least share of a person inside the picture, by the box and by the rest of the track."""
    min_sharpness: float = 0.02
    """Least variance of the Laplacian over that of the brightness, at 160 pixels a person."""
    brightness: tuple[float, float] = (20.0, 235.0)
    """Mean grey level, 0..255, that a person has at least and at most."""
    min_contrast: float = 8.0
    """Least standard deviation of a person's grey levels."""

    def __post_init__(self) -> None:
        if self.min_side_px <= 0 or not 0 <= self.min_visible <= 1 or self.min_sharpness < 0:
            raise ValueError(
                "min_side_px must be above 0, min_visible in 0..1, min_sharpness 0 or more"
            )
        if not 0 <= self.brightness[0] < self.brightness[1] <= 255:
            raise ValueError(f"brightness must be two growing numbers, found {self.brightness}")


def whole_side(boxes: np.ndarray, width: int, height: int) -> float | None:
    """Longer side of a track's person when nothing is cut off: median of (N, 4) boxes off the
    border, or None where there are none."""
    free = ~np.array([_touches(box, width, height) for box in boxes], bool)
    if not free.any():
        return None
    return float(np.median((boxes[free, 2:] - boxes[free, :2]).max(axis=1)))


def fault(
    picture: np.ndarray, box: np.ndarray, whole: float | None, config: QualityConfig
) -> str | None:
    """Why a person (box, (H, W, 3) picture) is left out, or None.

    `whole`: the person's longer side elsewhere in the track, where all of it was seen.
    """
    height, width = picture.shape[:2]
    side = float((box[2:] - box[:2]).max())
    if side < config.min_side_px:
        return f"the person is tiny: {side:.0f} px, below {config.min_side_px:.0f}"
    visible = float(area(clip(box, width, height)) / max(float(area(box)), 1e-9))
    if whole is not None and _touches(box, width, height):
        visible = min(visible, side / whole)
    if visible < config.min_visible:
        return f"cut by the picture's border: {visible:.0%} of the person is in view"
    x0, y0, x1, y1 = clip(box, width, height).round().astype(int)
    grey = cv2.cvtColor(np.ascontiguousarray(picture[y0:y1, x0:x1]), cv2.COLOR_BGR2GRAY)
    mean, contrast = float(grey.mean()), float(grey.std())
    low, high = config.brightness
    if not low <= mean <= high:
        return f"too {'dark' if mean < low else 'bright'}: mean grey level {mean:.0f}"
    if contrast < config.min_contrast:
        return f"no contrast: standard deviation {contrast:.1f} of grey levels"
    sharp = sharpness(grey)
    if sharp < config.min_sharpness:
        return f"blurred: sharpness {sharp:.3f}, below {config.min_sharpness:g}"
    return None


def sharpness(grey: np.ndarray) -> float:
    """Variance of the Laplacian over the variance of the brightness, (h, w) uint8, at one size.

    So neither contrast nor the person's size counts, but what is blurred when shown so large.
    """
    scale = _LOOK_PX / max(grey.shape)
    size = (max(round(grey.shape[1] * scale), 1), max(round(grey.shape[0] * scale), 1))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    look: np.ndarray = cv2.resize(grey, size, interpolation=method).astype(np.float32)
    return float(cv2.Laplacian(look, cv2.CV_32F).var() / max(float(look.var()), 1.0))


def _touches(box: np.ndarray, width: int, height: int) -> bool:
    rim = _AT_BORDER * max(width, height)
    return bool((box[:2] <= rim).any() or box[2] >= width - rim or box[3] >= height - rim)
