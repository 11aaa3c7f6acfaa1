"""Pictures of made-up hands: a dot where each joint is seen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image


def hand(seed: int, count: int = 21) -> np.ndarray:
    """(count, 3) metres around the origin, a hand's size."""
    return np.random.default_rng(seed).uniform(-0.08, 0.08, (count, 3))


def seen_by(intrinsics: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """(J, 2) pixels of (J, 3) before the camera, written out."""
    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]
    return np.array([[fx * x / z + cx, fy * y / z + cy] for x, y, z in joints])


def draw_dots(path: Path, size: tuple[int, int], places: np.ndarray) -> None:
    """A black picture of (width, height) with a white pixel at each place."""
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    for x, y in places:
        if 0 <= x < size[0] and 0 <= y < size[1]:
            picture[int(y), int(x)] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, format="PNG")  # exact, whatever the name


def assert_on_dots(path: Path, joints2d: np.ndarray) -> None:
    """Every shown joint is within a pixel of a dot, and every dot has one."""
    with Image.open(path) as file:
        rows, columns = np.nonzero(np.asarray(file)[..., 0] > 128)
    dots = np.column_stack([columns, rows]) + 0.5
    shown = joints2d[joints2d[:, 2] > 0, :2]
    assert len(shown)
    apart = np.abs(shown[:, None] - dots).max(axis=2)
    assert apart.min(axis=1).max() <= 1.0 and apart.min(axis=0).max() <= 1.0


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
