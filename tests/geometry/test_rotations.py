"""Rotations: round trips, both ends of the angle, both 6D layouts, finite gradients."""

import math

import pytest
import torch

from hpse_dist.geometry.rotations import (
    axis_angle_to_matrix,
    matrix_to_axis_angle,
    matrix_to_six_d,
    six_d_to_matrix,
)

EYE = torch.eye(3, dtype=torch.float64)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 1.0, 3.0, math.pi - 1e-7])
def test_axis_angle_comes_back(angle: float) -> None:
    axis = torch.nn.functional.normalize(torch.randn(50, 3, dtype=torch.float64), dim=-1)
    back = matrix_to_axis_angle(axis_angle_to_matrix(axis * angle))
    assert torch.allclose(back, axis * angle, atol=1e-7)


def test_half_turn_comes_back_up_to_the_sign_of_its_axis() -> None:
    axis = torch.eye(3, dtype=torch.float64)
    matrix = axis_angle_to_matrix(axis * math.pi)
    assert torch.allclose(matrix_to_axis_angle(matrix).abs(), axis * math.pi, atol=1e-7)


def test_a_quarter_turn_about_z_takes_x_to_y() -> None:
    matrix = axis_angle_to_matrix(torch.tensor([0.0, 0.0, math.pi / 2]))
    assert torch.allclose(matrix @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]), atol=1e-6)


def test_gradients_are_finite_at_rest() -> None:
    axis_angle = torch.zeros(2, 3, requires_grad=True)
    matrix = axis_angle_to_matrix(axis_angle)
    (matrix_to_axis_angle(matrix).sum() + matrix.sum()).backward()
    assert torch.isfinite(axis_angle.grad).all()


@pytest.mark.parametrize("layout", ["contiguous", "interleaved"])
def test_six_numbers_make_a_rotation_and_come_back(layout: str) -> None:
    matrix = six_d_to_matrix(torch.randn(100, 6, dtype=torch.float64), layout)
    assert torch.allclose(matrix @ matrix.transpose(-1, -2), EYE.expand(100, 3, 3), atol=1e-12)
    assert torch.allclose(torch.linalg.det(matrix), torch.ones(100, dtype=torch.float64))
    assert torch.allclose(six_d_to_matrix(matrix_to_six_d(matrix, layout), layout), matrix)


def test_layouts_read_the_same_numbers_differently() -> None:
    numbers = torch.arange(1.0, 7.0)
    contiguous, interleaved = (
        six_d_to_matrix(numbers, layout) for layout in ("contiguous", "interleaved")
    )
    assert torch.allclose(contiguous[:, 0], torch.tensor([1.0, 2, 3]) / math.sqrt(14))
    assert torch.allclose(interleaved[:, 0], torch.tensor([1.0, 3, 5]) / math.sqrt(35))


def test_unknown_layout_is_refused() -> None:
    with pytest.raises(ValueError, match="'contiguous' or 'interleaved', found 'rows'"):
        six_d_to_matrix(torch.zeros(6), "rows")
