"""Cameras: projection, views, crops, lenses, triangulation."""

import math

import numpy as np
import pytest
import torch

from hpse_dist.geometry import camera

INTRINSICS = np.array([[1400.0, 0, 960], [0, 1380, 540], [0, 0, 1]])


def test_a_point_on_the_axis_falls_on_the_principal_point() -> None:
    points = torch.tensor([[[0.0, 0, 3], [0.3, 0, 3]]])
    seen = camera.project(points, torch.tensor(INTRINSICS[None], dtype=torch.float32))
    assert torch.allclose(seen, torch.tensor([[[960.0, 540], [1100, 540]]]))


def test_a_weak_camera_shows_a_metre_at_its_scale_across_its_ray() -> None:
    """HMR's rule: a metre at the root takes s half crops, depth = 2 f / s; x and y are metres."""
    intrinsics = torch.tensor([[1.5, 0.0, 0.5], [0.0, 1.5, 0.5], [0.0, 0.0, 1.0]]).repeat(2, 1, 1)
    intrinsics[1, :2, 2] = torch.tensor([-0.4, 1.1])  # the crop is far from the picture's middle
    ray = camera.rotation_to_ray(intrinsics)
    numbers = torch.tensor([[math.log(4.0), 0.1, -0.2]]).repeat(2, 1)
    root = camera.place_on_ray(numbers, 0.5, intrinsics, ray)
    expected = torch.tensor([0.1, -0.2, 2 * 1.5 / (0.5 * 4.0)])
    torch.testing.assert_close(root[0], expected)
    torch.testing.assert_close(root[1], ray[1] @ expected)
    assert (root[1] - expected).norm() > 0.5
    across = torch.tensor([[[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]]) + root[:1, None]
    pixels = camera.project(across, intrinsics[:1])[0]
    assert (pixels[1, 0] - pixels[0, 0]).item() == pytest.approx(0.5 * 4.0 / 2)


def test_look_at_centres_the_target_with_up_upwards() -> None:
    eye = np.array([2.0, 1.5, -3.0])
    target = np.array([0.2, 1.0, 0.1])
    rotation, transl = camera.look_at(eye, target, (0, 1, 0))
    assert np.allclose(rotation @ rotation.T, np.eye(3))
    assert np.linalg.det(rotation) == pytest.approx(1)
    assert np.allclose(rotation @ eye + transl, 0)
    seen = rotation @ target + transl
    assert np.allclose(seen[:2], 0)
    assert seen[2] == pytest.approx(np.linalg.norm(target - eye))
    assert (rotation @ (target + np.array([0, 0.1, 0])) + transl)[
        1
    ] < 0  # y points down in the picture


def test_look_straight_up_needs_another_up() -> None:
    with pytest.raises(ValueError, match="not parallel"):
        camera.look_at(np.zeros(3), np.array([0.0, 2, 0]), (0, 1, 0))


def test_intrinsics_follow_a_crop() -> None:
    point = np.array([0.2, -0.1, 2.0])
    cropped = camera.crop_intrinsics(INTRINSICS, (900, 300, 1300, 700), (1, 1))
    x, y, z = INTRINSICS @ point
    u, v, w = cropped @ point
    assert (u / w, v / w) == pytest.approx(((x / z - 900) / 400, (y / z - 300) / 400))


@pytest.mark.parametrize("coefficients", [(-0.3, 0.1, 1e-3, -5e-4), (-0.3, 0.1, 1e-3, 0, 0.02)])
def test_a_lens_is_undone(coefficients: tuple[float, ...]) -> None:
    pinhole = np.random.default_rng(0).uniform((0, 0), (1920, 1080), (200, 2))
    seen = camera.distort(pinhole, INTRINSICS, np.array(coefficients))
    assert np.abs(seen - pinhole).max() > 20  # the lens does something
    back = camera.undistort_points(seen, INTRINSICS, np.array(coefficients))
    assert np.allclose(back, pinhole, atol=1e-5)
    centre = INTRINSICS[:2, 2][None]
    assert np.allclose(camera.distort(centre, INTRINSICS, np.array(coefficients)), centre)


def test_triangulation_finds_the_point() -> None:
    point = np.array([0.3, 1.2, -0.4])
    cameras, pixels = [], []
    for eye in ([3.0, 1.5, 0.0], [0.0, 1.5, 3.0], [-2.0, 2.5, -2.0]):
        rotation, transl = camera.look_at(np.array(eye), np.array([0.0, 1, 0]), (0, 1, 0))
        cameras.append(INTRINSICS @ np.column_stack([rotation, transl]))
        x, y, z = cameras[-1] @ [*point, 1]
        pixels.append((x / z, y / z))
    found = camera.triangulate(np.array(cameras), np.array(pixels))
    assert np.allclose(found, point, atol=1e-9)
    with pytest.raises(ValueError, match="two views, found 1"):
        camera.triangulate(np.array(cameras[:1]), np.array(pixels[:1]))
