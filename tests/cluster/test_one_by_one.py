"""A study carried out in this process: order, failures, budgets and what is given up."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import one_by_one
from cluster.one_by_one import carry_out_here
from hpse_dist.stopping import told_to_stop
from hpse_dist.study import PlannedRun
from hpse_dist.world import World


def runs_in(folder: Path) -> list[Any]:
    """A pre-training, one that starts from it, one fine-tuning from each, and one from nothing."""

    def run(name: str, *after: str) -> Any:
        machine = one_by_one_machine()
        recipe = SimpleNamespace(name=name, machine=machine)
        return PlannedRun(
            name=name,
            kind="pretrain",
            path=folder,
            overrides=(),
            folder=folder / name,
            recipe=recipe,  # type: ignore[arg-type]
            source=name,
            after=after,
        )

    return [run("a"), run("b", "a"), run("from_a", "a"), run("from_b", "b"), run("alone")]


def one_by_one_machine() -> Any:
    return SimpleNamespace(workers=2, micro_batch=16)


@pytest.fixture
def carried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the runs that were started; run `bad` fails, run `halted` is stopped."""
    names: list[str] = []

    def run_target(target: str, recipe: Any, world: World, folder: Path) -> None:
        names.append(folder.name)
        folder.mkdir(parents=True, exist_ok=True)
        if folder.name == recipe.failing:
            raise ValueError("the loss is NaN")
        if folder.name != recipe.halting:
            (folder / "DONE").touch()

    monkeypatch.setattr(one_by_one, "run_target", run_target)
    return names


def alone(failing: str = "", halting: str = ""):  # type: ignore[no-untyped-def]
    return lambda recipe: SimpleNamespace(failing=failing, halting=halting)


def test_each_run_comes_after_its_source(
    tmp_path: Path, carried: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_by_one, "_alone", alone())
    outcomes = carry_out_here(runs_in(tmp_path))
    assert carried == ["a", "b", "from_a", "from_b", "alone"]
    assert [outcome.error for outcome in outcomes] == [None] * 5
    carried.clear()
    assert all(outcome.skipped for outcome in carry_out_here(runs_in(tmp_path)))
    assert carried == []


def test_what_needs_a_failed_run_is_given_up_and_the_rest_goes_on(
    tmp_path: Path, carried: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_by_one, "_alone", alone(failing="b"))
    errors = [outcome.error for outcome in carry_out_here(runs_in(tmp_path))]
    assert carried == ["a", "b", "from_a", "alone"]
    assert errors == [None, "the loss is NaN", None, "its source b is not done", None]
    assert (tmp_path / "b" / "logs" / "final_0.json").is_file()  # what the report tells


def test_a_budget_or_a_signal_stops_the_rest(
    tmp_path: Path, carried: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_by_one, "_alone", alone(halting="from_a"))
    used_up = iter([None, "the time budget is used up"])
    errors = [r.error for r in carry_out_here(runs_in(tmp_path), refusal=lambda: next(used_up))]
    assert carried == ["a"] and errors == [None] + ["the time budget is used up"] * 4
    errors = [outcome.error for outcome in carry_out_here(runs_in(tmp_path))]
    assert carried == ["a", "b", "from_a"] and errors[2:] == ["stopped by a signal"] * 3


def test_a_signal_between_two_runs_stops_the_rest(
    tmp_path: Path, carried: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while a run exports what it made, or the next one's source is read."""
    monkeypatch.setattr(one_by_one, "_alone", alone())
    run_target = one_by_one.run_target

    def told(target: str, recipe: Any, world: World, folder: Path) -> None:
        run_target(target, recipe, world, folder)
        with told_to_stop() as stop:
            assert stop() == (folder.name != "a")
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(one_by_one, "run_target", told)
    errors = [outcome.error for outcome in carry_out_here(runs_in(tmp_path))]
    assert carried == ["a"] and errors == [None] + ["stopped by a signal"] * 4
    assert signal.getsignal(signal.SIGTERM) is before


def test_one_worker_does_the_work_of_all() -> None:
    from hpse_dist.config import build
    from hpse_dist.recipe import PretrainRecipe

    values = {
        "name": "x",
        "collections": [{"path": "c"}],
        "global_batch": 64,
        "machine": {"workers": 2, "micro_batch": 16},
    }
    recipe = build(PretrainRecipe, values)
    alone = one_by_one._alone(recipe)
    assert (alone.machine.workers, alone.machine.micro_batch) == (1, 32)
    assert alone.accumulation() == recipe.accumulation() and alone.hash() == recipe.hash()
