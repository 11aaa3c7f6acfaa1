"""A study as a plan: which runs, in which order, in which folders. Planning starts nothing.

<out>/<study>/plan.json                          what the report reads
<out>/<study>/<source>-<task>-seed<k>/           one fine-tuning run each; in a study of label
                                                 fractions <source>-<task>-labels<percent>-seed<k>
<out>/<pre-training run>/                        shared with other studies, never made twice
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hpse_dist.config import ConfigError, load
from hpse_dist.recipe import (
    RUN_NAME,
    FinetuneRecipe,
    PretrainRecipe,
    located,
)
from hpse_dist.study_recipe import StudyRecipe, StudySource

PLAN_FILE = "plan.json"


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study: a recipe, what is changed in it, and where it goes."""

    name: str
    kind: Literal["pretrain", "finetune"]
    path: Path
    """The recipe's YAML."""
    overrides: tuple[str, ...]
    """key=value applied to it."""
    folder: Path
    recipe: PretrainRecipe | FinetuneRecipe
    source: str
    """The arm of the study."""
    task: str = ""
    seed: int = 0
    label_fraction: float | None = None
    """The share of the labels, in a study of several."""
    after: tuple[str, ...] = ()
    """Names of the runs that must be complete before this one."""

    @property
    def target(self) -> str:
        """The function that carries it out, as `module:function`."""
        return f"hpse_dist.run:{self.kind}"


def plan(study: StudyRecipe) -> tuple[PlannedRun, ...]:
    """The runs of a study in order: each pre-training once, then source x task x seed."""
    pretrainings: dict[tuple[Any, ...], PlannedRun] = {}  # by recipe: arms may share one
    arms: dict[str, tuple[str, tuple[str, ...]]] = {}
    for name, source in study.sources.items():
        _check_name(name, "sources")
        if source.pretrain is not None:
            key = (str(source.pretrain), source.overrides)
            run = pretrainings.setdefault(key, _pretraining(name, source))
            arms[name] = str(run.folder), (run.name,)
        else:
            assert source.run is not None
            place = source.run if _is_word(source.run) else str(located(source.run))
            arms[name] = place, ()
    finetunings = [
        _finetuning(study, name, task, seed, fraction, *arms[name])
        for task in study.tasks
        for seed in study.seeds
        for fraction in study.label_fractions or (None,)
        for name in study.sources
    ]
    runs = (*pretrainings.values(), *finetunings)
    _check_folders(runs)
    return runs


def write_plan(study: StudyRecipe, runs: tuple[PlannedRun, ...]) -> Path:
    """Write the plan into the study's folder for the report; returns that folder."""
    folder = study.folder()
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = [
        {
            "name": run.name,
            "kind": run.kind,
            "folder": str(run.folder),
            "source": run.source,
            "task": run.task,
            "seed": run.seed,
            **({} if run.label_fraction is None else {"label_fraction": run.label_fraction}),
        }
        for run in runs
    ]
    document = {"study": study.name, "baseline": study.baseline, "runs": rows}
    temporary = folder / f".{PLAN_FILE}.partial"
    temporary.write_text(json.dumps(document, indent=1), encoding="utf-8")
    temporary.replace(folder / PLAN_FILE)
    return folder


def describe(runs: tuple[PlannedRun, ...]) -> list[str]:
    """The plan as lines of text: number, name, recipe, steps, folder, and whether it is done."""
    width = max(len(run.name) for run in runs)
    return [
        f"{number:3d}  {run.kind:8s}  {run.name:{width}s}  {run.recipe.steps:7d} steps  "
        f"{'done ' if (run.folder / 'DONE').is_file() else 'to do'}  {run.folder}"
        for number, run in enumerate(runs, start=1)
    ]


def _pretraining(arm: str, source: StudySource) -> PlannedRun:
    """A recipe changed by overrides is another run, named after the arm unless they name it."""
    assert source.pretrain is not None
    overrides = source.overrides
    recipe = load(PretrainRecipe, source.pretrain, overrides)
    if overrides and not any(key.startswith("name=") for key in overrides):
        overrides = (*overrides, f"name={recipe.name}-{arm}")
        recipe = load(PretrainRecipe, source.pretrain, overrides)
    return PlannedRun(
        name=recipe.name,
        kind="pretrain",
        path=source.pretrain,
        overrides=overrides,
        folder=recipe.folder(),
        recipe=recipe,
        source=arm,
        seed=recipe.seed,
    )


def _finetuning(
    study: StudyRecipe,
    arm: str,
    task: str,
    seed: int,
    fraction: float | None,
    place: str,
    after: tuple[str, ...],
) -> PlannedRun:
    _check_name(task, "tasks")
    labels = "" if fraction is None else f"-labels{100 * fraction:g}"
    name = f"{arm}-{task}{labels}-seed{seed}"
    overrides = (
        *study.overrides,
        f"name={name}",
        f"seed={seed}",
        f"source={json.dumps(place)}",
        f"source_name={arm}",
        "machine.workers=1",  # many runs side by side, each in one process
        f"machine.out={json.dumps(str(study.folder()))}",
        *(() if fraction is None else (f"label_fraction={fraction!r}",)),
    )
    recipe = load(FinetuneRecipe, study.tasks[task], overrides)
    return PlannedRun(
        name=name,
        kind="finetune",
        path=study.tasks[task],
        overrides=overrides,
        folder=recipe.folder(),
        recipe=recipe,
        source=arm,
        task=task,
        seed=seed,
        label_fraction=fraction,
        after=after,
    )


def _is_word(source: str) -> bool:
    """`random`, or a name behind a door such as timm:vit_small, rather than a path."""
    return source == "random" or re.match(r"[a-z_]+:", source) is not None


def _check_name(name: str, section: str) -> None:
    if not re.fullmatch(RUN_NAME, name):
        raise ConfigError(
            f"study, {section}: names become folders, so they are made of letters, digits, '.', "
            f"'_' and '-'; found {name!r}"
        )


def _check_folders(runs: tuple[PlannedRun, ...]) -> None:
    """Two runs in one folder would overwrite each other."""
    owners: dict[Path, PlannedRun] = {}
    for run in runs:
        other = owners.setdefault(run.folder, run)
        if other is not run:
            raise ConfigError(
                f"study: {run.path} and {other.path} both make {run.folder}; give one another name"
            )
