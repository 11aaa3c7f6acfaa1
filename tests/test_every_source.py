"""Every pre-training source: its first losses are those of the versions before, and a run that is
killed and given again ends equal to the bit.

A change that is meant to change losses writes them anew: python -m tests.test_every_source.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hpse_dist.config import build, to_dict
from hpse_dist.objectives import OBJECTIVES
from hpse_dist.recipe import PretrainRecipe
from hpse_dist.run import pretrain
from hpse_dist.tasks import TASKS
from hpse_dist.world import World
from tests.data.made_collection import made_collection
from tests.fabricate import tiny_body_file, tiny_hand_folder
from tests.interrupted import interrupted
from tests.objectives.test_contract import SMALL as OBJECTIVE_CONFIGS
from tests.tasks.test_contract import SMALL as TASK_CONFIGS
from tests.test_run import losses, recipe_of, weights

SOURCES = sorted({*OBJECTIVES, *TASKS})
EXPECTED = Path(__file__).with_name("expected_losses.json")
_ROUNDING = 1e-3  # of other processors and versions, relatively
OF_HANDS = ("classify", "hand_mesh", "hand_mesh_free")  # made_collection's hands have classes


def recipe(name: str, folder: Path) -> PretrainRecipe:
    config: Any
    if name in OBJECTIVE_CONFIGS:
        config = OBJECTIVE_CONFIGS[name]
    else:
        folder.mkdir(exist_ok=True)
        config = TASK_CONFIGS[name](tiny_body_file(tiny_hand_folder(folder)))
    if name == "relative_depth":
        config = replace(config, whole_pictures=False)
    objective = {"name": name, **to_dict(config)}
    collection = made_collection(hands=name in OF_HANDS)
    values = recipe_of(folder, collection, objective=objective, steps=3)
    values["machine"] |= {"checkpoint_every": 1, "micro_batch": 8}  # no accumulation for peclr
    values["optim"]["warmup_steps"] = 1
    return build(PretrainRecipe, values)


@pytest.mark.parametrize("name", SOURCES)
def test_killed_and_resumed_is_the_same_run(name: str, tmp_path: Path) -> None:
    whole, parts = (recipe(name, tmp_path / part) for part in ("whole", "parts"))
    pretrain(whole, World(), whole.folder())
    assert losses(whole.folder()) == pytest.approx(_expected()[name], rel=_ROUNDING)

    with interrupted(after=2):  # after the checkpoint of step 1
        pretrain(parts, World(), parts.folder())
    pretrain(parts, World(), parts.folder())
    assert losses(parts.folder()) == losses(whole.folder())
    expected, found = weights(whole.folder()), weights(parts.folder())
    assert all(torch.equal(expected[tensor], found[tensor]) for tensor in expected)


def test_samples_that_are_compared_stay_in_one_micro_batch(tmp_path: Path) -> None:
    values = to_dict(recipe("peclr", tmp_path))
    values["machine"]["micro_batch"] = 4
    with pytest.raises(ValueError, match="micro_batch must be global_batch, 8"):
        build(PretrainRecipe, values)


def _expected() -> dict[str, list[float]]:
    found: dict[str, list[float]] = json.loads(EXPECTED.read_text())
    return found


if __name__ == "__main__":
    found = {}
    with tempfile.TemporaryDirectory() as place:
        for name in SOURCES:
            one = recipe(name, Path(place) / name)
            pretrain(one, World(), one.folder())
            found[name] = losses(one.folder())
    lines = [f"{json.dumps(name)}: {json.dumps(values)}" for name, values in found.items()]
    EXPECTED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
