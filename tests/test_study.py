"""The plan of a study: names, order, overrides, folders; nothing is started."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpse_dist.config import ConfigError, build
from hpse_dist.recipe import FinetuneRecipe
from hpse_dist.study import plan, write_plan
from hpse_dist.study_recipe import StudyRecipe
from hpse_dist.study_state import describe

PRETRAIN = """
name: {name}
collections: [{{path: collections/demo}}]
steps: 30
seed: 4
global_batch: 64
machine: {{workers: 2, micro_batch: 32, out: {out}}}
"""
FINETUNE = """
name: unused
collections: [{{path: collections/demo}}]
steps: 20
global_batch: 32
machine: {{workers: 2, micro_batch: 16, engine: ddp, out: {out}}}
"""


@pytest.fixture
def values(tmp_path: Path) -> dict:
    for name in ("completion", "mae"):
        text = PRETRAIN.format(name=name, out=tmp_path / "runs")
        (tmp_path / f"{name}.yaml").write_text(text)
    (tmp_path / "mesh.yaml").write_text(FINETUNE.format(out=tmp_path / "elsewhere"))
    return {
        "name": "study",
        "sources": {
            "random": {"run": "random"},
            "completion": {"pretrain": str(tmp_path / "completion.yaml")},
            "again": {"pretrain": str(tmp_path / "completion.yaml")},
            "mae": {"pretrain": str(tmp_path / "mae.yaml")},
            "found": {"run": str(tmp_path / "old run")},
        },
        "tasks": {"mesh": str(tmp_path / "mesh.yaml")},
        "seeds": [0, 3],
        "overrides": ["steps=10"],
        "machine": {"out": str(tmp_path / "runs")},
    }


def test_pretraining_comes_first_and_is_shared(values: dict, tmp_path: Path) -> None:
    runs = plan(build(StudyRecipe, values))
    assert [run.name for run in runs[:2]] == ["completion", "mae"]
    assert [run.kind for run in runs] == ["pretrain"] * 2 + ["finetune"] * 10
    assert runs[0].folder == tmp_path / "runs" / "completion"
    by_name = {run.name: run for run in runs}
    for arm in ("completion", "again"):
        run = by_name[f"{arm}-mesh-seed3"]
        assert run.after == ("completion",)
        assert isinstance(run.recipe, FinetuneRecipe)
        assert run.recipe.source == str(tmp_path / "runs" / "completion")
        assert run.recipe.source_name == arm


def test_arms_may_change_a_shared_recipe(values: dict, tmp_path: Path) -> None:
    recipe = str(tmp_path / "completion.yaml")
    values["sources"] |= {
        "short": {"pretrain": recipe, "overrides": ["steps=7"]},
        "named": {"pretrain": recipe, "overrides": ["steps=8", "name=other"]},
        "short_again": {"pretrain": recipe, "overrides": ["steps=7"]},
    }
    runs = {run.name: run for run in plan(build(StudyRecipe, values))}
    assert runs["completion"].recipe.steps == 30
    assert runs["completion-short"].recipe.steps == 7 and runs["other"].recipe.steps == 8
    assert runs["completion-short"].folder == tmp_path / "runs" / "completion-short"
    assert runs["short_again-mesh-seed0"].after == ("completion-short",)
    assert runs["short-mesh-seed0"].recipe.source == str(runs["completion-short"].folder)


def test_every_pre_training_may_be_changed_alike(values: dict, tmp_path: Path) -> None:
    recipe = str(tmp_path / "completion.yaml")
    values["pretraining"] = ["steps=7", "global_batch=128"]
    values["sources"]["longer"] = {"pretrain": recipe, "overrides": ["steps=9"]}
    runs = {run.name: run for run in plan(build(StudyRecipe, values))}
    name = values["name"]
    made = {n: run.recipe.steps for n, run in runs.items() if run.kind == "pretrain"}
    assert made == {f"{name}-completion": 7, f"{name}-mae": 7, f"{name}-longer": 9}
    assert {run.recipe.global_batch for run in runs.values() if run.kind == "pretrain"} == {128}
    assert runs["longer-mesh-seed0"].after == (f"{name}-longer",)
    assert runs["longer-mesh-seed0"].recipe.steps not in (7, 9)


def test_fine_tuning_runs_are_the_recipe_with_few_changes(values: dict, tmp_path: Path) -> None:
    runs = plan(build(StudyRecipe, values))
    run = next(run for run in runs if run.name == "random-mesh-seed3")
    recipe = run.recipe
    assert (recipe.seed, recipe.steps, recipe.name) == (3, 10, "random-mesh-seed3")
    assert recipe.machine.workers == 1
    assert recipe.machine.engine == "ddp"
    assert run.folder == recipe.folder() == tmp_path / "runs" / "study" / "random-mesh-seed3"
    assert run.target == "hpse_dist.run:finetune"
    found = next(run for run in runs if run.name == "found-mesh-seed0").recipe
    assert isinstance(found, FinetuneRecipe)
    assert found.source == str(tmp_path / "old run")


def test_sources_that_are_there_are_folders_under_the_root_or_words(
    values: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPSE_ROOT", str(tmp_path))
    values["sources"] |= {"near": {"run": "runs/old"}, "theirs": {"run": "timm:vit_small"}}
    runs = {run.name: run.recipe for run in plan(build(StudyRecipe, values))}
    for arm, source in (("near", str(tmp_path / "runs/old")), ("theirs", "timm:vit_small")):
        recipe = runs[f"{arm}-mesh-seed0"]
        assert isinstance(recipe, FinetuneRecipe) and recipe.source == source


def test_the_plan_is_the_same_each_time_and_starts_nothing(values: dict, tmp_path: Path) -> None:
    study = build(StudyRecipe, values)
    assert plan(study) == plan(study)
    assert not (tmp_path / "runs").exists()


def test_seeds_interleave_sources(values: dict) -> None:
    """After each seed every source has been seen: a study cut short still compares."""
    names = [run.name for run in plan(build(StudyRecipe, values)) if run.kind == "finetune"]
    assert all("seed0" in name for name in names[:5])
    assert all("seed3" in name for name in names[5:])
    values["tasks"]["other"] = values["tasks"]["mesh"]
    names = [run.name for run in plan(build(StudyRecipe, values)) if run.kind == "finetune"]
    assert [name.partition("-")[2] for name in names[::5]] == [
        *("mesh-seed0", "mesh-seed3", "other-seed0", "other-seed3")
    ]


def test_label_fractions_are_an_axis(values: dict, tmp_path: Path) -> None:
    study = build(StudyRecipe, values | {"label_fractions": [0.05, 1.0]})
    runs = [run for run in plan(study) if run.kind == "finetune"]
    assert len(runs) == 20
    assert [run.name for run in runs[4:6]] == [
        "found-mesh-labels5-seed0",
        "random-mesh-labels100-seed0",
    ]
    for run in runs:
        assert isinstance(run.recipe, FinetuneRecipe)
        assert run.recipe.label_fraction == run.label_fraction and run.recipe.steps == 10
        assert (run.label_fraction == 0.05) == ("labels5-" in run.name)
    rows = json.loads((write_plan(study, plan(study)) / "plan.json").read_text())["runs"]
    assert "label_fraction" not in rows[0] and rows[2]["label_fraction"] == 0.05
    few = plan(build(StudyRecipe, values | {"label_fractions": [0.001, 0.005]}))
    assert few[2].name == "random-mesh-labels0.1-seed0" and few[7].name.endswith("labels0.5-seed0")


def test_the_plan_is_written_for_the_report(values: dict, tmp_path: Path) -> None:
    study = build(StudyRecipe, values)
    folder = write_plan(study, plan(study))
    document = json.loads((folder / "plan.json").read_text())
    assert (document["study"], document["baseline"]) == ("study", "random")
    assert (document["runs"][0]["name"], document["runs"][0]["seed"]) == ("completion", 4)
    assert document["runs"][2] == {
        "name": "random-mesh-seed0",
        "kind": "finetune",
        "folder": str(folder / "random-mesh-seed0"),
        "source": "random",
        "task": "mesh",
        "seed": 0,
        "steps": 10,
    }


def test_the_description_says_what_is_done(values: dict, tmp_path: Path) -> None:
    runs = plan(build(StudyRecipe, values))
    runs[0].folder.mkdir(parents=True)
    (runs[0].folder / "DONE").touch()
    lines = describe(runs)
    assert "done" in lines[0] and "30 steps" in lines[0]
    assert "waiting" in lines[1] and "waiting" in lines[3] and "after 1" in lines[3]
    assert "12 runs: 1 done, 11 waiting; 130 steps to go, about" in lines[12]
    assert lines[13].startswith("estimates: a model of a transformer's arithmetic")
    assert len(lines) == 14


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sources": {"a/b": {"run": "random"}}, "baseline": "a/b"}, "names become folders"),
        ({"tasks": {"..": "x.yaml"}}, "names become folders"),
        ({"tasks": {"mesh": "absent.yaml"}}, "absent.yaml: no such recipe file, looked for in /"),
        ({"overrides": ["stepz=3"]}, "did you mean 'steps'"),
        ({"baseline": "nobody"}, "baseline must be one of the sources"),
        ({"seeds": [1, 1]}, "seeds must differ from one another"),
        ({"label_fractions": [0.5, 2.0]}, "label_fractions must be in"),
        ({"grid": {"seed": [1]}}, "grid: seed is the plan's own"),
        ({"grid": {"machine.workers": [1, 2]}}, "decides no result"),
        ({"grid": {"optim.lr": []}}, "optim.lr has no values"),
        ({"grid": {"optim.rate": [1]}}, "unknown key 'rate'"),
        ({"grid": {"optim.lr": ["3e-4", 0.0003]}}, r"lr0\.0003-seed0: values .* are one number"),
        ({"label_fractions": [0.5, 0.5]}, r"labels50-seed0: values .* are one number"),
        ({"overrides": ["seed=7"]}, "overrides: seed is the plan's own"),
        ({"overrides": ["steps=7", "machine.out=x"]}, "overrides: machine.out is the plan's own"),
        (
            {"overrides": ["optim.lr=1"], "grid": {"optim.lr": [1, 2]}},
            "overrides: optim.lr is what is varied",
        ),
        (
            {"overrides": ["label_fraction=1"], "label_fractions": [0.5]},
            "overrides: label_fraction is what is varied",
        ),
        ({"machine": {"hours": 0}}, "hours must be above 0"),
        ({"pretraining": ["name=a"]}, "pretraining: name is each arm's own"),
        ({"pretraining": ["source=a"]}, "pretraining: source is each arm's own"),
        (
            {"pretraining": ["steps=4"], "sources": {"random": {"run": "random"}}},
            "no source names one under pretrain",
        ),
    ],
)
def test_what_cannot_be_planned_is_said(values: dict, change: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        plan(build(StudyRecipe, values | change))


def test_one_share_of_the_labels_may_be_an_override(values: dict) -> None:
    runs = plan(build(StudyRecipe, values | {"overrides": ["label_fraction=0.25"]}))
    assert isinstance(runs[-1].recipe, FinetuneRecipe) and runs[-1].recipe.label_fraction == 0.25


def test_two_starts_of_one_arm_are_refused(values: dict) -> None:
    arm = values["sources"]["completion"] | {"starts_from": "found", "overrides": ["source=a"]}
    values["sources"]["tuned"] = arm
    with pytest.raises(ConfigError, match=r"sources\.tuned: starts_from \(found\) and an override"):
        build(StudyRecipe, values)


def test_two_recipes_for_one_folder_are_refused(values: dict, tmp_path: Path) -> None:
    text = PRETRAIN.format(name="completion", out=tmp_path / "runs")
    (tmp_path / "mae.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"mae\.yaml and .*completion\.yaml both make"):
        plan(build(StudyRecipe, values))


def test_the_grid_is_an_axis_with_stable_names(values: dict) -> None:
    grid = {"optim.lr": ["3e-4", 0.001], "optim.weight_decay": [0.05]}
    runs = [r for r in plan(build(StudyRecipe, values | {"grid": grid})) if r.kind == "finetune"]
    assert len(runs) == 20
    first, other = runs[0], runs[5]
    assert first.name == "random-mesh-lr0.0003-weight_decay0.05-seed0"
    assert other.name == "random-mesh-lr0.001-weight_decay0.05-seed0"
    assert (first.recipe.optim.lr, other.recipe.optim.lr) == (3e-4, 1e-3)
    assert first.settings == {"optim.lr": "3e-4", "optim.weight_decay": 0.05}
    wider = grid | {"optim.lr": ["3e-4", 0.001, 0.01], "optim.weight_decay": [0.05, 0.1]}
    later = {r.name for r in plan(build(StudyRecipe, values | {"grid": wider}))}
    assert {run.name for run in runs} <= later  # a value added later leaves the finished runs


def test_keys_of_one_last_part_are_told_apart(values: dict) -> None:
    grid = {"encoder.name": ["vit_s"], "task.name": ["body_mesh"], "optim.clip": [1.0]}
    names = [run.name for run in plan(build(StudyRecipe, values | {"grid": grid}))]
    switch = plan(build(StudyRecipe, values | {"grid": {"encoder_frozen": [True, False]}}))
    assert switch[2].name == "random-mesh-encoder_frozenTrue-seed0"
    assert "random-mesh-encoder.namevit_s-task.namebody_mesh-clip1-seed0" in names


def test_an_arm_may_start_from_an_arm(values: dict, tmp_path: Path) -> None:
    """Asked for before its start, an arm still comes after it, and shared starts are run once."""
    recipe = str(tmp_path / "completion.yaml")
    values["sources"] = {
        "third": {"pretrain": str(tmp_path / "mae.yaml"), "starts_from": "second"},
        "second": {"pretrain": recipe, "starts_from": "completion", "overrides": ["steps=5"]},
        **values["sources"],
        "fourth": {"pretrain": recipe, "starts_from": "second", "overrides": ["steps=6"]},
        "tuned": {"pretrain": recipe, "starts_from": "found"},
    }
    runs = {run.name: run for run in plan(build(StudyRecipe, values))}
    names = list(runs)
    assert names[:3] == ["completion", "completion-second", "mae-third"]
    assert runs["mae-third"].after == ("completion-second",)
    assert runs["completion-second"].after == ("completion",)
    assert runs["completion-second"].recipe.source == str(runs["completion"].folder)
    assert runs["third-mesh-seed0"].after == ("mae-third",)
    assert runs["completion-fourth"].after == ("completion-second",)
    assert runs["completion-tuned"].after == ()
    assert runs["completion-tuned"].recipe.source == str(tmp_path / "old run")
    assert names.count("completion") == 1


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("loop", "no arm can be the first of loop from back from loop"),
        ("nobody", "sources.back: starts_from must be another of the sources"),
    ],
)
def test_starts_that_cannot_be_are_said(
    values: dict, tmp_path: Path, other: str, words: str
) -> None:
    recipe = str(tmp_path / "completion.yaml")
    values["sources"] |= {
        "loop": {"pretrain": recipe, "starts_from": "back"},
        "back": {"pretrain": recipe, "starts_from": other},
    }
    with pytest.raises(ConfigError, match=words):
        plan(build(StudyRecipe, values))
