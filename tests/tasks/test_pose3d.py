"""The 3D-pose task: what a missing root does, and that the camera's turn turns the answer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hpse_dist.fields import Batch
from hpse_dist.geometry.camera import rotation_to_ray
from hpse_dist.models.encoder import EncoderConfig, build_encoder
from hpse_dist.tasks.pose3d import Pose3d, Pose3dConfig
from tests.fabricate import fabricate, tiny_body


@pytest.fixture
def task() -> Pose3d:
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig("custom", 32, 8, dim=32, depth=1, heads=2))
    return Pose3d(Pose3dConfig(head_dim=32, head_depth=1, heads=2), encoder, seed=0)


@pytest.fixture
def batch(task: Pose3d, tmp_path: Path) -> Batch:
    return fabricate(task.needs, body=tiny_body(tmp_path))


def test_nothing_is_known_without_the_root(task: Pose3d, batch: Batch) -> None:
    batch["joints3d"][:2, 0, 3] = 0.0
    batch["joints3d"][:2, :, :3] += 5.0
    errors = task.metrics(batch)
    assert errors["mpjpe"].isnan().tolist() == [True] * 2 + [False] * 6
    assert errors["pa_mpjpe"].isfinite().all()  # needs no root
    loss = task(batch)["loss"]
    batch["joints3d"][:2, 1:, :3] += 5.0
    torch.testing.assert_close(task(batch)["loss"], loss)


def test_equal_pictures_have_equal_poses_seen_from_their_rays(task: Pose3d, batch: Batch) -> None:
    middle = batch["intrinsics"].clone()
    middle[:, :2, 2] = 0.5
    straight = task.predict(batch | {"intrinsics": middle})["joints3d"]
    turned = task.predict(batch)["joints3d"]
    back = turned @ rotation_to_ray(batch["intrinsics"])
    torch.testing.assert_close(back, straight, rtol=1e-4, atol=1e-5)
    assert (turned - straight).abs().max() > 1e-3


def test_another_joint_set_is_refused(task: Pose3d, batch: Batch) -> None:
    batch["joints3d"] = batch["joints3d"][:, :21]
    with pytest.raises(ValueError, match="21 joints and pose3d needs 24"):
        task(batch)
    with pytest.raises(ValueError, match=r"root must be 0\.\.20"):
        Pose3dConfig(num_joints=21, root=21)
