"""A shaded mesh drawn over a picture: a small z-buffer rasteriser in numpy, for panels and reports."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]
Picture = NDArray[np.uint8]

NEAREST = 0.05  # metres: faces reaching closer to the camera, or behind it, are left out
_CHUNK = 2_000_000  # candidate pixels looked at together, which bounds the memory


class Raster(NamedTuple):
    """What each pixel sees: `face` (H, W) index or -1, `corners` (H, W, 3) barycentric weights, `depth` (H, W) metres."""

    face: NDArray[np.int64]
    corners: NDArray[np.float64]
    depth: NDArray[np.float64]


def draw_mesh(
    image: Picture,
    vertices: Floats,
    faces: Integers,
    intrinsics: Floats,
    *,
    colour: tuple[int, int, int] = (166, 198, 224),
    opacity: float = 0.95,
    supersample: int = 2,
) -> Picture:
    """The picture (H, W, 3) with the mesh over it, lit from beside the camera.

    vertices: (V, 3) metres in the camera frame (x right, y down, z forward); faces: (F, 3); intrinsics: (3, 3) pixels of
    this picture, whose top left pixel covers 0..1. supersample: rays per pixel side, for smooth outlines.
    """
    height, width = image.shape[:2]
    scale = np.diag([supersample, supersample, 1.0])
    raster = rasterise(vertices, faces, scale @ intrinsics, (height * supersample, width * supersample))
    shade = _brightness(vertices, faces)
    seen = raster.face >= 0
    lit = np.zeros(seen.shape)
    lit[seen] = (shade[faces[raster.face[seen]]] * raster.corners[seen]).sum(axis=-1)
    blocks = (height, supersample, width, supersample)
    cover = seen.reshape(blocks).mean(axis=(1, 3))[..., None] * opacity
    light = lit.reshape(blocks).mean(axis=(1, 3))[..., None] * opacity  # already weighted by the cover
    drawn = image * (1 - cover) + light * np.array(colour, dtype=np.float64)
    return np.clip(np.rint(drawn), 0, 255).astype(np.uint8)


def rasterise(vertices: Floats, faces: Integers, intrinsics: Floats, size: tuple[int, int]) -> Raster:
    """Nearest face at the centre of every pixel of a picture of `size` (H, W); arguments as for `draw_mesh`.

    Faces are handled in groups of like size on the screen, so that everything is a few large array operations.
    """
    height, width = size
    depth = vertices[:, 2].astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        screen = (vertices @ intrinsics.T)[:, :2] / depth[:, None]
    usable = np.flatnonzero((depth[faces] > NEAREST).all(axis=1))
    corners = screen[faces[usable]]  # (F, 3, 2)
    # First and one past the last pixel whose centre (at + 0.5) can lie inside.
    first = np.clip(np.ceil(corners.min(axis=1) - 0.5), 0, (width, height)).astype(np.int64)
    last = np.clip(np.floor(corners.max(axis=1) - 0.5) + 1, 0, (width, height)).astype(np.int64)
    extent = (last - first).max(axis=1)
    on_screen = ((last - first) > 0).all(axis=1)
    hits: list[tuple[NDArray[Any], ...]] = []
    side = 1
    while side < 2 * max(height, width):
        group = np.flatnonzero(on_screen & (extent <= side) & (extent > side // 2))
        for part in np.array_split(group, len(group) * side * side // _CHUNK + 1):
            if len(part):
                hits.append(_hits(corners[part], first[part], last[part], side, usable[part], 1 / depth[faces[usable[part]]]))
        side *= 2
    return _nearest(hits, height, width)


def _hits(
    corners: Floats, first: Integers, last: Integers, side: int, face: Integers, inverse_depth: Floats
) -> tuple[NDArray[Any], ...]:
    """Pixels inside each of n triangles no larger than `side`: (x, y, face, weights, inverse depth), one entry per hit."""
    grid = np.arange(side)
    x = first[:, 0, None, None] + grid[None, None, :]
    y = first[:, 1, None, None] + grid[None, :, None]
    a, b, c = (corners[:, k, :, None, None] for k in range(3))
    px, py = x + 0.5, y + 0.5
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (c[:, 0] - a[:, 0]) * (b[:, 1] - a[:, 1])
    area = np.where(area == 0, np.nan, area)  # a triangle seen edge on covers nothing: comparisons with nan are False
    wa = ((b[:, 0] - px) * (c[:, 1] - py) - (c[:, 0] - px) * (b[:, 1] - py)) / area
    wb = ((c[:, 0] - px) * (a[:, 1] - py) - (a[:, 0] - px) * (c[:, 1] - py)) / area
    wc = 1 - wa - wb
    # The tolerance closes hairline gaps between neighbours that share an edge through a pixel's centre.
    inside = (wa >= -1e-9) & (wb >= -1e-9) & (wc >= -1e-9)
    inside &= (x < last[:, 0, None, None]) & (y < last[:, 1, None, None])
    triangle, row, column = np.nonzero(inside)
    on_screen = np.stack([wa[inside], wb[inside], wc[inside]], axis=-1)
    # Weights on the screen become weights on the face by perspective division.
    on_face = on_screen * inverse_depth[triangle]
    nearness = on_face.sum(axis=-1)
    weights = on_face / nearness[:, None]
    return first[triangle, 0] + column, first[triangle, 1] + row, face[triangle], weights, nearness


def _nearest(hits: list[tuple[NDArray[Any], ...]], height: int, width: int) -> Raster:
    raster = Raster(
        np.full((height, width), -1, dtype=np.int64), np.zeros((height, width, 3)), np.full((height, width), np.inf)
    )
    if not hits:
        return raster
    x, y, face, weights, nearness = (np.concatenate(column) for column in zip(*hits, strict=True))
    order = np.argsort(nearness, kind="stable")  # of several writes to a pixel the last stays: the nearest
    pixel = (y * width + x)[order]
    raster.face.reshape(-1)[pixel] = face[order]
    raster.corners.reshape(-1, 3)[pixel] = weights[order]
    raster.depth.reshape(-1)[pixel] = 1 / nearness[order]
    return raster


def vertex_normals(vertices: Floats, faces: Integers) -> NDArray[np.float64]:
    """(V, 3) unit normals, each the mean of its faces' weighted by their area; zero where no face is."""
    corners = vertices[faces].astype(np.float64)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    flat = np.repeat(normal, 3, axis=0)
    summed = np.stack([np.bincount(faces.ravel(), flat[:, k], minlength=len(vertices)) for k in range(3)], axis=1)
    return summed / np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), 1e-12)


def _brightness(vertices: Floats, faces: Integers) -> NDArray[np.float64]:
    """(V,) 0..1: ambient light and one lamp above the camera's left shoulder."""
    to_lamp = np.array([-0.35, -0.5, -1.0])
    to_lamp /= np.linalg.norm(to_lamp)
    return 0.3 + 0.7 * np.clip(vertex_normals(vertices, faces) @ to_lamp, 0, 1)
