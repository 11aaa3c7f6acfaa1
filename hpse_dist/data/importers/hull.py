"""Visual hull: the points of space that every camera's silhouette agrees on (Laurentini 1994)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import scipy

COARSE_CELLS = 96  # cells along the side of the cube in which the person is looked for
MOST_CELLS = 20_000_000  # fine cells: 8 m x 8 m x 8 m at 3 cm, about 1 GB
Lattice = tuple[np.ndarray, tuple[int, int, int]]
Pixels = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class View:
    """One camera as the hull needs it."""

    projection: np.ndarray
    """(3, 4) world to pixels of the shrunk picture, pixel centres at whole numbers."""
    shape: tuple[int, int]
    """Height and width of the shrunk picture."""

    @cached_property
    def position(self) -> np.ndarray:
        """(3,) the camera's place in the world."""
        return -np.linalg.solve(self.projection[:, :3], self.projection[:, 3])

    @cached_property
    def axis(self) -> np.ndarray:
        """(3,) unit viewing direction."""
        axis = self.projection[2, :3] * np.sign(np.linalg.det(self.projection[:, :3]))
        return axis / np.linalg.norm(axis)

    def pixels(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Flat pixel index (N,) of each of (N, 3) points, and whether it is in the picture."""
        x, y, z = self.projection[:, :3] @ points.T + self.projection[:, 3:]
        ahead = z > 1e-6
        z = np.where(ahead, z, 1.0)
        height, width = self.shape
        # clipped before the cast: a point beside the camera lands beyond what int32 holds
        column = np.rint(np.clip(x / z, -1, width)).astype(np.int32)
        row = np.rint(np.clip(y / z, -1, height)).astype(np.int32)
        inside = ahead & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        return np.where(inside, row * width + column, 0), inside

    def scale_at(self, point: np.ndarray) -> float:
        """Pixels per metre at a point."""
        depth = abs(self.projection[2] @ np.append(point, 1.0))
        focal = np.linalg.norm(np.cross(self.projection[0, :3], self.projection[2, :3]))
        return float(focal / max(depth, 1e-6))


def grow(mask: np.ndarray, radius: float) -> np.ndarray:
    """A bool mask with everything within `radius` pixels of it."""
    if radius < 0.5 or not mask.any():
        return mask
    return cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 3) <= radius


def lattice(low: np.ndarray, high: np.ndarray, step: float) -> Lattice:
    """Middles (N, 3) of the cells of side `step` that fill a box, and their number per axis."""
    count = np.maximum(np.ceil((high - low) / step).astype(int), 1)
    axes = [low[i] + step * (np.arange(count[i]) + 0.5) for i in range(3)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return points, (int(count[0]), int(count[1]), int(count[2]))


def meeting_point(views: Sequence[View]) -> np.ndarray:
    """(3,) the point nearest to all viewing axes in the least-squares sense.

    Parallel axes meet nowhere; a weak pull to 3 m before the cameras keeps the answer finite.
    """
    weak = 1e-2
    matrix, target = np.zeros((3, 3)), np.zeros(3)
    for view in views:
        across = np.eye(3) - np.outer(view.axis, view.axis)
        matrix += across + weak * np.eye(3)
        target += across @ view.position + weak * (view.position + 3.0 * view.axis)
    return np.linalg.solve(matrix, target)


class Hull:
    """Carves silhouettes, coarse then fine, around the point that the cameras look at."""

    def __init__(self, views: Sequence[View]) -> None:
        self.views = list(views)
        middle = meeting_point(views)
        radius = max(float(np.linalg.norm(view.position - middle)) for view in views)
        self.radius = radius
        self.low, self.step = middle - radius, 2 * radius / COARSE_CELLS
        points, self.shape = lattice(self.low, middle + radius, self.step)
        pixels = [view.pixels(points) for view in views]
        # most of the cube is in too few pictures; nobody can be found there
        self.visible = np.flatnonzero(sum(inside for _, inside in pixels) >= _enough(len(views)))
        self.pixels = [(index[self.visible], inside[self.visible]) for index, inside in pixels]
        # half a cell's diagonal: a limb thinner than a cell still marks it
        self.margin = [0.87 * self.step * view.scale_at(middle) for view in views]

    def carve(
        self, masks: Sequence[np.ndarray], step: float, tolerance_px: float, misses: int = 0
    ) -> np.ndarray | None:
        """Middles (N, 3) of the largest connected set of cells inside the masks, or None.

        A cell outside a camera's picture is left to the others, of which there must be two, and
        all but one of the rig. `misses` cameras may see background where the others see the person.
        None also where the cells would be more than MOST_CELLS: no person is as large.
        """
        wide = [
            grow(mask, margin + tolerance_px)
            for mask, margin in zip(masks, self.margin, strict=True)
        ]
        cells: np.ndarray = np.zeros(self.shape, bool)
        cells.ravel()[self.visible] = _inside(wide, self.pixels, 0)
        coarse = _largest(cells)
        if coarse is None:
            return None
        place = np.argwhere(coarse)
        slack = 0.05 if misses == 0 else 0.3
        low = self.low + place.min(axis=0) * self.step - slack
        high = self.low + (place.max(axis=0) + 1) * self.step + slack
        if np.prod(np.ceil((high - low) / step)) > MOST_CELLS:
            return None
        points, shape = lattice(low, high, step)
        near = [grow(mask, tolerance_px) for mask in masks]
        pixels = [view.pixels(points) for view in self.views]
        fine = _largest(_inside(near, pixels, misses).reshape(shape))
        return None if fine is None else points[fine.ravel()]

    def shadow(self, points: np.ndarray, view: View, step: float) -> np.ndarray:
        """(h, w) bool, where cells of side `step` fall in a view."""
        index, inside = view.pixels(points)
        mask: np.ndarray = np.zeros(view.shape[0] * view.shape[1], bool)
        mask[index[inside]] = True
        if not mask.any():
            return mask.reshape(view.shape)
        radius = 0.6 * step * view.scale_at(points.mean(axis=0))
        return grow(mask.reshape(view.shape), radius)


def _inside(masks: Sequence[np.ndarray], pixels: Sequence[Pixels], misses: int) -> np.ndarray:
    """(N,) bool: seen by enough cameras, and inside the masks of all of those but `misses`."""
    seen: np.ndarray = np.zeros(len(pixels[0][0]), np.uint8)
    agreed = np.zeros_like(seen)
    for mask, (index, inside) in zip(masks, pixels, strict=True):
        seen += inside
        agreed += mask.ravel()[index] & inside
    enough = _enough(len(masks))
    return (seen >= enough) & (agreed + misses >= seen) & (agreed >= min(enough, 2))


def _enough(cameras: int) -> int:
    """How many of a rig's cameras must see a cell."""
    return max(2, cameras - 1)


def _largest(cells: np.ndarray) -> np.ndarray | None:
    """The largest connected set of True cells of an (X, Y, Z) array, or None."""
    if not cells.any():
        return None
    place = np.argwhere(cells)
    low, high = place.min(axis=0), place.max(axis=0) + 1
    part = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    labels, _ = scipy.ndimage.label(cells[part], np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    largest = np.zeros_like(cells)
    largest[part] = labels == sizes.argmax()
    return largest


def inner(points: np.ndarray, step: float, cells: int = 2) -> np.ndarray:
    """Those cell middles (N, 3) with `cells` neighbours on every side: where a hull is thick."""
    index = np.rint((points - points.min(axis=0)) / step).astype(int)
    grid = np.zeros(index.max(axis=0) + 1, bool)
    grid[tuple(index.T)] = True
    deep = scipy.ndimage.binary_erosion(grid, np.ones((3, 3, 3)), iterations=cells)
    return points[deep[tuple(index.T)]]
