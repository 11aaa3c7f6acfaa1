"""Boxes (..., 4) as x0, y0, x1, y1 in pixels, the far edges not included."""

from __future__ import annotations

import numpy as np


def square(box: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """The square with the box's middle and `scale` times its longer side."""
    box = np.asarray(box, dtype=np.float64)
    middle = (box[..., :2] + box[..., 2:]) / 2
    half = (box[..., 2:] - box[..., :2]).max(axis=-1, keepdims=True) * scale / 2
    return np.concatenate([middle - half, middle + half], axis=-1)


def clip(box: np.ndarray, width: int, height: int) -> np.ndarray:
    """The part of the box inside a picture; an outside box becomes an empty one on its border."""
    return np.clip(np.asarray(box, dtype=np.float64), 0, [width, height, width, height])


def area(box: np.ndarray) -> np.ndarray:
    """(...,) square pixels, 0 for an empty box."""
    box = np.asarray(box, dtype=np.float64)
    return np.clip(box[..., 2:] - box[..., :2], 0, None).prod(axis=-1)


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(...,) intersection over union of boxes that broadcast; 0 where both are empty."""
    first, second = np.broadcast_arrays(first, second)
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., 2:], second[..., 2:])
    common = area(np.concatenate([low, high], axis=-1))
    union = area(first) + area(second) - common
    return common / np.where(union > 0, union, 1)
