"""Real recipes under Ray and DeepSpeed: kills and the number of workers leave no trace."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cluster.connection import connected
from cluster.launch import launch
from hpse_dist.config import build, to_dict
from hpse_dist.log import read_metrics
from hpse_dist.recipe import PretrainRecipe
from tests.data.made_collection import made_collection
from tests.test_run import pretraining

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
]
ROOT = Path(__file__).parents[2]
STEPS = 20


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    before = dict(os.environ)
    os.environ["PYTHONPATH"] = str(ROOT)
    os.environ.pop("RAY_ADDRESS", None)
    try:
        with connected() as made:
            if sum(node.cpus for node in made.nodes) < 2:
                pytest.skip("two CPUs are needed for two workers")
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def recipe_of(folder: Path, name: str, **machine: Any) -> PretrainRecipe:
    values = to_dict(pretraining(folder, made_collection(), name=name, steps=STEPS))
    values["evaluate_every"] = STEPS
    values["machine"] |= {"engine": "zero", "workers": 2, "checkpoint_every": 4} | machine
    return build(PretrainRecipe, values)


def run(recipe: PretrainRecipe, kills: list[int]) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of all steps and the final weights."""
    folder = recipe.folder()
    order = {"recipe": to_dict(recipe), "kills": kills}
    launch(
        "tests.integration.killed:pretrain",
        order,
        folder,
        workers=recipe.machine.workers,
        cpus_per_worker=1,
        progress=False,
    )
    rows = read_metrics(folder / "metrics.jsonl")
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == STEPS
    assert len(list(folder.glob("killed-*"))) == len(kills) * recipe.machine.workers
    return losses, load_file(folder / "encoder.safetensors")


def test_kills_and_the_number_of_workers_leave_no_trace(tmp_path: Path) -> None:
    losses, weights = run(recipe_of(tmp_path, "undisturbed"), [])
    kills = sorted(random.sample(range(2, STEPS), 3))
    print("workers killed after steps", kills)
    again, same = run(recipe_of(tmp_path, "killed"), kills)
    assert again == losses
    assert all(torch.equal(tensor, same[name]) for name, tensor in weights.items())
    alone, near = run(recipe_of(tmp_path, "alone", workers=1, engine="plain"), [])
    assert torch.allclose(torch.tensor(alone[:10]), torch.tensor(losses[:10]), rtol=0, atol=1e-5)
    assert all((near[name] - tensor).abs().max() < 1e-4 for name, tensor in weights.items())
