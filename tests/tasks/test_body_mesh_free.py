"""The model-free body mesh: its start, its way up to the full mesh, topologies, losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hpse_dist.body.model import load_body
from hpse_dist.fields import Batch
from hpse_dist.geometry.rotations import axis_angle_to_matrix
from hpse_dist.models.encoder import EncoderConfig, build_encoder
from hpse_dist.tasks.body_mesh_free import BodyMeshFree, BodyMeshFreeConfig
from hpse_dist.tasks.labels import turned_errors
from tests.fabricate import fabricate, tiny_body_file


def small(folder: Path, **changes: Any) -> BodyMeshFree:
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig("custom", 32, 8, dim=32, depth=1, heads=2))
    sizes = {"num_mid": 96, "num_coarse": 96, "dims": (32, 16), "depth": 1, "heads": 2}
    config = BodyMeshFreeConfig(body=str(tiny_body_file(folder)), **sizes | changes)
    return BodyMeshFree(config, encoder, seed=0)


@pytest.fixture
def task(tmp_path: Path) -> BodyMeshFree:
    return small(tmp_path)


@pytest.fixture
def batch(task: BodyMeshFree) -> Batch:
    return fabricate(task.needs, body=task.mesh)


def silent(task: BodyMeshFree) -> BodyMeshFree:
    """The task with layers that say nothing, so that the start comes out."""
    for layer in (task.to_place, task.to_camera):
        torch.nn.init.zeros_(layer.weight)
    return task


def test_the_start_is_the_mesh_at_rest_upright_and_facing_the_camera(
    task: BodyMeshFree, batch: Batch
) -> None:
    batch["intrinsics"][:, :2, 2] = 0.5
    guess = silent(task).predict(batch)
    rest = task.mesh.v_template - task.mesh.rest_joints(torch.zeros(1, 10))[0, 0]
    upright = rest * torch.tensor([1.0, -1.0, -1.0])
    root = guess["joints3d"][:, :1]
    expected = upright.expand(8, -1, -1)
    torch.testing.assert_close(guess["vertices"] - root, expected, rtol=1e-4, atol=1e-4)
    assert root[0, 0, 2].item() == pytest.approx(2 * 1.8 / 0.9)
    torch.testing.assert_close(guess["joints2d"][0, 0], torch.tensor([0.5, 0.5]))


def test_rows_without_a_body_teach_no_vertices(task: BodyMeshFree, batch: Batch) -> None:
    batch["has_body"][:] = False
    parts = task(batch)
    assert parts["loss_vertices"] == parts["loss_edges"] == parts["loss_normals"] == 0.0
    assert parts["loss_joints3d"] > 0.0
    assert task.metrics(batch)["pve"].isnan().all()


def test_perfect_vertices_have_no_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = small(tmp_path, joints3d_weight=0.0, joints2d_weight=0.0)
    batch = fabricate(task.needs, body=task.mesh)
    mesh = task.true_mesh(batch)
    full = mesh.vertices - mesh.joints[:, :1]
    guess = task._regress(batch) | {
        "full": full,
        "mid": full[:, task.mid],
        "coarse": full[:, task.mid][:, task.coarse],
    }
    monkeypatch.setattr(task, "_regress", lambda _: guess)
    assert task(batch)["loss"] < 1e-5
    monkeypatch.setitem(guess, "mid", 1.1 * guess["mid"])
    parts = task(batch)
    assert parts["loss_edges"] > 1e-3 and parts["loss_normals"] < 1e-5  # lengths, not directions


def test_the_true_mesh_goes_down_and_up_again(free_task: BodyMeshFree) -> None:
    """Coarse vertices of a posed person, brought up by the matrices as they start."""
    torch.manual_seed(0)
    pose = 0.3 * torch.randn(4, 69)
    full = free_task.mesh(torch.zeros(4, 3), pose, torch.randn(4, 10), torch.zeros(4, 3)).vertices
    mid = full[:, free_task.mid]
    back = torch.einsum("mc,bcx->bmx", free_task.up.detach(), mid[:, free_task.coarse])
    up = torch.einsum("vm,bmx->bvx", free_task.fine, mid)
    assert (up - full).norm(dim=-1).mean() < 0.005
    assert (back - mid).norm(dim=-1).mean() < 0.02


@pytest.fixture(scope="module")
def free_task() -> BodyMeshFree:
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig("custom", 32, 8, dim=32, depth=1, heads=2))
    config = BodyMeshFreeConfig(num_mid=600, num_coarse=150, dims=(16,), depth=1, heads=2)
    return BodyMeshFree(config, encoder, seed=0)


def test_the_free_body_has_a_panel(free_task: BodyMeshFree) -> None:
    batch = fabricate(free_task.needs, body=load_body("free"), batch=2)
    picture = free_task.panels(batch)["body_mesh_free"]
    assert picture.shape[0] == 3 and picture.min() >= 0.0 and picture.max() <= 1.0
    assert free_task.predict(batch)["vertices"].shape == (2, free_task.mesh.num_vertices, 3)


def test_turned_errors_forgive_a_rotation_and_no_more() -> None:
    rng = torch.Generator().manual_seed(0)
    true = torch.randn(3, 10, 3, generator=rng)
    turn = axis_angle_to_matrix(torch.randn(3, 3, generator=rng))
    known = torch.ones(3, 10)
    mine = (true @ turn.mT + 1.0).requires_grad_()
    assert turned_errors(mine, true, known).max() < 1e-5
    assert turned_errors(true * torch.tensor([-1.0, 1, 1]), true, known).mean() > 0.05  # mirrored
    assert turned_errors(2 * true, true, known).mean() > 0.05
    known[0] = 0.0
    assert turned_errors(mine, true, known).isfinite().all()
    turned_errors(torch.zeros_like(mine) * mine, true, known).sum().backward()  # one place
    assert mine.grad is not None and mine.grad.isfinite().all()


def test_bad_sizes_are_refused(task: BodyMeshFree, batch: Batch) -> None:
    with pytest.raises(ValueError, match="num_mid must be at least num_coarse"):
        BodyMeshFreeConfig(num_mid=100, num_coarse=200)
    with pytest.raises(ValueError, match="multiples of 4"):
        BodyMeshFreeConfig(dims=(30,))
    batch["joints3d"] = batch["joints3d"][:, :21]
    with pytest.raises(ValueError, match="21 joints and body_mesh_free needs 24"):
        task(batch)
