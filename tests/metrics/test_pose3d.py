"""Errors of joints and meshes: known values, invariances, missing labels, agreement with numpy."""

import numpy as np
import pytest
import torch

from hpse_dist.geometry.rotations import axis_angle_to_matrix
from hpse_dist.metrics.pose3d import mpjpe, pa_mpjpe, pve


def _joints(batch: int = 6) -> torch.Tensor:
    return torch.randn(batch, 14, 3, generator=torch.Generator().manual_seed(0))


def test_a_perfect_guess_has_no_error() -> None:
    true = _joints()
    assert torch.equal(mpjpe(true, true), torch.zeros(6))
    assert pa_mpjpe(true, true).max() < 1e-3
    assert torch.equal(pve(true, true, true[:, 0], true[:, 0]), torch.zeros(6))


def test_mpjpe_is_millimetres_from_the_root() -> None:
    true = _joints()
    guess = true + torch.tensor([5.0, -3, 2])  # a shift of everything does not count
    guess[:, 3, 0] += 0.14  # 14 cm at one of 14 joints: 10 mm on average
    assert mpjpe(guess, true).tolist() == pytest.approx([10.0] * 6, rel=1e-3)


def test_pa_mpjpe_ignores_similarities_but_not_mirror_images() -> None:
    true = _joints()
    turn = axis_angle_to_matrix(torch.tensor([0.3, -2.0, 0.5]))
    guess = 0.7 * true @ turn.T + torch.tensor([1.0, 2, 3])
    assert mpjpe(guess, true).min() > 100
    assert pa_mpjpe(guess, true).max() < 0.01
    assert pa_mpjpe(true * torch.tensor([-1.0, 1, 1]), true).min() > 100


def test_pa_mpjpe_agrees_with_the_written_out_definition() -> None:
    true = _joints()
    guess = true + 0.2 * torch.randn(true.shape, generator=torch.Generator().manual_seed(1))
    for found, one, other in zip(pa_mpjpe(guess, true), guess.numpy(), true.numpy(), strict=True):
        assert found.item() == pytest.approx(_by_hand(one, other), rel=1e-4)


def _by_hand(guess: np.ndarray, true: np.ndarray) -> float:
    """papers' definition: K = X1 X2^T = U S V^T, R = V Z U^T, scale = trace(R K) / var(X1)."""
    x1, x2 = ((points - points.mean(0)).T.astype(np.float64) for points in (guess, true))
    k = x1 @ x2.T
    u, _, vt = np.linalg.svd(k)
    z = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    rotation = vt.T @ z @ u.T
    scale = np.trace(rotation @ k) / (x1**2).sum()
    return 1000 * float(np.linalg.norm(scale * rotation @ x1 - x2, axis=0).mean())


def test_unknown_joints_do_not_count() -> None:
    true = _joints()
    guess = true.clone()
    guess[:, 5] += 1
    true[:, 5] = torch.nan
    known = torch.ones(6, 14)
    known[:, 5] = 0
    assert torch.equal(mpjpe(guess, true, known), torch.zeros(6))
    assert pa_mpjpe(guess, true, known).max() < 1e-3
    guess[:, 5] = torch.nan  # nor does it take the other joints with it
    assert torch.equal(mpjpe(guess, true, known), torch.zeros(6))
    assert pa_mpjpe(guess, true, known).max() < 1e-3


def test_examples_without_labels_are_nan_and_the_others_untouched() -> None:
    true, known = _joints(), torch.ones(6, 14)
    guess = true + 0.1 * torch.randn(true.shape, generator=torch.Generator().manual_seed(1))
    known[1] = 0
    known[2, 0] = 0  # no root
    known[3, 2:] = 0  # two joints fit anything
    whole, aligned = mpjpe(guess, true, known), pa_mpjpe(guess, true, known)
    assert torch.isnan(whole).tolist() == [False, True, True, False, False, False]
    assert torch.isnan(aligned).tolist() == [False, True, False, True, False, False]
    assert torch.allclose(whole[4:], mpjpe(guess, true)[4:])
    assert torch.allclose(aligned[4:], pa_mpjpe(guess, true)[4:])


def test_pve_sees_each_mesh_from_its_own_pelvis() -> None:
    true = _joints()
    roots = torch.randn(6, 3)
    shift = torch.tensor([0.0, 4.0, 0.0])
    assert pve(true + shift, true, roots + shift, roots).max() < 1e-3
    assert pve(true + shift, true, roots, roots).tolist() == pytest.approx([4000.0] * 6)


def test_a_collapsed_guess_counts_in_full() -> None:
    true = _joints()
    assert torch.isfinite(pa_mpjpe(torch.zeros_like(true), true)).all()
    assert pa_mpjpe(torch.zeros_like(true), true).min() > 500
