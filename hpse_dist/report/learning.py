"""How sources learn: how fast, from how few labels, and how much hangs on the hyper-parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpse_dist.report.runs import STOPPED, Run, Study
from hpse_dist.report.statistics import (
    Interval,
    LabelsNeeded,
    area_under,
    interval,
    labels_to_match,
    steps_to,
)
from hpse_dist.report.tables import TaskTable, best_settings, by_settings, judged, metric

NEAR = 5.0  # percent of its final error within which a run counts as arrived


@dataclass(frozen=True)
class Convergence:
    """How fast one source comes down on one task; intervals over seeds."""

    source: str
    arrived: Interval
    """Steps until the error stays within NEAR % of the run's own final one."""
    at_once: bool
    """Every seed was there at its first evaluation already."""
    baseline_met: Interval
    """Steps until the baseline's final figure of the same seed is met."""
    met: int
    """Seeds that meet it at all."""
    seeds: int
    area: Interval
    """Mean figure over the logarithm of the steps."""


def finals(study: Study, table: TaskTable) -> dict[str, dict[int, Run]]:
    """source -> seed -> the run that stands in a table."""
    runs = [r for r in judged(study) if (r.task, r.protocol) == (table.task, table.protocol)]
    return {
        row.source: best_settings(
            [run for run in runs if run.source == row.source], table.ranked_by
        )
        for row in table.rows
    }


def convergence(study: Study, table: TaskTable) -> list[Convergence]:
    """A line for each source of a task whose runs were evaluated at least twice."""
    name, found = table.ranked_by, finals(study, table)
    better = metric(name).better or "lower"
    base = found.get(table.baseline, {})
    rows = []
    for source, runs in found.items():
        curves = {seed: _curve(run, name) for seed, run in runs.items()}
        curves = {seed: curve for seed, curve in curves.items() if len(curve[0]) > 1}
        if not curves:
            continue
        met = [
            steps_to(*curve, base[seed].metrics[name], better)
            for seed, curve in curves.items()
            if seed in base and name in base[seed].metrics
        ]
        rows.append(
            Convergence(
                source=source,
                arrived=interval(_arrival(*curve) for curve in curves.values()),
                at_once=all(_arrival(*curve) == curve[0][0] for curve in curves.values()),
                baseline_met=interval(met),
                met=sum(math.isfinite(step) for step in met),
                seeds=len(met),
                area=interval(area_under(*curve) for curve in curves.values()),
            )
        )
    return rows


def _curve(run: Run, name: str) -> tuple[list[float], list[float]]:
    rows = [row for row in run.history if name in row]
    return [row["step"] for row in rows], [row[name] for row in rows]


def _arrival(steps: Sequence[float], values: Sequence[float]) -> float:
    """The first step from which on the figure stays within NEAR % of its last value."""
    near = NEAR / 100 * abs(values[-1])
    far = [i for i, value in enumerate(values) if abs(value - values[-1]) > near]
    if not far:
        return float(steps[0])
    i = far[-1]  # between this evaluation and the next it comes near, and stays
    gap, following = abs(values[i] - values[-1]), abs(values[i + 1] - values[-1])
    return steps[i] + (steps[i + 1] - steps[i]) * (gap - near) / (gap - following)


@dataclass(frozen=True)
class LabelCurve:
    """One source's figure over the share of labels."""

    source: str
    shares: tuple[float, ...]
    values: tuple[Interval, ...]
    needed: LabelsNeeded | None
    """Labels to match the baseline with all of them; None for the baseline or without it."""


@dataclass(frozen=True)
class LabelStudy:
    """One task learnt from several shares of its labels."""

    task: str
    metric: str
    curves: tuple[LabelCurve, ...]


def label_studies(study: Study, tables: Sequence[TaskTable]) -> list[LabelStudy]:
    """One for each task and protocol that has tables of several label shares."""
    groups: dict[tuple[str, str], list[tuple[float, TaskTable]]] = {}
    for table in tables:
        run = next(r for r in judged(study) if (r.task, r.protocol) == (table.task, table.protocol))
        key = (run.base_task or table.task, table.protocol)
        groups.setdefault(key, []).append((run.label_fraction, table))
    return [
        _label_study(study, task, sorted(found, key=lambda pair: pair[0]))
        for (task, _), found in groups.items()
        if len(found) > 1 and len({table.ranked_by for _, table in found}) == 1
    ]


def _label_study(study: Study, task: str, found: Sequence[tuple[float, TaskTable]]) -> LabelStudy:
    name = found[0][1].ranked_by
    runs = [(share, finals(study, table)) for share, table in found]
    sources = list(dict.fromkeys(source for _, by_source in runs for source in by_source))
    full = runs[-1][1].get(study.baseline, {}) if runs[-1][0] == 1 else {}
    curves = []
    for source in sources:
        mine = [(share, by_source[source]) for share, by_source in runs if source in by_source]
        values = [interval(_finals(seeds, name).values()) for _, seeds in mine]
        needed = None if source == study.baseline else _needed(mine, full, name)
        shares = tuple(share for share, _ in mine)
        curves.append(LabelCurve(source, shares, tuple(values), needed))
    return LabelStudy(task, name, tuple(curves))


def _needed(
    mine: Sequence[tuple[float, Mapping[int, Run]]], full: Mapping[int, Run], name: str
) -> LabelsNeeded | None:
    target = _finals(full, name)
    columns = [_finals(seeds, name) for _, seeds in mine]
    seeds = sorted(set(target).intersection(*columns))
    if not seeds or len(mine) < 2:
        return None
    values = np.array([[column[seed] for column in columns] for seed in seeds])
    shares = [share for share, _ in mine]
    goal = np.array([target[seed] for seed in seeds])
    return labels_to_match(shares, values, goal, metric(name).better or "lower")


def _finals(runs: Mapping[int, Run], name: str) -> dict[int, float]:
    return {seed: run.metrics[name] for seed, run in runs.items() if name in run.metrics}


@dataclass(frozen=True)
class Spread:
    """One source over the whole grid: a mean over seeds for each setting, best first."""

    source: str
    settings: tuple[str, ...]
    values: tuple[float, ...]
    stopped: tuple[bool, ...] = ()
    """Which of them a sweep stopped early: their values are of the step that they had come to."""
    places: tuple[Mapping[str, Any], ...] = ()
    """The settings as keys and values."""

    @property
    def best(self) -> int:
        """The place of the best that went to its end."""
        return self.stopped.index(False) if False in self.stopped else 0


@dataclass(frozen=True)
class Sensitivity:
    """How the figure hangs on one hyper-parameter, with all the others as they came."""

    key: str
    logarithmic: bool
    rows: tuple[Spread, ...]

    def best_at(self, row: Spread) -> float:
        return float(row.places[row.best][self.key])

    def at_edge(self, row: Spread) -> bool:
        """Whether the best of at least three values is the lowest or the highest tried."""
        tried = {float(place[self.key]) for place in row.places}
        return len(tried) > 2 and self.best_at(row) in (min(tried), max(tried))


def sensitivities(rows: Sequence[Spread]) -> list[Sensitivity]:
    """One for each hyper-parameter that is a number and was given two values or more."""
    found = []
    for key in rows[0].places[0] if rows and rows[0].places else ():
        values = {place[key] for row in rows for place in row.places}
        numbers = [float(v) for v in values if isinstance(v, (int, float)) and v is not True]
        if len(numbers) == len(values) > 1:
            wide = min(numbers) > 0 and max(numbers) >= 10 * min(numbers)
            found.append(Sensitivity(key, wide, tuple(rows)))
    return found


def spreads(study: Study, table: TaskTable) -> list[Spread]:
    """How much hangs on the hyper-parameters; [] for a study without a grid."""
    runs = [r for r in judged(study) if (r.task, r.protocol) == (table.task, table.protocol)]
    sign = metric(table.ranked_by).sign
    rows = []
    for row in table.rows:
        found = by_settings([run for run in runs if run.source == row.source])
        means = {
            text: interval(_finals(seeds, table.ranked_by).values()).mean
            for text, seeds in found.items()
        }
        known = [text for text in means if math.isfinite(means[text])]
        order = sorted(known, key=lambda text: sign * means[text])
        runs_of = [list(found[text].values()) for text in order]
        rows.append(
            Spread(
                row.source,
                tuple(order),
                tuple(means[text] for text in order),
                tuple(any(run.state == STOPPED for run in mine) for mine in runs_of),
                tuple(mine[0].settings for mine in runs_of),
            )
        )
    return rows if any(len(row.values) > 1 for row in rows) else []
