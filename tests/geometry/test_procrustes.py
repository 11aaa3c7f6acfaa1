"""Procrustes: finds a similarity, refuses mirror images, minds its weights."""

import torch

from hpse_dist.geometry.procrustes import align, similarity
from hpse_dist.geometry.rotations import axis_angle_to_matrix


def _similar(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    count = len(points)
    rotation = axis_angle_to_matrix(torch.randn(count, 3, dtype=points.dtype))
    scale = torch.rand(count, dtype=points.dtype) + 0.5
    return scale, rotation, torch.randn(count, 3, dtype=points.dtype)


def _moved(points: torch.Tensor, how: tuple[torch.Tensor, ...]) -> torch.Tensor:
    scale, rotation, transl = how
    return scale[:, None, None] * points @ rotation.transpose(1, 2) + transl[:, None]


def test_recovers_a_similarity() -> None:
    points = torch.randn(20, 14, 3, dtype=torch.float64)
    how = _similar(points)
    target = _moved(points, how)
    for found, true in zip(similarity(points, target), how, strict=True):
        assert torch.allclose(found, true, atol=1e-8)
    assert torch.allclose(align(points, target), target, atol=1e-8)


def test_a_mirror_image_is_no_alignment() -> None:
    points = torch.randn(20, 14, 3, dtype=torch.float64)
    mirrored = points * torch.tensor([-1.0, 1, 1], dtype=torch.float64)
    _, rotation, _ = similarity(points, mirrored)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(20, dtype=torch.float64))
    assert ((align(points, mirrored) - mirrored).norm(dim=-1).mean(dim=1) > 0.1).all()


def test_points_of_weight_zero_do_not_count() -> None:
    points = torch.randn(5, 10, 3, dtype=torch.float64)
    how = _similar(points)
    target = _moved(points, how)
    target[:, 7:] += 100
    weights = torch.ones(5, 10, dtype=torch.float64)
    weights[:, 7:] = 0
    for found, true in zip(similarity(points, target, weights), how, strict=True):
        assert torch.allclose(found, true, atol=1e-8)


def test_a_single_place_goes_to_the_mean() -> None:
    target = torch.randn(2, 6, 3)
    aligned = align(torch.ones(2, 6, 3), target)
    assert torch.allclose(aligned, target.mean(dim=1, keepdim=True).expand_as(aligned), atol=1e-6)
