"""What a sweep plans, whom it keeps, and what it writes down."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from hpse_dist.config import ConfigError, build, load
from hpse_dist.sweep import Range, SweepRecipe, Trial, round_runs, survivors, write_trials

ROOT = Path(__file__).parents[1]
POSE2D = ROOT / "configs" / "finetune" / "pose2d.yaml"


def recipe(folder: Path, **changes: Any) -> SweepRecipe:
    values: dict[str, Any] = {
        "name": "tried",
        "sources": {
            "random": {"run": "random"},
            "completion": {"pretrain": str(ROOT / "configs" / "pretrain" / "demo.yaml")},
        },
        "rounds": {"probe": {"recipe": str(POSE2D), "overrides": ["encoder_frozen=true"]}},
        "space": {"optim.lr": {"low": 1e-4, "high": 1e-2, "points": 3}, "seed_": {"values": [1]}},
        "metric": "joint_error",
        "machine": {"out": str(folder)},
    }
    values["space"].pop("seed_")
    return build(SweepRecipe, values | changes)


def made(source: str, lr: float, value: float, state: str = "done", step: int = 60) -> Trial:
    return Trial(f"{source}-{lr}", source, "probe", {"optim.lr": lr}, state, step, 60, value)


def test_every_source_tries_the_same_settings_and_runs_have_stable_names(tmp_path: Path) -> None:
    sweep = recipe(tmp_path)
    assert [one["optim.lr"] for one in sweep.settings()] == [1e-4, 1e-3, 1e-2]
    first, trials = round_runs(sweep, "probe", {name: sweep.settings() for name in sweep.sources})
    assert [run.name for run in first] == ["demo_completion"]
    assert [run.name for run in trials][:2] == [
        "random-probe-lr0.0001-seed0",
        "completion-probe-lr0.0001-seed0",
    ]
    assert len(trials) == 6 and {run.recipe.optim.lr for run in trials} == {1e-4, 1e-3, 1e-2}
    _, some = round_runs(sweep, "probe", {"random": sweep.settings()[:1], "completion": []})
    assert [run.name for run in some] == ["random-probe-lr0.0001-seed0"]


def test_every_pre_training_may_be_changed_alike(tmp_path: Path) -> None:
    sweep = recipe(tmp_path, pretraining=["steps=70"])
    settings = {name: sweep.settings()[:1] for name in sweep.sources}
    (first,), trials = round_runs(sweep, "probe", settings)
    assert (first.name, first.recipe.steps) == ("tried-completion", 70)
    assert [run.after for run in trials] == [(), ("tried-completion",)]
    with pytest.raises(ConfigError, match="no source names one under pretrain"):
        recipe(tmp_path, pretraining=["steps=70"], sources={"random": {"run": "random"}})


def test_drawn_settings_are_of_the_seed_and_within_the_space(tmp_path: Path) -> None:
    space = {
        "optim.lr": {"low": 1e-4, "high": 1e-2},
        "optim.weight_decay": {"values": [0.0, 0.1]},
    }
    sweep = recipe(tmp_path, space=space, samples=20)
    found = sweep.settings()
    assert found == recipe(tmp_path, space=space, samples=20).settings()
    assert found != recipe(tmp_path, space=space, samples=20, seed=1).settings()
    assert all(1e-4 <= one["optim.lr"] <= 1e-2 for one in found)
    assert {one["optim.weight_decay"] for one in found} == {0.0, 0.1}
    below = sum(one["optim.lr"] < 1e-3 for one in found)
    assert 5 <= below <= 15  # half of the range on a logarithmic scale


def test_the_best_of_each_source_go_on_and_what_was_stopped_only_after_them(tmp_path: Path) -> None:
    sweep = recipe(tmp_path)
    trials = [
        made("random", 1e-4, 30.0),
        made("random", 1e-3, 20.0),
        made("random", 1e-2, 5.0, "stopped early", 10),
        made("completion", 1e-3, math.nan),
        made("completion", 1e-2, 12.0),
    ]
    assert survivors(sweep, trials, 4)["random"] == [{"optim.lr": lr} for lr in (1e-3, 1e-4, 1e-2)]
    kept = survivors(sweep, trials, 1)
    assert kept == {"random": [{"optim.lr": 1e-3}], "completion": [{"optim.lr": 1e-2}]}
    document = json.loads(write_trials(sweep, trials).read_text())
    assert document["steps_saved"] == 50 and document["steps"] == 300
    assert len(document["trials"]) == 5 and document["trials"][3]["joint_error"] is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"space": {"optim.lr": {"low": 1e-2, "high": 1e-4}}}, "low must be above 0 and below"),
        ({"space": {"optim.lr": {"low": 1e-2}}}, "give either values, or low and high"),
        ({"space": {"source": {"values": ["random"]}}}, "space: source is the sweep's own"),
        (
            {"rounds": {"a": {"recipe": str(POSE2D), "overrides": ["optim.lr=1"]}}},
            "rounds.a.overrides: optim.lr is what is varied",
        ),
        ({"samples": 0}, "samples must be at least 1"),
        ({"baseline": "none"}, "baseline must be one of the sources random, completion"),
        ({"rounds": {}}, "at least one source, one round and one key"),
        ({"reduction": 1}, "reduction must be at least 2"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        recipe(tmp_path, **changes)


def test_the_shipped_sweep_tries_ten_settings() -> None:
    assert len(load(SweepRecipe, ROOT / "configs" / "sweep" / "pose2d.yaml").settings()) == 10
    assert Range(low=1e-4, high=1e-2, points=3).grid() == (1e-4, 1e-3, 1e-2)
