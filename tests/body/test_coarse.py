"""Coarser meshes: even, nested, faithful at rest and in other poses, on any mesh, kept on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hpse_dist.body.coarse import Coarse, coarsened, edges_of


def sphere(rows: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """A ball of radius 1 m on a grid of latitudes and longitudes."""
    latitude = np.linspace(0, np.pi, rows + 1)[1:-1]
    longitude = np.arange(2 * rows) * np.pi / rows
    y, angle = np.meshgrid(latitude, longitude, indexing="ij")
    ring = np.stack([np.sin(y) * np.cos(angle), np.cos(y), np.sin(y) * np.sin(angle)], -1)
    vertices = np.concatenate([ring.reshape(-1, 3), [[0, 1, 0], [0, -1, 0]]])
    at = np.arange((rows - 1) * 2 * rows).reshape(rows - 1, 2 * rows)
    here, there = at[:-1], at[1:]
    beside, beyond = np.roll(here, -1, 1), np.roll(there, -1, 1)
    sides = [
        np.stack(t, -1).reshape(-1, 3) for t in ((here, beside, there), (there, beside, beyond))
    ]
    top, bottom = len(vertices) - 2, len(vertices) - 1
    caps = [
        np.stack([np.full(2 * rows, top), np.roll(at[0], -1), at[0]], -1),
        np.stack([np.full(2 * rows, bottom), at[-1], np.roll(at[-1], -1)], -1),
    ]
    return vertices, np.concatenate(sides + caps)


def finer(level: Coarse, values: np.ndarray) -> np.ndarray:
    return (values[level.near] * level.weights[..., None]).sum(1)


def test_levels_are_nested_even_and_closed() -> None:
    vertices, faces = sphere()
    mid, low = coarsened(vertices, faces, (300, 80))
    assert len(mid.chosen) == 300 and len(low.chosen) == 80
    assert len(np.unique(mid.chosen)) == 300
    places = vertices[mid.chosen][low.chosen]
    apart = np.linalg.norm(places[:, None] - places, axis=-1) + 9 * np.eye(80)
    assert apart.min(1).min() > 0.5 * apart.min(1).max()  # evenly spread
    # a closed surface: every edge has two faces, and V - E + F = 2
    edges = np.sort(
        np.concatenate([low.faces[:, [0, 1]], low.faces[:, [1, 2]], low.faces[:, [2, 0]]])
    )
    assert len(np.unique(low.faces)) == 80
    assert 80 - len(np.unique(np.sort(edges, 1), axis=0)) + len(low.faces) in (1, 2, 3)
    joined = low.adjacency()
    assert (joined == joined.T).all() and joined.diagonal().all()
    assert joined.sum() == 80 + 2 * len(edges_of(low.faces))


def test_interpolation_is_exact_at_rest_nearly_and_under_any_affine_map() -> None:
    vertices, faces = sphere()
    mid, low = coarsened(vertices, faces, (300, 80))
    for level, true in ((mid, vertices), (low, vertices[mid.chosen])):
        np.testing.assert_allclose(level.weights.sum(1), 1, atol=1e-5)
        error = np.linalg.norm(finer(level, true[level.chosen]) - true, axis=1)
        assert error.mean() < 0.02
        np.testing.assert_array_equal(error[level.chosen] < 1e-6, True)
        stretch = np.array([[1.5, 0.2, 0], [0, 1, 0.3], [0.1, 0, 0.8]])
        moved = finer(level, (true @ stretch + 2.0)[level.chosen])
        expected = finer(level, true[level.chosen]) @ stretch + 2.0
        np.testing.assert_allclose(moved, expected, atol=1e-5)


def test_pieces_of_a_mesh_do_not_mix() -> None:
    """Two balls that touch, as two legs do: nothing of one is made of the other."""
    vertices, faces = sphere(10)
    both = np.concatenate([vertices, vertices + np.array([2.001, 0, 0])])
    (level,) = coarsened(both, np.concatenate([faces, faces + len(vertices)]), (60,))
    first = np.arange(len(both)) < len(vertices)
    other = first[level.chosen][level.near] != first[:, None]
    assert np.abs(level.weights[other]).max(initial=0) < 1e-3
    assert (first[level.chosen][level.faces].sum(1) % 3 == 0).all()


def test_a_mesh_that_is_small_already_stays_as_it_is() -> None:
    vertices, faces = sphere(4)
    (level,) = coarsened(vertices, faces, (1000,))
    assert len(level.chosen) == len(vertices) and len(level.faces) == len(faces)
    np.testing.assert_allclose(finer(level, vertices[level.chosen]), vertices, atol=1e-6)


def test_kept_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vertices, faces = sphere(8)
    made = coarsened(vertices, faces, (60, 20), cache=tmp_path)
    monkeypatch.setattr("hpse_dist.body.coarse._coarsened", None)
    for old, new in zip(made, coarsened(vertices, faces, (60, 20), cache=tmp_path), strict=True):
        for name, value in vars(old).items():
            np.testing.assert_array_equal(getattr(new, name), value)
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(ValueError, match="must fall"):
        coarsened(vertices, faces, (20, 60))
