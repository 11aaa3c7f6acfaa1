"""Drawing a mesh: where it falls, what hides what, no holes, the right pixels untouched."""

import numpy as np
import pytest
import torch

from hpse_dist.body.model import Body
from hpse_dist.body.overlay import draw_mesh, rasterise, vertex_normals

INTRINSICS = np.array([[100.0, 0, 64], [0, 100, 64], [0, 0, 1]])


def _plate(depth: float, low: float, high: float) -> np.ndarray:
    """Corners of a square from low to high in x and y."""
    return np.array([[x, y, depth] for y in (low, high) for x in (low, high)])


PLATE = np.array([[0, 1, 2], [1, 3, 2]])


def test_a_plate_covers_its_pixels_without_a_gap() -> None:
    raster = rasterise(_plate(2.0, -0.4, 0.4), PLATE, INTRINSICS, (128, 128))
    covered = np.zeros((128, 128), dtype=bool)
    covered[44:84, 44:84] = True  # 64 -+ 0.4 / 2 * 100
    assert np.array_equal(raster.face >= 0, covered)
    assert np.allclose(raster.depth[covered], 2.0)
    assert np.isinf(raster.depth[~covered]).all()
    assert set(np.unique(raster.face[covered])) == {0, 1}


def test_weights_find_the_place_on_a_slanted_face() -> None:
    corners = np.array([[-0.5, -0.5, 1.5], [0.9, -0.5, 3.0], [-0.5, 0.8, 2.0]])
    raster = rasterise(corners, np.array([[0, 1, 2]]), INTRINSICS, (128, 128))
    rows, columns = np.nonzero(raster.face == 0)
    assert len(rows) > 500
    places = raster.corners[rows, columns] @ corners
    seen = places @ INTRINSICS.T
    assert np.allclose(seen[:, 0] / seen[:, 2], columns + 0.5, atol=1e-6)
    assert np.allclose(seen[:, 1] / seen[:, 2], rows + 0.5, atol=1e-6)
    assert np.allclose(places[:, 2], raster.depth[rows, columns])


def test_the_nearer_face_wins_whatever_the_order() -> None:
    near, far = _plate(1.0, -0.1, 0.1), _plate(2.0, -0.5, 0.5)
    for first, second, front in ((near, far, (0, 1)), (far, near, (2, 3))):
        both = np.concatenate([first, second])
        faces = np.concatenate([PLATE, PLATE + 4])
        raster = rasterise(both, faces, INTRINSICS, (128, 128))
        assert raster.face[64, 64] in front
        assert raster.depth[64, 64] == pytest.approx(1.0)
        assert raster.depth[64, 80] == pytest.approx(2.0)


@pytest.mark.parametrize("shift", [(0, 0, -5), (9, 0, 0), (0, -9, 0)])
def test_what_is_behind_or_beside_leaves_the_picture_alone(shift: tuple[int, ...]) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (128, 96, 3), dtype=np.uint8)
    drawn = draw_mesh(picture, _plate(2.0, -0.4, 0.4) + shift, PLATE, INTRINSICS)
    assert np.array_equal(drawn, picture)


def test_a_large_face_reaching_out_of_the_picture_covers_it() -> None:
    raster = rasterise(_plate(1.0, -50, 50), PLATE, INTRINSICS, (60, 90))
    assert (raster.face >= 0).all()


def test_opacity_mixes_and_the_picture_given_stays() -> None:
    picture = np.full((128, 128, 3), 200, dtype=np.uint8)
    plate, black = _plate(2.0, -0.4, 0.4), (0, 0, 0)
    drawn = draw_mesh(picture, plate, PLATE, INTRINSICS, colour=black, opacity=0.5)
    assert drawn[64, 64].tolist() == [100, 100, 100]
    assert drawn[10, 10].tolist() == [200, 200, 200]
    assert (picture == 200).all()


def test_normals_point_out_of_a_box_seen_from_outside() -> None:
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])
    assert ((vertex_normals(corners, faces) * corners).sum(axis=1) > 0).all()


def test_a_body_fills_its_outline(free_body: Body) -> None:
    zero = (torch.tensor([[np.pi, 0, 0]]), *(torch.zeros(1, size) for size in (69, 10)))
    vertices = free_body(*zero, torch.tensor([[0.0, 0, 3]])).vertices[0].numpy()
    faces = free_body.faces.numpy()
    coarse = rasterise(vertices, faces, INTRINSICS, (128, 128)).face >= 0
    trunk = coarse[50:66, 60:68]
    assert trunk.all()
    # A finer picture's pixels lie inside the coarse one's outline and the other way round.
    double = np.diag([2, 2, 1]) @ INTRINSICS
    fine = rasterise(vertices, faces, double, (256, 256)).face >= 0
    share = fine.reshape(128, 2, 128, 2).mean(axis=(1, 3))
    assert coarse[share == 1].mean() > 0.999
    assert not coarse[share == 0].any()
