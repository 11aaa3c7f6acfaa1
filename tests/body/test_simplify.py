"""Mesh simplification: same surface, same kind of surface, fewer vertices."""

import numpy as np
import pytest

from hpse_dist.body.simplify import simplify


def _bumpy_sheet(size: int = 24) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices, faces and corner coordinates of a sheet: flat, with a bump in one corner."""
    y, x = np.mgrid[:size, :size] / (size - 1)
    height = 0.2 * np.exp(-((x - 0.25) ** 2 + (y - 0.25) ** 2) / 0.01)
    vertices = np.stack([x, y, height], axis=-1).reshape(-1, 3)
    corner = np.arange(size * size).reshape(size, size)
    a, b, c, d = corner[:-1, :-1], corner[:-1, 1:], corner[1:, :-1], corner[1:, 1:]
    faces = np.concatenate(
        [np.stack([a, b, c], axis=-1).reshape(-1, 3), np.stack([b, d, c], axis=-1).reshape(-1, 3)]
    )
    return vertices, faces, vertices[faces][..., :2]


def _areas(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    return np.cross(b - a, c - a)


def test_flat_places_give_way_before_the_bump() -> None:
    vertices, faces, uv = _bumpy_sheet()
    fewer, _ = simplify(vertices, faces, uv, 250, longest_edge=1.0)
    left = np.unique(fewer)
    assert len(left) == 250
    on_bump = vertices[:, 2] > 0.02
    assert np.isin(np.flatnonzero(on_bump), left).mean() > 0.8
    assert np.abs(vertices[left, 2]).max() == pytest.approx(vertices[:, 2].max())


def test_it_stays_one_sheet_facing_up() -> None:
    vertices, faces, uv = _bumpy_sheet()
    fewer, fewer_uv = simplify(vertices, faces, uv, 150, longest_edge=1.0)
    normals = _areas(vertices, fewer)
    assert (normals[:, 2] > 0).all()
    assert normals[:, 2].sum() / 2 == pytest.approx(1.0)  # its shadow is the whole square
    edges = np.sort(np.concatenate([fewer[:, [0, 1]], fewer[:, [1, 2]], fewer[:, [2, 0]]]), axis=1)
    _, counts = np.unique(edges, axis=0, return_counts=True)
    assert counts.max() == 2
    assert np.array_equal(fewer_uv, vertices[fewer][..., :2])  # coordinates went with the corners


def test_no_edge_is_made_longer_than_allowed() -> None:
    vertices, faces, uv = _bumpy_sheet()
    limit = 0.12
    fewer, _ = simplify(vertices, faces, uv, 1, limit)
    edges = vertices[fewer] - vertices[np.roll(fewer, 1, axis=1)]
    assert np.linalg.norm(edges, axis=-1).max() <= limit
    assert len(np.unique(fewer)) < len(vertices) / 2


def test_a_texture_seam_keeps_its_vertices() -> None:
    vertices, faces, uv = _bumpy_sheet()
    right = vertices[faces].mean(axis=1)[:, 0] > 0.5
    uv = uv + np.where(right, 1.0, 0.0)[:, None, None]
    seam = np.intersect1d(faces[right], faces[~right])
    fewer, fewer_uv = simplify(vertices, faces, uv, 150, longest_edge=1.0)
    assert np.isin(seam, fewer).all()
    crossing = np.ptp(fewer_uv[..., 0], axis=1)
    assert crossing.max() < 0.7  # no face reaches from one side's coordinates into the other's


def test_the_same_twice() -> None:
    sheet = _bumpy_sheet()
    one, other = (simplify(*sheet, 200, 1.0) for _ in range(2))
    assert np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])
