"""What every task in the table keeps to; an entry added there is tested here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hpse_dist import fields
from hpse_dist.body.model import load_body, load_hand
from hpse_dist.fields import Batch
from hpse_dist.models.decoder import DecoderConfig
from hpse_dist.models.encoder import EncoderConfig, build_encoder
from hpse_dist.report.tables import METRICS
from hpse_dist.tasks import TASKS, build
from hpse_dist.tasks.base import Task
from hpse_dist.tasks.body_mesh import BodyMeshConfig
from hpse_dist.tasks.body_mesh_free import BodyMeshFreeConfig
from hpse_dist.tasks.body_mesh_two_views import BodyMeshTwoViewsConfig
from hpse_dist.tasks.classify import ClassifyConfig
from hpse_dist.tasks.dense_pose import DensePoseConfig
from hpse_dist.tasks.hand_mesh import HandMeshConfig, HandMeshFreeConfig
from hpse_dist.tasks.part_segmentation import PartSegmentationConfig
from hpse_dist.tasks.pose2d import Pose2dConfig
from hpse_dist.tasks.pose3d import Pose3dConfig
from tests.fabricate import fabricate, gradients, rows, tiny_body_file, tiny_hand_folder

SMALL: dict[str, Callable[[Path], Any]] = {
    "body_mesh": lambda body: BodyMeshConfig(
        body=str(body), head_dim=32, head_depth=1, heads=1, head_hidden=32, vertices_weight=1.0
    ),
    "body_mesh_free": lambda body: BodyMeshFreeConfig(
        body=str(body),
        num_mid=96,
        num_coarse=48,
        dims=(32, 16),
        depth=1,
        heads=2,
        turned_weight=1.0,
    ),
    "body_mesh_two_views": lambda body: BodyMeshTwoViewsConfig(
        body=str(body),
        head_dim=32,
        head_depth=1,
        heads=1,
        head_hidden=32,
        decoder=DecoderConfig("custom", dim=32, depth=1, heads=2),
    ),
    "classify": lambda _: ClassifyConfig(num_classes=3, label_smoothing=0.0),
    "dense_pose": lambda _: DensePoseConfig(head_dim=16),
    "hand_mesh": lambda body: HandMeshConfig(
        body=str(body.parent), head_dim=32, head_depth=1, heads=1, head_hidden=32
    ),
    "hand_mesh_free": lambda body: HandMeshFreeConfig(
        hand=str(body.parent), num_mid=84, num_coarse=42, dims=(32, 16), depth=1, heads=2
    ),
    "part_segmentation": lambda _: PartSegmentationConfig(head_dim=16),
    "pose2d": lambda _: Pose2dConfig(head_dim=16),
    "pose3d": lambda _: Pose3dConfig(head_dim=32, head_depth=1, heads=2, turned_weight=1.0),
}
"""A small config of every task, given a body file: a new one adds its own here."""


@pytest.fixture(scope="module")
def body_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small body's file; the folder it is in holds a small hand too."""
    return tiny_body_file(tiny_hand_folder(tmp_path_factory.mktemp("body")))


@pytest.fixture(params=sorted(TASKS))
def task(request: pytest.FixtureRequest, body_file: Path) -> Task:
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig("custom", 32, 8, dim=32, depth=2, heads=2))
    return build(SMALL[request.param](body_file), encoder, seed=3)


@pytest.fixture
def batch(task: Task, body_file: Path) -> Batch:
    if "hand_pose" in task.needs:
        return fabricate(task.needs, hand=load_hand(body_file.parent, "right"))
    return fabricate(task.needs, body=load_body(body_file))


def test_needs_are_fields_and_suffice(task: Task, batch: Batch) -> None:
    assert fields.missing(task.needs, fields.FIELDS) == []
    scalars = task(batch)
    assert all(value.ndim == 0 and value.isfinite() for value in scalars.values())
    assert [name for name, value in scalars.items() if value.requires_grad] == ["loss"]
    task.eval()
    for name, values in task.metrics(batch).items():
        assert values.shape == (8,), name
        assert values.isfinite().all() and not values.requires_grad
    for value in task.predict(batch).values():
        assert len(value) == 8
    for picture in task.panels(batch).values():
        assert picture.ndim == 3 and picture.shape[0] == 3 and picture.device.type == "cpu"
        assert picture.min() >= 0.0 and picture.max() <= 1.0


def test_a_perfect_prediction_has_no_error(task: Task, batch: Batch) -> None:
    prediction, truth = task.predict(batch), task.truth(batch)
    assert set(truth) == set(prediction)
    for name, value in truth.items():
        assert value.shape == prediction[name].shape, name
    for name, values in task.errors(truth, batch).items():
        best = 100.0 if METRICS[name].better == "higher" else 0.0
        assert (values - best).abs().max() < 0.01, name
    for name, values in task.errors(prediction, batch).items():
        best = 100.0 if METRICS[name].better == "higher" else 0.0
        apart = (values - best).abs()
        # right or wrong is all that a class can be, so some pictures may be right by chance
        assert (apart.mean() if name == "accuracy" else apart.min()) > 1.0, name


def test_every_trainable_parameter_learns(task: Task, batch: Batch) -> None:
    found = gradients(task, [batch])
    for name, parameter in task.named_parameters():
        if parameter.requires_grad:
            assert name in found and found[name].abs().max() > 0, f"{name} gets no gradient"


def test_half_precision(task: Task, batch: Batch) -> None:
    """bf16, the recipes' default: networks run in it, and the loss is about the same."""
    exact = task(batch)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        half = task(batch)["loss"]
        figures = task.metrics(batch)
    half.backward()
    torch.testing.assert_close(half.float(), exact, rtol=0.1, atol=0.02)
    assert all(value.dtype != torch.bfloat16 for value in figures.values())


def test_one_batch_can_be_learnt(task: Task, batch: Batch) -> None:
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = task(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_one_batch_or_two_halves_are_the_same(task: Task, batch: Batch) -> None:
    """Uneven halves too: rows without a label count as nothing, wherever they fall."""
    for name in set(batch) & {"has_body", "has_hand", "has_parts"}:
        batch[name][:3] = False
    for name in set(batch) & {"joints2d", "joints3d"}:
        batch[name][1:4, :, -1] = 0.0
    halves = [rows(batch, 0, 4), rows(batch, 4, 8)]
    whole, parts = task(batch), [task(half) for half in halves]
    for name, value in whole.items():
        mean = torch.stack([part[name] for part in parts]).mean()
        torch.testing.assert_close(mean, value, rtol=1e-5, atol=1e-6)
    one, two = gradients(task, [batch]), gradients(task, halves)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5)


def test_rows_without_a_label_teach_nothing(task: Task, batch: Batch) -> None:
    """Whatever stands where a label is not; and a batch of nothing else has no loss."""
    if task.needs == ("image", "label"):
        pytest.skip("every picture has a class")
    for name in set(batch) & {"has_body", "has_hand", "has_parts"}:
        batch[name][:2] = False
    for name in set(batch) & {"joints2d", "joints3d"}:
        batch[name][:2, :, :-1], batch[name][:2, :, -1] = 7.0, 0.0
    batch["image"].requires_grad_()
    loss = task(batch)["loss"]
    (slope,) = torch.autograd.grad(loss, batch["image"])
    assert slope[:2].abs().max() == 0.0 and slope[2:].flatten(1).abs().amax(1).min() > 0.0
    torch.testing.assert_close(loss, task(rows(batch, 2, 8))["loss"] * 6 / 8)
    nothing = task(rows(batch, 0, 2))["loss"]
    (slope,) = torch.autograd.grad(nothing, batch["image"])
    assert nothing == 0.0 and slope.abs().max() == 0.0
