"""What every objective in the table keeps to; an entry added there is tested here."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from hpse_dist import fields
from hpse_dist.engine import build_engine
from hpse_dist.models.decoder import DecoderConfig
from hpse_dist.models.encoder import EncoderConfig, build_encoder
from hpse_dist.objectives import OBJECTIVES, build
from hpse_dist.objectives.base import Objective
from hpse_dist.objectives.completion import CompletionConfig
from hpse_dist.objectives.completion_pose2d import CompletionPose2dConfig
from hpse_dist.objectives.densecl import DenseclConfig
from hpse_dist.objectives.dino import DinoConfig
from hpse_dist.objectives.mae import MaeConfig
from hpse_dist.objectives.moco import MocoConfig
from hpse_dist.objectives.part_synthesis import PartSynthesisConfig
from hpse_dist.objectives.peclr import PeclrConfig
from hpse_dist.objectives.relative_depth import RelativeDepthConfig
from hpse_dist.optim import OptimConfig
from hpse_dist.world import World
from tests.fabricate import fabricate, gradients, rows

SMALL: dict[str, Any] = {
    "completion": CompletionConfig(decoder=DecoderConfig("custom", dim=32, depth=1, heads=2)),
    "completion_pose2d": CompletionPose2dConfig(
        decoder=DecoderConfig("custom", dim=32, depth=1, heads=2), head_dim=16
    ),
    "densecl": DenseclConfig(dim=16, hidden=32, queue=64),
    "dino": DinoConfig(num_local=2, prototypes=32, hidden=32, bottleneck=16, freeze_last=0.0),
    "mae": MaeConfig(decoder=DecoderConfig("custom", dim=32, depth=1, heads=2)),
    "moco": MocoConfig(dim=16, hidden=32, queue=64),
    "part_synthesis": PartSynthesisConfig(
        poses="limits", map_px=16, dim=8, head_dim=32, label_fraction=0.5
    ),
    "peclr": PeclrConfig(hidden=32, dim=16),
    "relative_depth": RelativeDepthConfig(head_dim=32),
}
"""A small config of every objective: a new one adds its own here."""


@pytest.fixture(params=sorted(OBJECTIVES))
def objective(request: pytest.FixtureRequest) -> Objective:
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig("custom", 32, 8, dim=32, depth=2, heads=2))
    return build(SMALL[request.param], encoder, seed=3)


def test_needs_are_fields_and_suffice(objective: Objective) -> None:
    assert fields.missing(objective.needs, fields.FIELDS) == []
    batch = fabricate(objective.needs)
    scalars = objective(batch)
    assert all(value.ndim == 0 and value.isfinite() for value in scalars.values())
    assert [name for name, value in scalars.items() if value.requires_grad] == ["loss"]
    objective.after_step(0.5)
    objective.eval()
    for values in objective.metrics(batch).values():
        assert values.shape == (8,) and not values.requires_grad
    for picture in objective.panels(batch).values():
        assert picture.ndim == 3 and picture.shape[0] == 3 and picture.device.type == "cpu"
        assert picture.min() >= 0.0 and picture.max() <= 1.0


def test_the_batch_is_left_as_it_was(objective: Objective) -> None:
    batch = fabricate(objective.needs)
    before = {name: value.clone() for name, value in batch.items()}
    objective(batch)["loss"].backward()
    objective.metrics(batch), objective.panels(batch)
    assert batch.keys() == before.keys()
    assert all(torch.equal(batch[name], before[name]) for name in batch)


def test_every_trainable_parameter_learns(objective: Objective) -> None:
    found = gradients(objective, [fabricate(objective.needs)])
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            assert name in found and found[name].abs().max() > 0, f"{name} gets no gradient"


def test_half_precision(objective: Objective) -> None:
    """bf16, the recipes' default: networks run in it, and the loss is about the same."""
    batch = fabricate(objective.needs)
    exact = objective(batch)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        half = objective(batch)["loss"]
        figures = objective.metrics(batch)
    half.backward()
    torch.testing.assert_close(half.float(), exact, rtol=0.1, atol=0.02)
    assert all(value.dtype != torch.bfloat16 for value in figures.values())


def test_a_refused_step_leaves_no_trace(objective: Objective) -> None:
    """A batch with NaN between two good ones: the state of a run that never met it."""
    batches = [fabricate(objective.needs, seed=seed) for seed in (0, 1, 2)]
    batches[1]["image"] = torch.full_like(batches[1]["image"], torch.nan)
    other = copy.deepcopy(objective)
    states = [_trained(objective, batches), _trained(other, [batches[0], batches[2]])]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert all(value.isfinite().all() for value in states[0].values())


def _trained(objective: Objective, batches: list[fields.Batch]) -> dict[str, torch.Tensor]:
    """The state after a step on each batch, as the training loop makes them."""
    engine = build_engine(
        "plain",
        objective,
        OptimConfig(lr=1e-3, warmup_steps=0),
        world=World(),
        device=torch.device("cpu"),
        accumulation=1,
        micro_batch=8,
    )
    for batch in batches:
        engine.backward(engine(batch)["loss"])
        if engine.step() is None:
            objective.after_step(0.5)
        else:
            objective.after_refusal()
    return engine.full_state_dict()


def test_one_batch_can_be_learnt(objective: Objective) -> None:
    batch = fabricate(objective.needs)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = objective(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_one_batch_or_two_halves_are_the_same(objective: Objective) -> None:
    """Whatever the split, uneven in its kinds: equal mean loss, scalars and gradients."""
    if not objective.splits:
        pytest.skip("its negatives are the micro-batch: see the test over ranks")
    batch = fabricate(objective.needs)
    halves = [rows(batch, 0, 4), rows(batch, 4, 8)]
    whole, parts = objective(batch), [objective(half) for half in halves]
    for name, value in whole.items():
        mean = torch.stack([part[name] for part in parts]).mean()
        torch.testing.assert_close(mean, value, rtol=1e-5, atol=1e-6)
    one, two = gradients(objective, [batch]), gradients(objective, halves)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5)


def test_metrics_do_not_depend_on_the_epoch(objective: Objective) -> None:
    objective.eval()
    batch = fabricate(objective.needs)
    later = {**batch, "epoch": batch["epoch"] + 5} if "epoch" in batch else batch
    for one, other in zip(
        objective.metrics(batch).values(), objective.metrics(later).values(), strict=True
    ):
        torch.testing.assert_close(one, other, equal_nan=True, rtol=0, atol=0)
