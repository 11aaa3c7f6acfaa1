"""Who is in a video's pictures: one contract for boxes of a file, a detector, moving foreground."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import cv2
import numpy as np

_HUES = (12, 4, 4)  # histogram bins of hue, saturation, value


@dataclass(frozen=True, eq=False)
class Outline:
    """A person's mask in a shrunk picture, packed: a long shot has many of them."""

    corner: tuple[int, int]
    """x, y of its first column and row."""
    shape: tuple[int, int]
    """Rows and columns."""
    size: tuple[int, int]
    """Height and width of the shrunk picture."""
    packed: bytes

    @classmethod
    def of(cls, mask: np.ndarray) -> Outline:
        """From a bool mask (h, w) with something in it."""
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        packed = zlib.compress(np.packbits(part).tobytes(), 1)
        corner = (int(columns[0]), int(rows[0]))
        return cls(corner, (part.shape[0], part.shape[1]), (mask.shape[0], mask.shape[1]), packed)

    def mask(self, height: int, width: int) -> np.ndarray:
        """(height, width) bool in the picture's own size."""
        bits: np.ndarray = np.frombuffer(zlib.decompress(self.packed), np.uint8)
        rows, columns = self.shape
        small: np.ndarray = np.zeros(self.size, np.uint8)
        x, y = self.corner
        part = np.unpackbits(bits, count=rows * columns).reshape(rows, columns)
        small[y : y + rows, x : x + columns] = part * np.uint8(255)
        return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR) > 127


@dataclass(frozen=True, eq=False)
class Found:
    """One person in one frame."""

    index: int
    """The frame's number in its video."""
    time: float
    """Seconds since the video began."""
    box: np.ndarray
    """(4,) x0, y0, x1, y1 in pixels of the picture."""
    colours: np.ndarray | None = None
    """(bins,) histogram of the person's colours, sum 1."""
    name: str | None = None
    """Who it is, where a file of boxes says so."""
    outline: Outline | None = None
    moved: float = 1.0
    """Share of the outline that changed since the frame before; 1 where that is not measured."""


def colours(picture: np.ndarray, box: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Histogram of what is inside a box of a BGR picture, upper and lower half apart.

    Of the mask (h, w) bool where there is one, else of the box's middle.
    """
    height, width = picture.shape[:2]
    x0, y0, x1, y1 = box
    inset = 0 if mask is not None else 0.3 * (x1 - x0)
    left, right = np.clip([x0 + inset, x1 - inset], 0, width).round().astype(int)
    edges = np.clip([y0, (y0 + y1) / 2, y1], 0, height).round().astype(int)
    halves = []
    for top, bottom in ((edges[0], edges[1]), (edges[1], edges[2])):
        part = picture[top:bottom, left:right]
        if part.size == 0:
            halves.append(np.zeros(int(np.prod(_HUES))))
            continue
        tones = cv2.cvtColor(np.ascontiguousarray(part), cv2.COLOR_BGR2HSV)
        where: np.ndarray | None = (
            None if mask is None else mask[top:bottom, left:right].astype(np.uint8)
        )
        counts = cv2.calcHist([tones], [0, 1, 2], where, list(_HUES), [0, 180, 0, 256, 0, 256])
        halves.append(np.ravel(counts) / max(counts.sum(), 1.0))
    return np.concatenate(halves) / 2
