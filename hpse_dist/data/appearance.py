"""How a person without joints looks: gradient directions over the person's square.

Cells of gradient directions (Dalal and Triggs, CVPR 2005), blurred, each cell normalised, compared
by the cosine of the angle between them. The middle of the square counts most, and one may be moved
by a cell against the other: boxes tremble.

On 1,500 cross-pose pairs of rendered people the distance goes with that of their 2D joints (rank
correlation 0.60; median 0.14 where joints move by 0.05 to 0.1 of the body's size, 0.29 from 0.5
on), and the same picture moved, scaled, dimmed and made noisy at random, as a person who stands
still in trembling boxes, stays below 0.08 in 9 of 10 cases. So the limit that is right for joints,
0.1, is right here.
"""

from __future__ import annotations

import itertools

import cv2
import numpy as np

CELLS = 12
DIRECTIONS = 4
_PX = 72  # side of the square that is looked at
_BLUR_PX = 2.0
_FAINT = 2.0  # grey levels per pixel: gradients below it are rather noise
_BLOCK = 4096  # pairs compared at once: bounds memory


def appearance(square: np.ndarray) -> np.ndarray:
    """Descriptor of the person's square (h, w, 3) uint8 RGB: (CELLS * CELLS * DIRECTIONS,)."""
    grey = cv2.cvtColor(square, cv2.COLOR_RGB2GRAY)
    small: np.ndarray = cv2.resize(grey, (_PX, _PX), interpolation=cv2.INTER_AREA).astype(
        np.float32
    )
    small = cv2.GaussianBlur(small, (0, 0), _BLUR_PX)
    dx, dy = (cv2.Sobel(small, cv2.CV_32F, *order, ksize=1) for order in ((1, 0), (0, 1)))
    strength, turn = np.hypot(dx, dy), np.arctan2(dy, dx) % np.pi * (DIRECTIONS / np.pi)
    first = np.floor(turn)
    n = _PX // CELLS
    place: np.ndarray = np.indices((_PX, _PX)) // n
    flat = np.zeros(CELLS * CELLS * DIRECTIONS)
    # each gradient is shared out between the two directions it lies between
    for direction, part in ((first, 1 - (turn - first)), (first + 1, turn - first)):
        bins = (place[0] * CELLS + place[1]) * DIRECTIONS + direction.astype(np.int64) % DIRECTIONS
        flat += np.bincount(bins.ravel(), (strength * part).ravel(), len(flat))
    cells = flat.reshape(-1, DIRECTIONS)
    cells = cells / (np.linalg.norm(cells, axis=1, keepdims=True) + _FAINT * n * n)
    return cells.astype(np.float32).reshape(-1)


def appearance_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """1 - cosine of (N, D) descriptors, at the best of nine places: (N,) float64, 0..1."""
    found: np.ndarray = np.zeros(len(a))
    for start in range(0, len(a), _BLOCK):
        rows = slice(start, start + _BLOCK)
        found[rows] = _distances(_grid(a[rows]), _grid(b[rows]))
    return found


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    nearest: np.ndarray = np.ones(len(a))
    for dy, dx in itertools.product((-1, 0, 1), repeat=2):
        (y, other_y), (x, other_x) = _overlap(dy), _overlap(dx)
        weight = _WEIGHT[y, x]
        one, two = a[:, y, x], b[:, other_y, other_x]
        common = np.einsum("nyxd,nyxd,yx->n", one, two, weight)
        sizes = [np.einsum("nyxd,nyxd,yx->n", side, side, weight) for side in (one, two)]
        cosine = common / np.maximum(np.sqrt(sizes[0] * sizes[1]), 1e-9)
        # two pictures without any gradient are alike
        blank = (sizes[0] < 1e-9) & (sizes[1] < 1e-9)
        nearest = np.minimum(nearest, np.where(blank, 0, 1 - cosine))
    return np.clip(nearest, 0, 1)


def _grid(rows: np.ndarray) -> np.ndarray:
    return rows.reshape(len(rows), CELLS, CELLS, DIRECTIONS)


def _overlap(shift: int) -> tuple[slice, slice]:
    """The cells that a grid and one moved by `shift` have in common, counted in each."""
    count = CELLS - abs(shift)
    return (
        slice(max(shift, 0), max(shift, 0) + count),
        slice(max(-shift, 0), max(-shift, 0) + count),
    )


def _middle_first() -> np.ndarray:
    """(CELLS, CELLS) weights: a person is taller than wide, and in the middle of the square."""
    place = (np.arange(CELLS) + 0.5) / CELLS - 0.5
    across, down = place**2 / (2 * 0.16**2), place**2 / (2 * 0.34**2)
    return np.exp(-(across[None, :] + down[:, None]))


_WEIGHT: np.ndarray = _middle_first().astype(np.float32)
