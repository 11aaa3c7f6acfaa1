"""The comparison at full size: its arms differ in their objectives alone, and all of it goes, in
small."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from hpse_dist.config import build, read_yaml
from hpse_dist.recipe import PretrainRecipe
from hpse_dist.report.runs import read_study
from hpse_dist.run import finetune, pretrain
from hpse_dist.study import plan, write_plan
from hpse_dist.study_recipe import StudyRecipe
from hpse_dist.world import World
from tests.data.made_collection import made_collection
from tests.fabricate import tiny_body_file

STUDY = Path(__file__).parents[1] / "configs" / "study" / "sources.yaml"
SMALL = [
    "encoder={name: custom, image_px: 32, patch_px: 8, dim: 24, depth: 1, heads: 2}",
    *("steps=2", "global_batch=8", "evaluate_every=2", "optim.warmup_steps=1"),
    *("machine.micro_batch=8", "machine.engine=plain", "machine.loader_threads=1"),
    "machine.device=cpu",
]
_DECODER = "objective.decoder={name: custom, dim: 16, depth: 1, heads: 2}"
_HEAD = {"head_dim": 16, "head_depth": 1, "heads": 1, "head_hidden": 16}
SMALL_OBJECTIVE = {
    "moco": ["objective.queue=16", "objective.hidden=16"],
    "mae": [_DECODER],
    "completion": [_DECODER],
    "completion_pose2d": [_DECODER, "objective.head_dim=8"],
    "pose2d": ["objective.head_dim=8"],
    "synthetic": [f"objective.{key}={value}" for key, value in _HEAD.items()],
}


def in_small(values: dict[str, Any], folder: Path) -> StudyRecipe:
    """The study on a collection of some frames, without the arm whose weights are timm's."""
    body = tiny_body_file(folder)
    data = f"collections=[{{path: {made_collection().folder}}}]"
    more, one = [*SMALL, data], ["machine.workers=1", f"machine.out={folder}"]
    sources = {name: arm for name, arm in values["sources"].items() if name != "imagenet"}
    for name, overrides in SMALL_OBJECTIVE.items():
        sources[name]["overrides"] = [*sources[name].get("overrides", ()), *overrides]
    sources["synthetic"]["overrides"].append(f"objective.body={body}")
    head = [f"task.{key}={value}" for key, value in _HEAD.items()]
    return build(
        StudyRecipe,
        values
        | {
            "sources": sources,
            "pretraining": [*values["pretraining"], *more, *one],
            "overrides": [*values["overrides"], *more, *head, f"task.body={body}"],
            "label_fractions": [0.5],
            "seeds": [0],
            "baseline": "random",
            "machine": {"out": str(folder)},
        },
    )


def test_arms_differ_in_their_objectives_alone() -> None:
    runs = plan(build(StudyRecipe, read_yaml(STUDY)))
    recipes = [run.recipe for run in runs if isinstance(run.recipe, PretrainRecipe)]
    assert len(recipes) == 6 and len(runs) == 6 + 9 * 3 * 3
    first = recipes[0]
    assert first.encoder.name == "vit_b" and first.encoder.image_px == 224
    same = ("encoder", "collections", "global_batch", "steps", "precision", "optim", "seed")
    for recipe in recipes[1:]:
        for key in same:
            mine, its = getattr(first, key), getattr(recipe, key)
            if key == "optim":
                mine, its = replace(mine, clip=0.0), replace(its, clip=0.0)
            assert its == mine, f"{recipe.name}: {key}"
    tuned = {replace(run.recipe.encoder, drop_path=0.0) for run in runs if run.kind == "finetune"}
    assert tuned == {first.encoder}


def test_every_arm_goes_in_small(tmp_path: Path) -> None:
    study = in_small(read_yaml(STUDY), tmp_path)
    runs = plan(study)
    assert len(runs) == 6 + 8
    folder = write_plan(study, runs)
    for run in runs:
        {"pretrain": pretrain, "finetune": finetune}[run.kind](run.recipe, World(), run.folder)
    done = read_study(folder)
    figures = {one.source: one.metrics["pa_mpjpe"] for one in done.runs if one.task}
    assert figures.keys() == {"random", "blind", *SMALL_OBJECTIVE}
    assert all(value > 0 for value in figures.values())
    assert len({*figures.values()}) == len(figures)
