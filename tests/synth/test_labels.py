"""Labels are exact: they project onto the pixels they belong to, in the camera's own frame."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree

from hpse_dist.draws import generator
from hpse_dist.records import FrameRecord
from hpse_dist.synth.people import crop_intrinsics
from hpse_dist.synth.picture import render
from hpse_dist.synth.produce import Studio
from hpse_dist.synth.render import Moment, Person, Stage
from hpse_dist.synth.scene import draw_scene
from hpse_dist.synth.surface import cell_centres, cell_index


def _posed(studio: Studio, record: FrameRecord) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and joints in the camera's frame from the record's smplx parameters."""
    names = ("global_orient", "body_pose", "betas", "transl")
    with torch.no_grad():
        output = studio.body(*(torch.from_numpy(record.labels[name])[None] for name in names))
    return output.vertices[0].numpy().astype(float), output.joints[0].numpy().astype(float)


def _project(points: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    image = points @ intrinsics.T
    return image[:, :2] / image[:, 2:]


def test_smplx_parameters_reproduce_the_joints(studio: Studio, records: list[FrameRecord]) -> None:
    for record in records:
        _, joints = _posed(studio, record)
        np.testing.assert_allclose(joints, record.labels["joints3d"][:, :3], atol=2e-6)
        image = _project(joints, record.intrinsics)
        np.testing.assert_allclose(image, record.labels["joints2d"][:, :2], atol=1e-3)
        world = (joints[0] - record.translation) @ record.rotation
        np.testing.assert_allclose(world, record.centre, atol=1e-5)


def test_the_mask_covers_the_body_and_the_person_fills_the_crop(
    studio: Studio, records: list[FrameRecord]
) -> None:
    shares = []
    for record in records:
        vertices, _ = _posed(studio, record)
        column, row = np.floor(_project(vertices, record.intrinsics)).astype(int).clip(0, 63).T
        shares.append(record.mask[row, column].mean())
        rows, columns = np.nonzero(record.mask)
        assert max(np.ptp(rows), np.ptp(columns)) > 0.4 * 64
        assert ((record.labels["part_map"] > 0) == record.mask).all()
        assert (record.labels["uv_map"][:, ~record.mask] == 0).all()
    assert np.median(shares) > 0.9  # the rest: occluded, or a pixel's width outside


def test_parts_and_surface_coordinates_lie_on_their_pixels(studio: Studio) -> None:
    """On a naked body: where a pixel's uv is on the mesh projects back onto that pixel."""
    surface, rng = studio.surface, generator(0, "test.labels")
    vertices = surface.template - [0.0, surface.soles, 0.0]
    scene = draw_scene(rng, num_cameras=1, path=np.zeros((1, 2)))
    paint = np.full((len(surface.faces), surface.cells**2, 3), 0.5, np.float32)
    person = Person(
        vertices, surface.topology, paint, surface.cells, surface.part, surface.corner_uv
    )
    moment = Moment(person, Stage(scene, rng), rng)
    camera = scene.cameras[0]
    matrix = crop_intrinsics(camera, vertices, 96, 1.25, rng)
    picture = render(moment, camera, matrix, 96, rng)
    corners = cell_centres(surface.cells)
    uv = np.einsum("kc,fcd->fkd", corners, surface.corner_uv).reshape(-1, 2)
    points = np.einsum("kc,fcd->fkd", corners, vertices[surface.faces]).reshape(-1, 3)
    rows, columns = np.nonzero(picture.mask)
    _, nearest = cKDTree(uv).query(picture.uv_map[:, rows, columns].T)
    seen = points[nearest] @ camera.rotation.T + camera.translation
    off = np.abs(_project(seen, matrix) - np.stack([columns, rows], 1) - 0.5).max(1)
    assert np.quantile(off, 0.9) < 1.0  # pixels; the mesh is sampled every few millimetres
    corner = surface.faces[nearest // len(corners), corners[nearest % len(corners)].argmax(1)]
    assert (picture.part_map[rows, columns] == surface.part[corner]).mean() > 0.95


def test_people_stand_on_the_floor_and_are_seen(records: list[FrameRecord]) -> None:
    for record in records:
        joints = record.labels["joints3d"][:, :3]
        world = (joints - record.translation) @ record.rotation
        assert world[:, 1].min() > -0.02  # no joint under the floor
        assert joints[0, 2] > 1.0  # metres in front of the camera


def test_a_place_on_the_surface_has_one_colour_in_two_views(studio: Studio) -> None:
    found = [r for r in studio.sequence(0, 0) if isinstance(r, FrameRecord)]
    first, second = found[0], found[1]
    assert first.time == second.time and first.camera != second.camera
    pixels = []
    for record in (first, second):
        inner = record.mask & np.roll(record.mask, 1, 0) & np.roll(record.mask, -1, 1)
        rows, columns = np.nonzero(inner)
        colour = record.image[rows, columns].astype(float)
        pixels.append((record.labels["uv_map"][:, rows, columns].T, colour))
    gap, nearest = cKDTree(pixels[1][0]).query(pixels[0][0])
    same = gap < 0.01
    assert same.sum() > 20
    one, two = pixels[0][1][same], pixels[1][1][nearest[same]]
    alike = np.abs(one - two).mean()
    shuffled = np.abs(one - two[np.random.default_rng(0).permutation(len(two))]).mean()
    assert alike < 0.6 * shuffled


def test_cells_of_a_triangle_are_found_again() -> None:
    for cells in (2, 3, 5):
        centres = cell_centres(cells)
        assert len(centres) == cells**2
        np.testing.assert_allclose(centres.sum(1), 1)
        index = cell_index(centres[:, 1], centres[:, 2], cells)
        np.testing.assert_array_equal(index, np.arange(cells**2))
    edge = cell_index(np.array([0.0, 1.0, 0.0, 0.5]), np.array([0.0, 0.0, 1.0, 0.5]), 4)
    assert ((edge >= 0) & (edge < 16)).all()
