"""Labels of one hand or body from its joints before a camera."""

from __future__ import annotations

import numpy as np

from hpse_dist.data.importers.official import MOST, NEAR_M

Box = tuple[float, float, float, float]


def projected(joints: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """(J, 3) of the camera frame -> (J, 2) pixels."""
    seen = joints @ intrinsics.T
    return seen[:, :2] / np.where(seen[:, 2:] > 0, seen[:, 2:], np.nan)


def joint_labels(
    joints: np.ndarray, valid: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int]
) -> dict[str, np.ndarray]:
    """joints2d (J, 3) and joints3d (J, 4) of (J, 3) metres in the camera frame.

    valid (J,) bool; in the picture of (width, height) counts what is inside it and before the
    camera. ValueError where no joint is known, or one of them is behind the camera.
    """
    if not valid.any():
        raise ValueError("none of the joints is known")
    if (joints[valid, 2] < NEAR_M).any():
        raise ValueError("a joint is behind the camera")
    places = np.where(valid[:, None], projected(joints, intrinsics), 0.0).clip(-MOST, MOST)
    shown = valid & (places >= 0).all(axis=1) & (places < np.array(size)).all(axis=1)
    known = np.where(valid[:, None], joints, 0.0)
    return {
        "joints2d": np.column_stack([places, shown]).astype(np.float32),
        "joints3d": np.column_stack([known, valid]).astype(np.float32),
    }


def box_around(points: np.ndarray, margin: float) -> Box:
    """The box around (N, 2) points, wider on each side by `margin` of its longer side."""
    low, high = points.min(axis=0), points.max(axis=0)
    rim = margin * float((high - low).max())
    return (
        float(low[0]) - rim,
        float(low[1]) - rim,
        float(high[0]) + rim,
        float(high[1]) + rim,
    )
