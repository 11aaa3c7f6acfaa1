"""A sweep as a plan: for every source the same settings, tried in rounds. Planning starts nothing.

    <out>/<sweep>/plan.json, <source>-<round>-<settings>-seed<k>/   as a study's, for the report
    <out>/<sweep>/sweep.json                                        every trial, its state, its ste

The first round is cheap, such as a probe of the frozen encoder; each next one is of the settings
that came out best for a source. Of each round the losers are stopped early.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpse_dist.config import ConfigError, check_name
from hpse_dist.disk import write_text
from hpse_dist.draws import generator
from hpse_dist.recipe import located
from hpse_dist.report.meanings import METRICS
from hpse_dist.report.runs import STOPPED, STOPPED_FILE, SWEEP_FILE
from hpse_dist.report.tables import metric
from hpse_dist.study import PlannedRun, plan
from hpse_dist.study_recipe import (
    PLANNED,
    StudyMachine,
    StudyRecipe,
    StudySource,
    check_overrides,
    check_pretraining,
)

UNFINISHED = "unfinished"
RANKING = [name for name, what in METRICS.items() if what.better]


@dataclass(frozen=True)
class Range:
    """The values of one hyper-parameter: a list of choices, or a range on a logarithmic scale."""

    values: tuple[Any, ...] = ()
    """Choices."""
    low: float | None = None
    """Lowest value of a range."""
    high: float | None = None
    """Highest."""
    points: int = 5
    """How many of a range a grid takes, both ends among them."""

    def __post_init__(self) -> None:
        if bool(self.values) == (self.low is not None and self.high is not None):
            raise ValueError("give either values, or low and high")
        if self.low is not None and self.high is not None and not 0 < self.low < self.high:
            raise ValueError(f"low must be above 0 and below high, found {self.low}, {self.high}")
        if self.points < 2:
            raise ValueError(f"points must be at least 2, found {self.points}")

    def grid(self) -> tuple[Any, ...]:
        if self.values:
            return self.values
        return tuple(self._at(i / (self.points - 1)) for i in range(self.points))

    def draw(self, share: float) -> Any:
        """The value at a share, 0..1, of the choices or of the range."""
        if self.values:
            return self.values[min(int(share * len(self.values)), len(self.values) - 1)]
        return self._at(share)

    def _at(self, share: float) -> float:
        assert self.low is not None and self.high is not None
        return float(f"{self.low * (self.high / self.low) ** share:.3g}")  # names of folders


@dataclass(frozen=True)
class Round:
    """One round of a sweep."""

    recipe: Path
    """A fine-tuning recipe."""
    overrides: tuple[str, ...] = ()
    """key=value applied to it."""
    keep: int = 2
    """So many of a source's settings, the best ones, go on to the next round."""
    looks: int = 4
    """Evaluations of a run: the first is where losers may first be stopped."""

    def __post_init__(self) -> None:
        if self.keep < 1 or self.looks < 1:
            raise ValueError(
                f"keep and looks must be at least 1, found {self.keep} and {self.looks}"
            )


@dataclass(frozen=True)
class SweepRecipe:
    """Hyper-parameters of fine-tuning, tried for every source alike."""

    name: str
    """Name of the sweep and of its folder."""
    sources: dict[str, StudySource]
    """The arms, as in a study."""
    rounds: dict[str, Round]
    """In this order; with two or more the report holds a table of each."""
    space: dict[str, Range]
    """Dotted key -> its values."""
    metric: str
    """What settings are judged by, on held-out people, such as joint_error or pa_mpjpe."""
    pretraining: tuple[str, ...] = ()
    """key=value applied to every pre-training recipe, as in a study."""
    samples: int | None = None
    """So many settings drawn from the space, the same for every source; null: every combination."""
    reduction: int = 3
    """At each look one of so many runs goes on (ASHA, Li et al. 2020)."""
    seed: int = 0
    """Of the drawn settings and of every run."""
    baseline: str = "random"
    """The arm that the report compares with."""
    machine: StudyMachine = field(default_factory=StudyMachine)
    """Below the line: where."""

    def __post_init__(self) -> None:
        check_name(self.name)
        if not (self.sources and self.rounds and self.space):
            raise ValueError("a sweep needs at least one source, one round and one key in space")
        if self.baseline not in self.sources:
            raise ValueError(
                f"baseline must be one of the sources {', '.join(self.sources)}, "
                f"found {self.baseline!r}"
            )
        if self.samples is not None and self.samples < 1:
            raise ValueError(f"samples must be at least 1, or null for all; found {self.samples}")
        if self.reduction < 2:
            raise ValueError(f"reduction must be at least 2, found {self.reduction}")
        if not metric(self.metric).better:
            known = ", ".join(RANKING)
            raise ValueError(f"metric: {self.metric!r} ranks nothing; choose of {known}")
        for key in self.space:
            if key in (*PLANNED, "steps") or key.startswith("machine."):
                raise ValueError(
                    f"space: {key} is the sweep's own or decides no result; name hyper-parameters "
                    "such as optim.lr"
                )
        check_pretraining(self.pretraining, self.sources)
        for name, one in self.rounds.items():
            check_overrides(f"rounds.{name}.overrides", one.overrides, self.space)

    def folder(self) -> Path:
        return located(self.machine.out) / self.name

    def lower_is_better(self) -> bool:
        return metric(self.metric).better != "higher"

    def settings(self) -> list[dict[str, Any]]:
        """What is tried, the same for every source."""
        if self.samples is None:
            chosen = list(itertools.product(*(one.grid() for one in self.space.values())))
        else:
            draw = generator(self.seed, "sweep").random((self.samples, len(self.space)))
            spaces = self.space.values()
            chosen = [
                tuple(one.draw(float(u)) for one, u in zip(spaces, row, strict=True))
                for row in draw
            ]
        found = [dict(zip(self.space, values, strict=True)) for values in chosen]
        return [one for i, one in enumerate(found) if one not in found[:i]]

    def as_study(self, name: str, settings: Sequence[Mapping[str, Any]]) -> list[StudyRecipe]:
        """A round's runs of some settings, one study of one place in the grid each."""
        this = self.rounds[name]
        return [
            StudyRecipe(
                self.name,
                self.sources,
                {name: this.recipe},
                seeds=(self.seed,),
                grid={key: (value,) for key, value in one.items()},
                baseline=self.baseline,
                pretraining=self.pretraining,
                overrides=this.overrides,
                machine=self.machine,
            )
            for one in settings
        ]


def round_runs(
    sweep: SweepRecipe, name: str, settings: Mapping[str, Sequence[Mapping[str, Any]]]
) -> tuple[list[PlannedRun], list[PlannedRun]]:
    """The pre-trainings that a round needs, and its trials; `settings` by source."""
    wanted = [one for one in sweep.settings() if any(one in mine for mine in settings.values())]
    first: dict[str, PlannedRun] = {}
    trials = []
    for study in sweep.as_study(name, wanted):
        for run in plan(study):
            if run.kind == "pretrain":
                first[run.name] = run
            elif dict(run.settings) in [dict(one) for one in settings[run.source]]:
                trials.append(run)
    if len({run.folder for run in trials}) < len(trials):
        raise ConfigError(
            f"sweep {sweep.name}, space: two settings differ too little to have folders of their "
            "own (six digits of a number are told apart); name values that are farther apart"
        )
    return list(first.values()), trials


@dataclass(frozen=True)
class Trial:
    """How a run of a sweep stands."""

    name: str
    source: str
    round: str
    settings: Mapping[str, Any]
    state: str
    """done, stopped early, or unfinished."""
    step: int
    steps: int
    value: float
    """Of the sweep's metric at its last evaluation; NaN before one."""
    history: tuple[tuple[int, float], ...] = field(default=())


def trial(run: PlannedRun, history: Sequence[tuple[int, float]]) -> Trial:
    """A run with its evaluations (step, value)."""
    ended = (run.folder / "DONE").is_file()
    early = (run.folder / STOPPED_FILE).is_file()
    state = "done" if ended else STOPPED if early else UNFINISHED
    step, value = history[-1] if history else (0, math.nan)
    step = run.recipe.steps if ended else step
    return Trial(
        run.name,
        run.source,
        run.task,
        run.settings,
        state,
        step,
        run.recipe.steps,
        value,
        tuple(history),
    )


def survivors(sweep: SweepRecipe, trials: Sequence[Trial], keep: int) -> dict[str, list[Any]]:
    """Each source's best settings: of runs that went to their end, then of those that were stopped
    last, as a run that was stopped at a later look had beaten more of the others."""
    sign = 1.0 if sweep.lower_is_better() else -1.0
    found: dict[str, list[Any]] = {source: [] for source in sweep.sources}
    known = [one for one in trials if one.state != UNFINISHED and math.isfinite(one.value)]
    for one in sorted(known, key=lambda one: (-one.step, sign * one.value)):
        if len(found[one.source]) < keep:
            found[one.source].append(dict(one.settings))
    return found


def steps_saved(trials: Sequence[Trial]) -> tuple[int, int]:
    """Steps that early stopping left out, and steps of all the trials had they run to their end."""
    early = [one for one in trials if one.state == STOPPED]
    return sum(one.steps - one.step for one in early), sum(one.steps for one in trials)


def write_trials(sweep: SweepRecipe, trials: Sequence[Trial]) -> Path:
    """sweep.json in the sweep's folder: every trial, not only the best."""
    saved, whole = steps_saved(trials)
    rows = [
        {
            "name": one.name,
            "source": one.source,
            "round": one.round,
            "settings": dict(one.settings),
            "state": one.state,
            "step": one.step,
            "steps": one.steps,
            sweep.metric: one.value if math.isfinite(one.value) else None,
            "history": [[step, value] for step, value in one.history],
        }
        for one in trials
    ]
    document = {
        "metric": sweep.metric,
        "rounds": list(sweep.rounds),
        "steps_saved": saved,
        "steps": whole,
        "trials": rows,
    }
    path = sweep.folder() / SWEEP_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(document, indent=1))
    return path
