"""A study as a plan: which runs, in which order, in which folders. Planning starts nothing.

<out>/<study>/plan.json                          what the report reads
<out>/<study>/<source>-<task>-seed<k>/           one fine-tuning run each; where label fractions or
                                                 a grid are studied, <source>-<task>-labels<percent>
                                                 -<key><value>-seed<k>
<out>/<pre-training run>/                        shared with other studies, never made twice

Names say what a run is among its like and nothing else, so another seed, source or value added
later leaves the finished runs where they are.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hpse_dist.config import NAME, ConfigError, load
from hpse_dist.disk import write_text
from hpse_dist.recipe import FinetuneRecipe, PretrainRecipe, located
from hpse_dist.source import WORDS
from hpse_dist.study_recipe import StudyRecipe

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
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Its place in the grid, in a study with one."""
    after: tuple[str, ...] = ()
    """Names of the runs that must be complete before this one."""

    @property
    def target(self) -> str:
        """The function that carries it out, as `module:function`."""
        return f"hpse_dist.run:{self.kind}"


@dataclass(frozen=True)
class _Cell:
    """What a fine-tuning run is of."""

    arm: str
    task: str
    seed: int
    fraction: float | None
    settings: Mapping[str, Any]


def plan(study: StudyRecipe) -> tuple[PlannedRun, ...]:
    """The runs of a study in order: each pre-training once, after the one that it starts from;
    then task x seed x label fraction x grid x source."""
    arms = _Arms(study)
    places = {name: arms.place(name) for name in study.sources}
    cells = [
        _Cell(arm, task, seed, fraction, settings)
        for task in study.tasks
        for seed in study.seeds
        for fraction in study.label_fractions or (None,)
        for settings in _settings(study)
        for arm in study.sources
    ]
    finetunings = [_finetuning(study, cell, *places[cell.arm]) for cell in cells]
    runs = (*arms.pretrainings.values(), *finetunings)
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
            "steps": run.recipe.steps,
            **({} if run.label_fraction is None else {"label_fraction": run.label_fraction}),
            **({"settings": dict(run.settings)} if run.settings else {}),
            **({"after": list(run.after)} if run.after else {}),
        }
        for run in runs
    ]
    document = {"study": study.name, "baseline": study.baseline, "runs": rows}
    write_text(folder / PLAN_FILE, json.dumps(document, indent=1))
    return folder


class _Arms:
    """The arms' encoders: where each is or will be, and the pre-trainings that make them."""

    def __init__(self, study: StudyRecipe) -> None:
        self.sources = study.sources
        self.study = study.name
        self.everywhere = study.pretraining
        self.pretrainings: dict[tuple[Any, ...], PlannedRun] = {}  # by recipe: arms may share one
        self._under_way: list[str] = []

    def place(self, name: str) -> tuple[str, tuple[str, ...]]:
        """What a recipe's `source` says of an arm, and the runs that must be complete before."""
        _check_name(name, "sources")
        source = self.sources[name]
        if source.run is not None:
            return source.run if _is_word(source.run) else str(located(source.run)), ()
        assert source.pretrain is not None
        first, after = self._first(name)
        run = self.pretrainings.get(key := (str(source.pretrain), source.overrides, first))
        if run is None:
            run = self.pretrainings[key] = self._pretraining(name, first, after)
        return str(run.folder), (run.name,)

    def _first(self, name: str) -> tuple[str, tuple[str, ...]]:
        """The place of the arm that an arm starts from, ("", ()) where it names none."""
        other = self.sources[name].starts_from
        if other is None:
            return "", ()
        if other not in self.sources:
            raise ConfigError(
                f"study, sources.{name}: starts_from must be another of the sources "
                f"({', '.join(self.sources)}), found {other!r}"
            )
        self._under_way.append(name)
        if other in self._under_way:
            circle = " from ".join([*self._under_way, other])
            raise ConfigError(f"study, sources: no arm can be the first of {circle}")
        found = self.place(other)
        self._under_way.pop()
        return found

    def _pretraining(self, arm: str, first: str, after: tuple[str, ...]) -> PlannedRun:
        """A changed recipe is another run, named after the arm unless its overrides name it."""
        source = self.sources[arm]
        assert source.pretrain is not None
        overrides = (*self.everywhere, *source.overrides)
        if first:
            overrides = (*overrides, f"source={json.dumps(first)}")
        recipe = load(PretrainRecipe, source.pretrain, overrides)
        if overrides and not any(key.startswith("name=") for key in overrides):
            whose = self.study if self.everywhere else recipe.name
            overrides = (*overrides, f"name={whose}-{arm}")
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
            after=after,
        )


def _settings(study: StudyRecipe) -> list[dict[str, Any]]:
    """Every combination of the grid; one without any settings where there is no grid."""
    values = itertools.product(*study.grid.values())
    return [dict(zip(study.grid, chosen, strict=True)) for chosen in values]


def _finetuning(study: StudyRecipe, cell: _Cell, place: str, after: tuple[str, ...]) -> PlannedRun:
    _check_name(cell.task, "tasks")
    name = _run_name(cell)
    overrides = (
        *study.overrides,
        *(f"{key}={json.dumps(value)}" for key, value in cell.settings.items()),
        f"name={name}",
        f"seed={cell.seed}",
        f"source={json.dumps(place)}",
        f"source_name={cell.arm}",
        "machine.workers=1",  # many runs side by side, each in one process
        f"machine.out={json.dumps(str(study.folder()))}",
        *(() if cell.fraction is None else (f"label_fraction={cell.fraction!r}",)),
    )
    recipe = load(FinetuneRecipe, study.tasks[cell.task], overrides)
    return PlannedRun(
        name=name,
        kind="finetune",
        path=study.tasks[cell.task],
        overrides=overrides,
        folder=recipe.folder(),
        recipe=recipe,
        source=cell.arm,
        task=cell.task,
        seed=cell.seed,
        label_fraction=cell.fraction,
        settings=cell.settings,
        after=after,
    )


def _run_name(cell: _Cell) -> str:
    """A folder's name out of what the run is; keys of the grid by their last part, if it tells
    them apart."""
    lasts = [key.rpartition(".")[2] for key in cell.settings]
    parts = [cell.arm, cell.task]
    if cell.fraction is not None:
        parts.append(f"labels{100 * cell.fraction:g}")
    for (key, value), last in zip(cell.settings.items(), lasts, strict=True):
        shown = f"{_number(value):g}" if _number(value) is not None else str(value)
        parts.append(f"{last if lasts.count(last) == 1 else key}{shown}")
    return re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join([*parts, f"seed{cell.seed}"]))


def _number(value: Any) -> float | None:
    """YAML's 3e-4 is text; as a number it is 0.0003, in whatever way it is written."""
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def _is_word(source: str) -> bool:
    """`random`, `blind`, or a name behind a door such as timm:vit_small, rather than a path."""
    return source in WORDS or re.match(r"[a-z_]+:", source) is not None


def _check_name(name: str, section: str) -> None:
    if not re.fullmatch(NAME, name):
        raise ConfigError(
            f"study, {section}: names become folders, so they are made of letters, digits, '.', "
            f"'_' and '-'; found {name!r}"
        )


def _check_folders(runs: tuple[PlannedRun, ...]) -> None:
    """Two runs in one folder would overwrite each other."""
    owners: dict[Path, PlannedRun] = {}
    for run in runs:
        other = owners.setdefault(run.folder, run)
        alike = run.kind == "finetune" and (run.source, run.task) == (other.source, other.task)
        if other is not run and alike:
            raise ConfigError(
                f"study: two runs of {run.path} would be in {run.folder}: values of the grid, or "
                "label fractions, that are one number; leave one of them out"
            )
        if other is not run:
            raise ConfigError(
                f"study: {run.path} and {other.path} both make {run.folder}; give one another name"
            )
