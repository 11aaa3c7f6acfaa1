"""Bytes that were said beforehand are those that training takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hpse_dist.config import build, to_dict
from hpse_dist.engine import Offload
from hpse_dist.fields import Batch
from hpse_dist.objectives.completion import Completion
from hpse_dist.objectives.dino import Dino
from hpse_dist.objectives.part_synthesis import PartSynthesis
from hpse_dist.planning.memory import Counted, gradients_fate, need, shares, step_bytes
from hpse_dist.recipe import PretrainRecipe
from hpse_dist.starting import module_of
from hpse_dist.world import World
from pipelines.memory_bench import ENGINES, _measure, example, measured
from tests.data.made_collection import made_collection
from tests.fabricate import fabricate, tiny_body, tiny_body_file, tiny_hand_folder
from tests.test_run import pretraining
from tests.test_waiting import OBJECTIVES, TASKS, TRANSFORMER, made

CPU = torch.device("cpu")
POSE3D = {"name": "pose3d", "head_dim": 32, "head_depth": 1, "heads": 2, "turned_weight": 1.0}


def recipe_of(folder: Path, **changes: Any) -> PretrainRecipe:
    recipe = pretraining(folder, made_collection(), optim={"lr": 1e-3, "warmup_steps": 1})
    encoder = {"name": "custom", "image_px": 32, "patch_px": 8, "dim": 64, "depth": 4, "heads": 2}
    values = to_dict(recipe) | {"encoder": encoder} | changes
    return build(PretrainRecipe, values)


@pytest.mark.parametrize(
    ("engine", "precision", "recompute"),
    [("plain", "fp32", False), ("ddp", "bf16", False), ("plain", "fp32", True)],
)
def test_predicted_is_measured(
    tmp_path: Path, engine: str, precision: str, recompute: bool
) -> None:
    """Within 5 %, by what torch's allocator gave out."""
    recipe = recipe_of(tmp_path, precision=precision, global_batch=4)
    machine = replace(recipe.machine, engine=engine, recompute=recompute)  # type: ignore[arg-type]
    recipe = replace(recipe, machine=machine)
    elsewhere = torch.zeros(5_000_000)  # the rest of this process is not the recipe's
    said, took = need(recipe, 1, example(recipe)), _measure(recipe, World(), CPU)
    del elsewhere
    assert took.peak == pytest.approx(said.peak, rel=0.05)
    if not recompute:  # what is kept for it goes past autograd's hooks
        assert took.activations == pytest.approx(said.activations, rel=0.05)
    assert took.optimizer == pytest.approx(said.optimizer, rel=0.01)  # and its step counters
    assert (took.weights, took.gradients, took.batch) == (
        said.weights,
        said.gradients,
        said.batch,
    )


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "global_batch"), [("zero 2 optimizer away", 64), ("zero 3 parameters away", 32)]
)
def test_what_is_away_is_measured(tmp_path: Path, name: str, global_batch: int) -> None:
    """On two processes, and what is away not counted as on the device."""
    recipe = recipe_of(tmp_path, global_batch=global_batch)
    machine = replace(recipe.machine, workers=2, micro_batch=16, device="cpu", **ENGINES[name])
    recipe = replace(recipe, machine=machine)
    said, took = need(recipe, 2, example(recipe)), measured(recipe, 2)
    # once in eight times the whole gradient of the micro-step before is still being sent
    late = said.weights if took.peak > 1.05 * said.peak else 0
    assert took.peak - late == pytest.approx(said.peak, rel=0.01)
    assert took.away == pytest.approx(said.away, rel=0.05)
    assert (took.weights, took.batch) == pytest.approx((said.weights, said.batch), rel=0.01)
    assert took.gradients == said.gradients == took.optimizer == said.optimizer == 0


def test_recomputing_keeps_less(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    again = replace(recipe, machine=replace(recipe.machine, recompute=True))
    whole, less = (need(one, 1, example(one)) for one in (recipe, again))
    assert less.activations < 0.8 * whole.activations and less.peak < whole.peak
    assert less.weights == whole.weights


def test_twice_the_batch_keeps_twice_as_much(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    twice = replace(recipe, machine=replace(recipe.machine, micro_batch=8))
    one, two = (need(each, 1, example(each)) for each in (recipe, twice))
    assert two.batch == 2 * one.batch
    assert two.activations == pytest.approx(2 * one.activations, rel=0.02)


def test_shares_of_zero() -> None:
    """What each stage cuts up, in parameters' bytes: P of weights, P of gradients, 2 P of AdamW."""
    module = nn.Linear(64, 100, bias=False)
    whole = 4 * 6400

    def of(engine: str, stage: int, accumulation: int = 1) -> list[float]:
        found = shares(module, engine, stage, 4, accumulation)
        return [found[name] / whole for name in ("weights", "gradients", "optimizer")]

    assert of("ddp", 0) == of("zero", 0) == [1, 1, 2]
    assert of("zero", 1) == of("zero", 2) == [1, 0.25, 0.75]  # masters and two moments
    assert of("zero", 1, accumulation=2) == [1, 1, 0.75]
    assert of("zero", 2, accumulation=2) == [1, 0.25, 0.75]
    assert of("zero", 3) == [1.25, 0.25, 0.75]  # so small a model is whole at a time
    assert gradients_fate("zero", 1, 2) == "there" and gradients_fate("plain", 0, 1) == "come"


def test_what_is_offloaded_is_away() -> None:
    """In parameters' bytes, of four trainers: masters, two moments and their gradient, and what is
    summed or copied on the way."""
    module = nn.Linear(64, 100, bias=False)
    whole = 4 * 6400

    def of(stage: int, accumulation: int, offload: Offload) -> list[float]:
        found = shares(module, "zero", stage, 4, accumulation, offload)
        assert found["optimizer"] == 0
        return [found[name] / whole for name in ("weights", "gradients", "away")]

    assert of(1, 1, "optimizer") == of(2, 1, "optimizer") == [1, 0, 4 / 4 + 1.25]
    assert of(1, 2, "optimizer") == [1, 1, 4 / 4 + 1.25]  # summed where they come up
    assert of(2, 2, "optimizer") == [1, 0, 5 / 4 + 1.25]
    assert of(3, 1, "optimizer") == [1.25, 0, 5 / 4]
    assert of(3, 2, "parameters") == [1, 0, 6 / 4]


def test_what_depends_on_the_data_is_not_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss(module: nn.Module, batch: Batch) -> dict[str, Tensor]:
        known = batch["image"][batch["sample_id"] > 0]
        return {"loss": known.mean() * next(module.parameters()).sum()}

    monkeypatch.setattr(Completion, "forward", loss)
    recipe = recipe_of(tmp_path)
    with pytest.raises(ValueError, match="cannot be told beforehand"):
        need(recipe, 1, example(recipe))


def test_counted_lets_go() -> None:
    there = torch.zeros(8)
    with Counted([there]) as made:
        first = there + 1
        view = first[2:]
        there.add_(1)
        assert made.now == made.peak == 32
        del first, view
        assert made.now == 0 and made.peak == 32


@pytest.mark.parametrize("name", [*OBJECTIVES, *TASKS])
def test_what_is_counted_without_numbers_is_what_a_step_takes(name: str, tmp_path: Path) -> None:
    """Of every objective and task, late in a run."""
    body_file = tiny_body_file(tiny_hand_folder(tmp_path))
    module, batch = made(name, body_file)
    rows = len(batch["sample_id"])
    config = OBJECTIVES[name] if name in OBJECTIVES else TASKS[name](body_file)
    values = {"encoder": to_dict(TRANSFORMER), "objective": to_dict(config) | {"name": name}}
    values["machine"] = {"workers": 1, "engine": "plain", "micro_batch": rows}
    recipe = recipe_of(tmp_path, **values, precision="fp32", global_batch=rows)
    said = need(recipe, 1, batch)
    module(batch)  # what is kept for good is made
    if isinstance(module, Dino | PartSynthesis):
        module.after_step(1.0)
    took = step_bytes(module, batch, bf16=False)
    assert said.activations == pytest.approx(took.kept, rel=0.01)
    peak = said.peak - said.weights - said.optimizer - said.batch
    assert peak == pytest.approx(took.peak, rel=0.01)


def test_what_is_said_leaves_nothing_behind(tmp_path: Path) -> None:
    """Tables that are kept for good are not those of a look without numbers: a plan on a GPU has
    one before it tries anything."""
    recipe = recipe_of(tmp_path, objective=POSE3D, precision="fp32")
    batch = fabricate(recipe.objective.needs, body=tiny_body(tmp_path))
    assert need(recipe, 1, batch).activations > 0
    loss = module_of(recipe)[0](batch)["loss"]
    assert loss.isfinite().item()
