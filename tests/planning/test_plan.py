"""A plan is measured once, kept, found again where it fits, and used by `engine: auto`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hpse_dist.planning import measure
from hpse_dist.planning.candidates import enough_threads, micro_batches, resized
from hpse_dist.planning.plan import (
    PLAN_FILE,
    Loading,
    Setting,
    Trial,
    key_of,
    read_plan,
    store,
    stored,
)
from hpse_dist.recipe import PretrainRecipe
from hpse_dist.report.runs import read_study
from hpse_dist.run import pretrain
from hpse_dist.world import World
from tests.data.made_collection import made_collection
from tests.planning.made_plan import DDP, made_plan
from tests.test_run import losses, pretraining

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cache of its own, and no DeepSpeed, whose import takes seconds."""
    monkeypatch.setenv("HPSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(measure, "engines", lambda *_: [])


def auto(folder: Path, **machine: object) -> PretrainRecipe:
    recipe = pretraining(folder, made_collection(), global_batch=8)
    changes = {"engine": "auto", "micro_batch": 4, "plan_seconds": 0.1, **machine}
    return replace(recipe, machine=replace(recipe.machine, **changes))  # type: ignore[arg-type]


def test_auto_measures_once_and_trains_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = auto(tmp_path / "auto")
    plain = replace(recipe, machine=replace(recipe.machine, engine="plain", out=tmp_path))
    pretrain(recipe, World(), recipe.folder())
    pretrain(plain, World(), plain.folder())
    assert losses(recipe.folder()) == pytest.approx(losses(plain.folder()), rel=1e-4)
    made = read_plan(recipe.folder() / PLAN_FILE)
    assert made is not None and made.chosen.engine == "plain" and made.link is None
    assert {t.setting.micro_batch for t in made.trials} == {1, 2, 4, 8}
    assert made.together.samples_per_s > 0 and made.evaluation_rows > 0
    assert [run.done for run in read_study(recipe.folder()).runs] == [True]  # not a study's plan
    monkeypatch.setattr(measure, "Measurement", None)  # from here on nobody measures
    other = replace(recipe, name="other", seed=5)
    pretrain(other, World(), other.folder())
    assert read_plan(other.folder() / PLAN_FILE) == made  # of the cache


def test_fewer_trainers_than_were_asked_for_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, ddp = (auto(tmp_path, engine=e, workers=2, min_workers=1) for e in ("auto", "ddp"))
    monkeypatch.setattr(measure, "micro_batches", lambda *_: [8])  # more than two could have
    measure.plan(ddp, World(), recipe.folder())
    made = read_plan(recipe.folder() / PLAN_FILE)
    assert made is not None and made.chosen == Setting("plain", 0, 8)
    assert made.key == key_of(recipe, World(), CPU)  # what was asked for does not decide it
    found, plan = measure.settled(recipe, World(), recipe.folder(), CPU)
    assert plan == made and found.hash() == recipe.hash()
    assert (found.machine.engine, found.machine.workers, found.accumulation()) == ("plain", 1, 1)


def test_a_plan_fits_its_work_and_machine(tmp_path: Path) -> None:
    recipe = auto(tmp_path)
    key = key_of(recipe, World(), CPU)
    assert key == key_of(replace(recipe, steps=9, name="x"), World(), CPU)
    assert key != key_of(replace(recipe, global_batch=16), World(), CPU)
    assert key != key_of(recipe, World(size=2), CPU)
    assert key != key_of(auto(tmp_path, micro_batch=2), World(), CPU)
    plan = made_plan(key=key)
    path = store(plan, tmp_path / "run")
    assert read_plan(path) == plan and stored(tmp_path / "run", key) == plan
    assert stored(tmp_path / "elsewhere", key) == plan  # the cache's
    assert stored(tmp_path / "run", "another") is None
    path.write_text(json.dumps({"of": "another version"}))
    assert read_plan(path) is None


def test_a_plan_decides_the_machine_alone(tmp_path: Path) -> None:
    recipe = auto(tmp_path)
    applied = made_plan(global_batch=8).applied(recipe)
    assert applied.hash() == recipe.hash() and applied.machine.engine == "ddp"
    assert (applied.machine.micro_batch, applied.machine.loader_threads) == (8, 2)


def test_micro_batches_fill_the_global_batch(tmp_path: Path) -> None:
    assert micro_batches(auto(tmp_path, micro_batch=4), 2) == [1, 2, 4]
    dino = pretraining(tmp_path, made_collection(), objective={"name": "moco", "queue": 16})
    dino = replace(dino, machine=replace(dino.machine, micro_batch=8))
    assert micro_batches(dino, 1) in ([8], [2, 4, 8])


def test_threads_are_no_more_than_are_needed() -> None:
    trial = Trial(DDP, 1.0)  # 8 samples/s
    loading = [Loading(1, 10.0), Loading(2, 19.0), Loading(4, 30.0)]
    assert enough_threads(loading, trial) == 2
    assert enough_threads(loading, replace(trial, micro_s=0.01)) == 4


def test_a_batch_of_any_size() -> None:
    batch = {"image": torch.arange(3.0), "sample_id": torch.tensor([7, 8, 9])}
    assert resized(batch, 5)["image"].tolist() == [0, 1, 2, 0, 1]
    assert resized(batch, 5)["sample_id"].tolist() == [0, 1, 2, 3, 4]
    assert len(resized(batch, 2)["image"]) == 2
