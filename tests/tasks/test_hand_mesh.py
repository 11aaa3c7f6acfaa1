"""Hands are drawn where they are, also while their rotations are not found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import roma
import torch
import torch.nn.functional as F
from torch import Tensor

from hpse_dist.body.model import Hand, load_hand
from hpse_dist.fields import Batch
from hpse_dist.geometry.camera import project
from hpse_dist.models.encoder import EncoderConfig, build_encoder
from hpse_dist.tasks import build
from hpse_dist.tasks.base import Prediction, Task
from hpse_dist.tasks.hand_mesh import HandMeshConfig, HandMeshFreeConfig
from hpse_dist.tasks.labels import placing_errors
from tests.fabricate import fabricate, tiny_hand_folder

SMALL: dict[str, Callable[[str], HandMeshConfig | HandMeshFreeConfig]] = {
    "hand_mesh": lambda hand: HandMeshConfig(
        body=hand, head_dim=32, head_depth=1, heads=1, head_hidden=32
    ),
    "hand_mesh_free": lambda hand: HandMeshFreeConfig(
        hand=hand, num_mid=84, num_coarse=42, dims=(32, 16), depth=1, heads=2
    ),
}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The same sums in the same order, however many cores there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", SMALL)
def test_a_hand_is_where_it_is_though_no_rotation_can_be_told(
    name: str, tmp_path: Path, one_thread: None
) -> None:
    """16 hands, turned all ways, of one and the same picture. 2D joints alone would draw them 2.9
    times as far away as they are, and a third as large (model-free: 1.6 times)."""
    folder = tiny_hand_folder(tmp_path)
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig("custom", 32, 8, dim=32, depth=2, heads=2))
    task = build(SMALL[name](str(folder)), encoder, seed=3)
    batch = turned_all_ways(task, load_hand(folder, "right"))
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        task(batch)["loss"].backward()
        optimizer.step()
    mine, true = task.predict(batch), task.truth(batch)
    farther = mine["joints3d"][:, 0, 2] / true["joints3d"][:, 0, 2]
    assert 0.9 < farther.median() < 1.1
    assert 0.5 < (width(mine) / width(true)).median() < 1.2


def turned_all_ways(task: Task, hand: Hand) -> Batch:
    """A batch of equal pictures, the hands in any rotation, labels that agree with one another."""
    batch = fabricate(task.needs, hand=hand, batch=16)
    turns = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))
    batch["hand_orient"] = roma.unitquat_to_rotvec(F.normalize(turns, dim=1))
    labels = ("hand_orient", "hand_pose", "hand_betas", "hand_transl")
    joints = hand(*(batch[label] for label in labels)).joints
    batch["joints3d"][..., :3] = joints
    batch["joints2d"][..., :2] = project(joints, batch["intrinsics"])
    batch["image"] = batch["image"][:1].expand_as(batch["image"])
    return batch


def width(hands: Prediction) -> Tensor:
    """(B,) longer sides of the meshes in the picture, shares of the crop."""
    seen = project(hands["vertices"], hands["intrinsics"])
    return (seen.amax(1) - seen.amin(1)).amax(1)


def test_placing_errors_are_of_the_picture() -> None:
    """Logarithm of the depth, and shares of the crop across, along the ray to the crop's centre."""
    straight = torch.tensor([[2.0, 0.0, 0.5], [0.0, 2.0, 0.5], [0.0, 0.0, 1.0]])
    aside = torch.tensor([[2.0, 0.0, -1.5], [0.0, 2.0, 0.5], [0.0, 0.0, 1.0]])  # 45 degrees right
    right = torch.tensor([math.sqrt(0.5), 0.0, math.sqrt(0.5)])
    cases = [
        (torch.tensor([0.0, 0.0, 0.6 * math.e]), torch.tensor([0.0, 0.0, 0.6]), straight, 1 / 3),
        (torch.tensor([0.03, 0.06, 0.6]), torch.tensor([0.0, 0.0, 0.6]), straight, 0.3 / 3),
        (0.6 * math.e * right, 0.6 * right, aside, 1 / 3),
        (torch.tensor([0.0, 0.0, 9.0]), torch.tensor([0.0, 0.0, 0.6]), 0.0 * straight, 0.0),
        (
            torch.tensor([0.0, 0.0, -1.0]),
            torch.tensor([0.0, 0.0, 0.6]),
            straight,
            math.log(600) / 3,
        ),
    ]
    mine, true, intrinsics = (torch.stack([case[i] for case in cases]) for i in range(3))
    wanted = torch.tensor([case[3] for case in cases])
    mine.requires_grad_()
    found = placing_errors(mine, true, intrinsics)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    found.sum().backward()
    assert mine.grad is not None and mine.grad.isfinite().all()


def test_a_hand_of_unknown_place_teaches_no_place(tmp_path: Path) -> None:
    """Rows without the wrist or the camera's matrix leave the camera loss and gradients alone."""
    folder = tiny_hand_folder(tmp_path)
    for name, small in SMALL.items():
        encoder = build_encoder(EncoderConfig("custom", 32, 8, dim=32, depth=2, heads=2))
        task = build(small(str(folder)), encoder, seed=3)
        batch = fabricate(task.needs, hand=load_hand(folder, "right"))
        batch["joints3d"][:4, 0, 3] = 0.0
        batch["intrinsics"][4:] = 0.0
        scalars = task(batch)
        assert scalars["loss_camera"] == 0.0, name
        scalars["loss"].backward()
        for parameter in task.parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all(), name
