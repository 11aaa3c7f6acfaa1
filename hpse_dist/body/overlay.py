"""A shaded mesh drawn over a picture: a small z-buffer in numpy, for panels and reports."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

NEAREST = 0.05  # metres: faces reaching closer to the camera, or behind it, are left out
_CHUNK = 2_000_000  # candidate pixels looked at together; bounds the memory


class Raster(NamedTuple):
    """What each pixel sees."""

    face: np.ndarray  # (H, W) int64, -1 where nothing is
    corners: np.ndarray  # (H, W, 3) barycentric weights on that face
    depth: np.ndarray  # (H, W) metres along z, infinite where nothing is


def draw_mesh(
    image: np.ndarray,
    vertices: np.ndarray,
    faces: np.ndarray,
    intrinsics: np.ndarray,
    *,
    colour: tuple[int, int, int] = (166, 198, 224),
    opacity: float = 0.95,
    supersample: int = 2,
) -> np.ndarray:
    """A copy of the picture (H, W, 3) uint8 with the mesh over it.

    vertices (V, 3): metres in the camera frame (x right, y down, z forward); faces (F, 3).
    intrinsics (3, 3): pixels of this picture, whose top left pixel covers 0..1.
    supersample: samples per pixel and side, for smooth outlines.
    """
    height, width = image.shape[:2]
    finer = np.diag([supersample, supersample, 1.0]) @ intrinsics
    raster = rasterise(vertices, faces, finer, (height * supersample, width * supersample))
    seen = raster.face >= 0
    light = np.zeros(seen.shape)
    corner_light = _light(vertices, faces)[faces[raster.face[seen]]]
    light[seen] = (corner_light * raster.corners[seen]).sum(axis=-1)
    blocks = (height, supersample, width, supersample)
    cover = seen.reshape(blocks).mean(axis=(1, 3))[..., None]
    paint = light.reshape(blocks).mean(axis=(1, 3))[..., None] * np.array(colour)  # times cover
    drawn = image * (1 - opacity * cover) + opacity * paint
    return np.clip(np.rint(drawn), 0, 255).astype(np.uint8)


def rasterise(
    vertices: np.ndarray, faces: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int]
) -> Raster:
    """The nearest face at the centre of each pixel of a (H, W) picture; else as `draw_mesh`.

    Faces of like size on the screen are handled together, so that all is a few array operations.
    """
    height, width = size
    depth: np.ndarray = vertices[:, 2].astype(np.float64)
    before_camera = np.flatnonzero((depth[faces] > NEAREST).all(axis=1))
    safe_depth = np.maximum(depth, NEAREST)
    screen = (vertices @ intrinsics.T)[:, :2] / safe_depth[:, None]
    corners = screen[faces[before_camera]]  # (F, 3, 2)
    nearness = 1 / safe_depth[faces[before_camera]]
    # First, and one past the last, pixel whose centre (at + 0.5) can lie inside.
    limit = (width, height)
    first = np.clip(np.ceil(corners.min(axis=1) - 0.5), 0, limit).astype(np.int64)
    last = np.clip(np.floor(corners.max(axis=1) - 0.5) + 1, 0, limit).astype(np.int64)
    extent = (last - first).max(axis=1)
    extent[((last - first) <= 0).any(axis=1)] = 0
    found: list[tuple[np.ndarray, ...]] = []
    side = 1
    while side < 2 * max(height, width):
        group = np.flatnonzero((extent <= side) & (extent > side // 2))
        for part in np.array_split(group, len(group) * side * side // _CHUNK + 1):
            pixels = first[part], last[part], side
            triangle, x, y, weights = _inside(corners[part], *pixels)
            # Weights on the screen become weights on the face by perspective division.
            weights = weights * nearness[part][triangle]
            near = weights.sum(axis=-1)
            weights = weights / near[:, None]
            found.append((y * width + x, before_camera[part][triangle], weights, near))
        side *= 2
    return _nearest(found, height, width)


def _inside(
    corners: np.ndarray, first: np.ndarray, last: np.ndarray, side: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pixels inside n triangles (n, 3, 2): (triangle, x, y, weights on the screen), one per hit.

    Each triangle is tried on the `side` x `side` pixels from `first` on, up to its `last`.
    """
    grid = np.arange(side)
    x = first[:, 0, None, None] + grid[None, None, :]
    y = first[:, 1, None, None] + grid[None, :, None]
    (ax, ay), (bx, by), (cx, cy) = (
        (corners[:, k, 0, None, None] - x - 0.5, corners[:, k, 1, None, None] - y - 0.5)
        for k in range(3)
    )  # the corners seen from the pixel's centre
    areas = [bx * cy - cx * by, cx * ay - ax * cy, ax * by - bx * ay]
    area = areas[0] + areas[1] + areas[2]
    area = np.where(area == 0, np.nan, area)  # seen edge on: covers nothing, as nan >= 0 is False
    inside = (x < last[:, 0, None, None]) & (y < last[:, 1, None, None])
    for part in areas:
        # The tolerance closes gaps where the edge of two faces runs through a pixel's centre.
        inside &= part / area >= -1e-9
    triangle, row, column = np.nonzero(inside)
    weights = np.stack([(part / area)[inside] for part in areas], axis=-1)
    return triangle, first[triangle, 0] + column, first[triangle, 1] + row, weights


def _nearest(found: list[tuple[np.ndarray, ...]], height: int, width: int) -> Raster:
    """Keep of all hits (pixel, face, weights, nearness) the nearest for each pixel."""
    pixel, face, weights, near = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.argsort(near, kind="stable")  # of several writes to a pixel the last one stays
    raster = Raster(
        np.full((height, width), -1, dtype=np.int64),
        np.zeros((height, width, 3)),
        np.full((height, width), np.inf),
    )
    raster.face.reshape(-1)[pixel[order]] = face[order]
    raster.corners.reshape(-1, 3)[pixel[order]] = weights[order]
    raster.depth.reshape(-1)[pixel[order]] = 1 / near[order]
    return raster


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(V, 3) unit normals, each the mean of its faces' by area; zero where no face is."""
    a, b, c = (vertices[faces[:, corner]].astype(np.float64) for corner in range(3))
    of_corner = np.repeat(np.cross(b - a, c - a), 3, axis=0)
    total = np.stack(
        [np.bincount(faces.ravel(), of_corner[:, k], minlength=len(vertices)) for k in range(3)],
        axis=1,
    )
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)


def _light(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(V,) brightness 0..1: some from everywhere, most from a lamp up and left of the camera."""
    to_lamp = np.array([-0.35, -0.5, -1.0])
    to_lamp /= np.linalg.norm(to_lamp)
    return 0.3 + 0.7 * np.clip(vertex_normals(vertices, faces) @ to_lamp, 0, 1)
