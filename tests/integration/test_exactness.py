"""Real recipes under Ray and DeepSpeed: kills and the number of workers leave no trace."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cluster.launch import launch
from hpse_dist import run
from hpse_dist.config import build, to_dict
from hpse_dist.log import read_metrics
from hpse_dist.recipe import PretrainRecipe
from hpse_dist.world import World
from tests.data.made_collection import made_collection
from tests.test_run import pretraining

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
    pytest.mark.usefixtures("cluster"),
]
STEPS = 20


def recipe_of(folder: Path, name: str, **machine: Any) -> PretrainRecipe:
    values = to_dict(pretraining(folder, made_collection(), name=name, steps=STEPS))
    values["evaluate_every"] = STEPS
    values["machine"] |= {"engine": "zero", "workers": 2, "checkpoint_every": 4} | machine
    return build(PretrainRecipe, values)


def launched(recipe: PretrainRecipe, kills: list[int]) -> Path:
    """The folder of a run of two workers, killed after these steps."""
    folder = recipe.folder()
    launch(
        "tests.integration.killed:pretrain",
        {"recipe": to_dict(recipe), "kills": kills},
        folder,
        workers=2,
        cpus_per_worker=1,
        # Ray ends the others when it sees that one is dead, before their own end or after it
        max_failures=2 * len(kills) + 3,
        progress=False,
    )
    assert {path.name.split("-")[1] for path in folder.glob("killed-*")} == {*map(str, kills)}
    return folder


def outcome(folder: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of all steps and the final weights."""
    rows = read_metrics(folder / "metrics.jsonl")
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == STEPS
    return losses, load_file(folder / "encoder.safetensors")


def test_kills_and_the_number_of_workers_leave_no_trace(tmp_path: Path) -> None:
    losses, weights = outcome(launched(recipe_of(tmp_path, "undisturbed"), []))
    kills = sorted(random.sample(range(2, STEPS), 2))
    print("workers killed after steps", kills)
    again, same = outcome(launched(recipe_of(tmp_path, "killed"), kills))
    assert again == losses
    assert all(torch.equal(tensor, same[name]) for name, tensor in weights.items())
    recipe = recipe_of(tmp_path, "alone", workers=1, engine="plain")
    run.pretrain(recipe, World(), recipe.folder())  # here, without Ray
    alone, near = outcome(recipe.folder())
    assert torch.allclose(torch.tensor(alone[:10]), torch.tensor(losses[:10]), rtol=0, atol=1e-5)
    assert all((near[name] - tensor).abs().max() < 1e-4 for name, tensor in weights.items())
