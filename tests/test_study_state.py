"""How far a study has come, what it will take, when it stops, and what it frees."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hpse_dist.config import build, dump
from hpse_dist.recipe import CollectionUse
from hpse_dist.report.runs import RESTART_S, STOPPED_FILE, failed_since, state_of
from hpse_dist.run_folder import held
from hpse_dist.study import PlannedRun, plan
from hpse_dist.study_recipe import StudyMachine, StudyRecipe
from hpse_dist.study_state import Budget, _time, describe, estimate, free_finished, state
from tests.data.made_collection import made_collection

RECIPE = """
name: {name}
collections: [{{path: collections/demo}}]
encoder: {{name: custom, image_px: 64, patch_px: 8, dim: 128, depth: 4, heads: 4}}
steps: 100
global_batch: 32
machine: {{micro_batch: 32, engine: plain, out: {out}}}
"""


@pytest.fixture
def study(tmp_path: Path) -> StudyRecipe:
    for name in ("first", "mesh"):
        (tmp_path / f"{name}.yaml").write_text(RECIPE.format(name=name, out=tmp_path / "runs"))
    values = {
        "name": "study",
        "sources": {"random": {"run": "random"}, "first": {"pretrain": f"{tmp_path}/first.yaml"}},
        "tasks": {"mesh": f"{tmp_path}/mesh.yaml"},
        "seeds": [0],
        "machine": {"out": str(tmp_path / "runs")},
    }
    return build(StudyRecipe, values)


def finish(run: PlannedRun, seconds: float = 50.0, **report: object) -> None:
    run.folder.mkdir(parents=True)
    (run.folder / "recipe.yaml").write_text(dump(run.recipe))
    whole = {"kind": run.kind, "steps": run.recipe.steps, "seconds": seconds, **report}
    (run.folder / "report.json").write_text(json.dumps(whole))
    (run.folder / "card.json").write_text(json.dumps({"recipe_hash": run.recipe.hash()}))
    (run.folder / "DONE").touch()


def fail(run: PlannedRun) -> None:
    (run.folder / "logs").mkdir(parents=True)
    said = {"kind": "ValueError", "sentence": "the loss is NaN"}
    (run.folder / "logs" / "final_0.json").write_text(json.dumps(said))


def test_states_of_a_run_folder(tmp_path: Path) -> None:
    assert state_of(tmp_path / "none") == ("waiting", "")
    recipe = tmp_path / "recipe.yaml"
    recipe.touch()
    assert state_of(tmp_path) == ("running", "")
    starts = tmp_path / "starts.json"
    starts.write_text(json.dumps([{"ended": None}, {"ended": "told to stop"}]))
    assert state_of(tmp_path) == ("stopped", "")
    starts.unlink()
    os.utime(recipe, (time.time() - 3600,) * 2)
    assert state_of(tmp_path) == ("stopped", "")
    (tmp_path / "DONE").touch()
    assert state_of(tmp_path) == ("done", "")


def test_a_run_whose_process_is_gone_is_soon_told_from_one_under_way(tmp_path: Path) -> None:
    """As after kill -9, when nothing could be written down any more."""
    recipe = tmp_path / "recipe.yaml"
    recipe.touch()
    os.utime(recipe, (time.time() - 2 * RESTART_S,) * 2)
    with held(tmp_path):
        assert state_of(tmp_path) == ("running", "")
    assert state_of(tmp_path) == ("stopped", "")
    os.utime(recipe)
    assert state_of(tmp_path) == ("running", "")  # its workers may be on their way back


def test_a_folder_of_another_recipe_is_refused(study: StudyRecipe) -> None:
    first = plan(study)[0]
    finish(first)
    assert state(first)[0] == "done"
    changed = replace(first, recipe=replace(first.recipe, steps=7))
    word, said = state(changed)
    assert word == "refused" and "different in steps; give this one another name" in said
    assert said in describe([changed])[0]


def test_a_source_made_anew_refuses_what_was_tuned_from_the_old_one(study: StudyRecipe) -> None:
    first, _, tuned = plan(study)
    finish(first)
    finish(tuned, source_card={"recipe_hash": first.recipe.hash()})
    assert state(tuned)[0] == "done"
    (first.folder / "card.json").write_text(json.dumps({"recipe_hash": "another"}))
    word, said = state(tuned)
    assert word == "refused" and "before that was made anew by another recipe" in said
    (first.folder / "card.json").unlink()
    assert state(tuned)[0] == "done", "what was made of a source that is gone still counts"


def test_a_run_on_data_made_anew_since_is_refused(study: StudyRecipe, tmp_path: Path) -> None:
    tuned = plan(study)[1]
    use = CollectionUse(made_collection().folder)
    tuned = replace(tuned, recipe=replace(tuned.recipe, collections=(use,)))
    finish(tuned)
    files = made_collection().manifest["files"]
    known = {name: files[name]["sha256"] for name in ("frames.parquet", "pairs.parquet")}
    begun = tuned.folder / "collections.json"
    begun.write_text(json.dumps({str(use.path): known | {"pairs.parquet": "not seen"}}))
    assert state(tuned)[0] == "done"
    begun.write_text(json.dumps({str(use.path): known | {"frames.parquet": "before"}}))
    word, said = state(tuned)
    assert word == "refused" and "has other frames or pairs than when" in said
    gone = replace(tuned.recipe, collections=(CollectionUse(tmp_path / "gone"),))
    finish(replace(tuned, recipe=gone, folder=tmp_path / "other"))
    (tmp_path / "other" / "collections.json").write_text("{}")
    assert state(replace(tuned, recipe=gone, folder=tmp_path / "other"))[0] == "done"


def test_estimates_come_from_runs_of_the_same_size(study: StudyRecipe) -> None:
    first, random, tuned = plan(study)
    assert estimate([tuned])[tuned.name].basis.startswith("a model of a transformer's arithmetic")
    finish(random, seconds=40.0, cost={"memory_mb": 1234.0})
    longer = replace(tuned, recipe=replace(tuned.recipe, steps=200))
    found = estimate([longer, first])
    assert (found[longer.name].seconds, found[longer.name].memory_mb) == (80.0, 1234.0)
    assert found[longer.name].basis.startswith("1 finished run of the same size")
    assert "no finished run of that size" in found[first.name].basis
    lines = describe([first, random, longer])
    assert "done" in lines[1] and "80 s" in lines[2] and "1.2 GB  after 1" in lines[2]


def test_estimates_are_the_middle_of_their_like_in_any_study(study: StudyRecipe) -> None:
    tuned = plan(study)[2]
    several = replace(tuned.recipe.machine, engine="ddp", micro_batch=16)
    tuned = replace(tuned, recipe=replace(tuned.recipe, machine=several))
    beside = study.folder().with_name("another")
    for number, (seconds, memory) in enumerate(((40.0, 10.0), (50.0, 30.0), (900.0, 20.0))):
        like = replace(tuned, folder=(beside if number else study.folder()) / f"like{number}")
        finish(like, seconds=seconds, cost={"memory_mb": memory})
    found = estimate([tuned])[tuned.name]
    assert (found.seconds, found.memory_mb) == (50.0, 30.0)
    assert found.basis.startswith("3 finished runs of the same size")
    for change in (
        {"machine": replace(several, workers=2)},
        {"source": "timm:other"},
        {"global_batch": 64},
    ):
        unlike = replace(tuned, recipe=replace(tuned.recipe, **change))
        assert "no finished run" in estimate([unlike])[tuned.name].basis, change


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (math.nan, "-"),
        (89.0, "89 s"),
        (600.0, "10 min"),
        (5400.0, "1.5 h"),
        (864000.0, "10 days"),
    ],
)
def test_times_are_as_rough_as_estimates(seconds: float, text: str) -> None:
    assert _time(seconds) == text


def test_a_modelled_estimate_grows_with_the_encoder(study: StudyRecipe) -> None:
    run = plan(study)[1]
    encoder = replace(run.recipe.encoder, dim=256)
    larger = replace(run, recipe=replace(run.recipe, encoder=encoder))
    small, large = (estimate([each])[run.name] for each in (run, larger))
    assert 3 < large.seconds / small.seconds < 4.5 and large.memory_mb > small.memory_mb
    fp32 = replace(run, recipe=replace(run.recipe, precision="fp32"))
    assert estimate([fp32])[run.name].memory_mb > small.memory_mb
    pairs = plan(study)[0]
    assert estimate([pairs])[pairs.name].seconds == 2 * small.seconds, "two pictures to a sample"
    foreign = replace(run, recipe=replace(run.recipe, source="timm:resnet50"))
    assert "none for timm:resnet50" in estimate([foreign])[run.name].basis
    assert " - " in describe([foreign])[0] + " "


def test_budgets_say_why_nothing_more_is_started(study: StudyRecipe) -> None:
    runs = plan(study)

    def refusal(**machine: float) -> str | None:
        return Budget(replace(study, machine=replace(study.machine, **machine)), runs).refusal()

    assert refusal() is None and refusal(hours=1.0, failures=1, disk_gb=1.0) is None
    slow = Budget(replace(study, machine=replace(study.machine, hours=2.0)), runs)
    slow.began -= 1.9 * 3600
    assert slow.refusal() is None
    slow.began -= 0.1 * 3600
    assert "the time budget, machine.hours=2, is used up" in str(slow.refusal())
    study.folder().mkdir(parents=True)
    (study.folder() / "big").write_bytes(b"x" * 5000)
    (study.folder() / "gone").symlink_to("nowhere")  # as a file that a run removes meanwhile
    said = str(refusal(disk_gb=1e-6))
    assert "machine.disk_gb=1e-06: raise it, or remove what is not needed of" in said
    assert str(study.folder()) in said
    budget = Budget(replace(study, machine=replace(study.machine, failures=1)), runs)
    fail(runs[1])
    assert "1 run failed, the failure budget is machine.failures=1" in str(budget.refusal())


def test_an_earlier_failure_does_not_use_up_the_budget(study: StudyRecipe) -> None:
    runs = plan(study)
    fail(runs[1])
    os.utime(runs[1].folder / "logs" / "final_0.json", (time.time() - 60,) * 2)
    machine = StudyMachine(out=study.machine.out, failures=1)
    assert Budget(replace(study, machine=machine), runs).refusal() is None


def test_only_finished_fine_tuning_runs_are_freed(study: StudyRecipe) -> None:
    first, random, tuned = plan(study)
    for run in (first, random):
        finish(run)
    for run in (first, random, tuned):
        (run.folder / "checkpoints" / "step_00000001").mkdir(parents=True)
        (run.folder / "checkpoints" / "step_00000001" / "engine").write_bytes(b"x" * 1000)
    assert free_finished([first, random, tuned]) == pytest.approx(1e-6)
    assert not (random.folder / "checkpoints").exists()
    assert (first.folder / "checkpoints").exists() and (tuned.folder / "checkpoints").exists()
    (tuned.folder / STOPPED_FILE).touch()  # by a sweep: never gone on with either
    assert free_finished([first, random, tuned]) == pytest.approx(1e-6)


def test_what_is_to_be_freed_uses_up_no_budget(study: StudyRecipe) -> None:
    """The run that ended a moment ago: the study stopped there, and told to begin it once more."""
    runs = plan(study)
    tuned = next(run for run in runs if run.kind == "finetune")
    finish(tuned)
    (tuned.folder / "checkpoints").mkdir()
    (tuned.folder / "checkpoints" / "engine").write_bytes(b"x" * 50_000_000)
    machine = replace(study.machine, disk_gb=0.03, free_finished=False)
    assert "holds 0.05 GB" in str(Budget(replace(study, machine=machine), runs).refusal())
    machine = replace(machine, free_finished=True)
    assert Budget(replace(study, machine=machine), runs).refusal() is None
    assert not (tuned.folder / "checkpoints").exists()


def test_a_failed_run_that_begins_again_meanwhile_has_not_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last word is removed as it starts, perhaps between a look at the folder and the file."""
    (tmp_path / "logs").mkdir()
    word = tmp_path / "logs" / "final_0.json"
    word.write_text('{"kind": "ValueError", "sentence": "no"}')
    assert state_of(tmp_path) == ("failed", "no") and failed_since(tmp_path, 0.0)
    seen = [*tmp_path.glob("logs/*")]
    word.unlink()
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(seen))
    assert state_of(tmp_path) == ("waiting", "") and not failed_since(tmp_path, 0.0)
