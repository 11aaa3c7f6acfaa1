"""A plan is measured once, kept, found again where it fits, and used by `engine: auto`."""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hpse_dist.config import build
from hpse_dist.data import resident
from hpse_dist.data.derive import subset
from hpse_dist.models.blocks import Block
from hpse_dist.planning import candidates, measure, trials
from hpse_dist.planning.candidates import enough_threads, micro_batches, resized
from hpse_dist.planning.measure import Measurement
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
from hpse_dist.planning.trials import Budget, Trials
from hpse_dist.recipe import FinetuneRecipe, PretrainRecipe
from hpse_dist.report.runs import read_study
from hpse_dist.run import pretrain
from hpse_dist.world import World
from tests.data.made_collection import made_collection
from tests.planning.made_plan import DDP, made_plan
from tests.test_run import losses, pretraining, recipe_of
from tests.waiting import PATIENCE_S

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cache of its own, and no DeepSpeed, whose import takes seconds."""
    monkeypatch.setenv("HPSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(trials, "engines", lambda *_: [])


def auto(folder: Path, global_batch: int = 8, **machine: object) -> PretrainRecipe:
    recipe = pretraining(folder, made_collection(), global_batch=global_batch)
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


def test_what_is_tested_in_the_end_is_counted(tmp_path: Path) -> None:
    """Also where nothing of what is trained on is held out."""
    whole = made_collection()
    learnt = subset(whole, tmp_path / "learnt", {"split": ("train",)})
    tests = [{"path": str(whole.folder)}]
    task = {"name": "pose2d", "head_dim": 16}
    recipe = build(FinetuneRecipe, recipe_of(tmp_path, learnt, task=task, tests=tests))
    recipe = replace(recipe, machine=replace(recipe.machine, plan_seconds=0.1))
    made = Measurement(recipe, World(), torch.device("cpu")).plan()
    held = whole.frames["split"].to_pylist().count("val")
    assert (made.evaluation_rows, made.test_rows) == (0, held) and made.evaluation_s > 0


def test_fewer_trainers_than_were_asked_for_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, ddp = (auto(tmp_path, engine=e, workers=2, min_workers=1) for e in ("auto", "ddp"))
    monkeypatch.setattr(trials, "micro_batches", lambda *_: [8])  # more than two could have
    measure.plan(ddp, World(), recipe.folder())
    made = read_plan(recipe.folder() / PLAN_FILE)
    assert made is not None and made.chosen == Setting("plain", 0, 8)
    assert made.key == key_of(recipe, World(), CPU)  # what was asked for does not decide it
    found, plan = measure.settled(recipe, World(), recipe.folder(), CPU)
    assert plan == made and found.hash() == recipe.hash()
    assert (found.machine.engine, found.machine.workers, found.accumulation()) == ("plain", 1, 1)


PLACES = (World(0, 3, 0, 2), World(1, 3, 1, 2), World(2, 3, 0, 1))


def on_three_ranks(
    monkeypatch: pytest.MonkeyPatch, ranks: list[Any], work: Callable[[Any], Any]
) -> list[Any]:
    """What each rank gets of it: threads, two ranks on one machine and one on another."""
    mine, said, meeting = threading.local(), [None] * 3, threading.Barrier(3)

    def gather(value: Any) -> list[Any]:
        said[mine.rank] = value
        meeting.wait(PATIENCE_S)
        values = list(said)
        meeting.wait(PATIENCE_S)
        return values

    def at_work(one: Any) -> Any:
        mine.rank = one.world.rank
        try:
            return work(one)
        except BaseException:
            meeting.abort()  # nobody waits for one who failed
            raise

    for module in (measure, trials, candidates):
        monkeypatch.setattr(module, "gather_objects", gather)
    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(at_work, ranks))


def test_ranks_that_sit_unevenly_measure_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = auto(tmp_path, workers=3, global_batch=12)
    rates = itertools.count(1.0)  # every rate is better, so that cores alone set the limit
    monkeypatch.setattr(Measurement, "_rate", lambda *_: 1000.0 * 2 ** next(rates))
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    ranks = [Measurement(recipe, world, CPU) for world in PLACES]
    found = on_three_ranks(monkeypatch, ranks, lambda one: one._loading()[0])
    assert [one.threads for one in found[0]] == [1, 2, 4] and found[1:] == found[:1] * 2


def test_what_is_too_large_for_one_gpu_is_tried_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, said = auto(tmp_path, workers=3, global_batch=12), "would need 9 GiB of 8"
    monkeypatch.setattr(Trials, "_too_large", lambda one, *_: said * (one.world.rank == 1))
    ranks = [trials_of(recipe, world) for world in PLACES]
    found = on_three_ranks(monkeypatch, ranks, lambda one: one.tried(DDP))
    assert found == [Trial(DDP, failed=said)] * 3


class ShortOfMemory:
    """An engine that runs out of memory in one of its parts."""

    def __init__(self, part: str = "") -> None:
        self.part, self.closed = part, False

    def __call__(self, _: Any) -> dict[str, Any]:
        return {"loss": self._did("forward")}

    def backward(self, _: Any) -> None:
        self._did("backward")

    def step(self) -> None:
        self._did("step")

    def close(self) -> None:
        self.closed = True

    def _did(self, part: str) -> None:
        if part == self.part:
            raise torch.OutOfMemoryError(part)


@pytest.mark.parametrize("part", ["forward", "backward", "step"])
def test_one_rank_out_of_memory_is_heard_of_by_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    recipe = auto(tmp_path, workers=3, global_batch=12)
    made = [ShortOfMemory(part * (rank == 1)) for rank in range(3)]
    monkeypatch.setattr(trials, "engine_with", lambda _, __, world, *___: made[world.rank])
    ranks = [trials_of(recipe, world) for world in PLACES]
    found = on_three_ranks(monkeypatch, ranks, lambda one: one.tried(DDP))
    assert found == [Trial(DDP, failed="out of memory")] * 3
    assert all(engine.closed for engine in made)


def trials_of(recipe: PretrainRecipe, world: World, device: torch.device = CPU) -> Trials:
    batch = {"image": torch.zeros(1, 3, 32, 32)}
    module = torch.nn.Sequential(Block(16, 2))
    return Trials(recipe, world, device, Budget(60.0), module, batch)


def made_up(
    monkeypatch: pytest.MonkeyPatch, recipe: PretrainRecipe, device: str, compiled_s: float
) -> list[Trial]:
    """Trials on a machine that holds activations of 3 samples, and of 7 with recomputing, which
    takes twice as long; a micro-step of any size takes a second."""

    def tried(_: Trials, setting: Setting) -> Trial:
        if setting.micro_batch > (7 if setting.recompute else 3):
            return Trial(setting, failed="out of memory")
        return Trial(setting, (1 + setting.recompute) * (compiled_s if setting.compile else 1.0))

    monkeypatch.setattr(Trials, "tried", tried)
    monkeypatch.setattr(trials, "engines", lambda *_: [("zero", 1), ("zero", 3)])
    return trials_of(recipe, World(), torch.device(device)).made()


def test_what_does_not_fit_is_tried_with_recomputing_and_the_best_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = auto(tmp_path)
    *found, compiled, one, three = made_up(monkeypatch, recipe, "cuda", 0.5)
    sizes = [(t.setting.micro_batch, t.setting.recompute, bool(t.failed)) for t in found]
    assert sizes == [
        *((1, False, False), (2, False, False), (4, False, True), (8, False, True)),
        *((4, True, False), (8, True, True)),
    ]
    quick = Setting("plain", 0, 2, compile=True)
    assert compiled.setting == quick
    assert one.setting == replace(quick, engine="zero", zero_stage=1)
    assert three.setting == Setting("zero", 3, 2)  # whose parameters come and go in a block
    slow = made_up(monkeypatch, recipe, "cuda", 2.0)
    assert [t.setting.compile for t in slow[-3:]] == [True, False, False]


def test_on_a_cpu_what_the_recipe_asks_for_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = auto(tmp_path, recompute=True, compile=True)
    found = made_up(monkeypatch, asked, "cpu", 0.5)
    assert all(trial.setting.recompute for trial in found)  # too much would end the process
    assert [t.setting.compile for t in found] == [False] * 4 + [True, True, False]
    plain = made_up(monkeypatch, auto(tmp_path), "cpu", 0.5)
    assert not any(t.setting.recompute or t.setting.compile for t in plain)
    with_it = made_up(monkeypatch, asked, "cuda", 0.5)
    again = [t.setting.micro_batch for t in with_it[4:-3] if t.setting.recompute]
    assert again == [4, 8, 2]  # the best of those that fit is at least compared


def test_compiling_costs_a_trial_and_the_budget_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Compiles(ShortOfMemory):
        steps = 0

        def step(self) -> None:
            self.steps += 1
            clock.append(clock[-1] + (0.3 if self.steps == 1 else 0.01))

    clock = [0.0]  # on which nothing else takes time, however busy the machine is
    monkeypatch.setattr(trials, "time", SimpleNamespace(perf_counter=lambda: clock[-1]))
    one = trials_of(auto(tmp_path), World())
    one.budget = Budget(0.5)
    monkeypatch.setattr(trials, "engine_with", lambda *_: Compiles())
    made = one.tried(replace(DDP, compile=True))
    assert made.micro_s < 0.1 < 0.2 < made.compile_s
    assert one.budget.passed() < 0.1 < 0.3 < one.budget.taken()
    assert one.tried(DDP).compile_s == 0.0


def test_what_cannot_be_compiled_is_said_and_the_rest_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise ValueError("no compiler\nand more")

    monkeypatch.setattr(trials, "engine_with", refuse)
    one = trials_of(auto(tmp_path), World())
    assert one.tried(replace(DDP, compile=True)).failed == "cannot be compiled: no compiler"
    with pytest.raises(ValueError, match="no compiler"):
        one.tried(DDP)


def test_a_plan_fits_its_work_and_machine(tmp_path: Path) -> None:
    recipe = auto(tmp_path)
    key = key_of(recipe, World(), CPU)
    assert key == key_of(replace(recipe, steps=9, name="x"), World(), CPU)
    assert key != key_of(replace(recipe, global_batch=16), World(), CPU)
    assert key != key_of(recipe, World(size=2), CPU)
    assert key != key_of(auto(tmp_path, micro_batch=2), World(), CPU)
    assert key != key_of(auto(tmp_path, compile=True), World(), CPU)
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
    assert not applied.machine.recompute and not applied.machine.compile
    both = replace(DDP, recompute=True, compile=True)
    applied = made_plan(global_batch=8, chosen=both).applied(recipe)
    assert applied.hash() == recipe.hash()
    assert applied.machine.recompute and applied.machine.compile


@pytest.mark.parametrize("fits", [True, False])
def test_where_data_is_waited_for_memory_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: bool
) -> None:
    monkeypatch.setattr(measure, "WAITING", 0.0)  # any waiting is too much
    monkeypatch.setattr(measure, "FILLING", 1e9)
    if not fits:
        monkeypatch.setattr(resident, "free_memory", lambda: 0)
    recipe = auto(tmp_path)
    measure.plan(recipe, World(), recipe.folder())
    made = read_plan(recipe.folder() / PLAN_FILE)
    assert made is not None
    tried = (made.together, *made.other_loaders)
    assert sorted(one.loader for one in tried) == ["inline", "resident"][: 1 + fits]
    assert made.together.samples_per_s == max(one.samples_per_s for one in tried)
    applied = made.applied(recipe)
    assert applied.machine.loader == made.together.loader and applied.hash() == recipe.hash()


def test_a_loader_that_was_asked_for_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "WAITING", 0.0)
    recipe = auto(tmp_path, loader="resident")
    measure.plan(recipe, World(), recipe.folder())
    made = read_plan(recipe.folder() / PLAN_FILE)
    assert made is not None and made.other_loaders == ()
    assert made.applied(recipe).machine.loader == "resident"
    assert made.key != key_of(auto(tmp_path), World(), CPU)  # one for each


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
