"""All tasks of a study in one table: every source's gap to the baseline, cell by cell and averaged.

The gap is that of Choi et al. (ICLR 2023): how much larger a source's error is than the baseline's,
in percent of it; negative is better. Of a figure in percent where higher is better, the error is
what it lacks of 100.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hpse_dist.report.examples import Comparison, stacked
from hpse_dist.report.learning import finals
from hpse_dist.report.runs import Run, Study
from hpse_dist.report.statistics import (
    LEVEL,
    Interval,
    crossed_average,
    holm,
    interval,
    relative_gap,
)
from hpse_dist.report.tables import MINUS, TaskTable, judged, metric, over, spoken


@dataclass(frozen=True)
class Cell:
    """One source on one task."""

    value: Interval
    """Its ranking metric over seeds."""
    gap: Interval
    """Percent over the seeds that the baseline has too."""
    sure: bool


@dataclass(frozen=True)
class OverviewRow:
    """One source on all tasks."""

    source: str
    cells: tuple[Cell | None, ...]
    """In the order of the overview's tasks; None where there is no finished run."""
    average: Interval
    """Mean gap over the cells, an interval over the seeds that have all of them and over people."""
    seeds: int
    people: int
    """As a `Comparison`'s; of cells of several sets of people, the smallest."""
    p: float = math.nan
    """Of the average, corrected by Holm for all sources."""

    @property
    def sure(self) -> bool:
        return self.seeds > 1 and self.p < 1 - LEVEL


@dataclass(frozen=True)
class Overview:
    """Sources, best average first; the baseline among them at zero."""

    tables: tuple[TaskTable, ...]
    baseline: str
    rows: tuple[OverviewRow, ...]

    shares: int = 1
    """Label shares of a task, at most."""

    @property
    def cells(self) -> int:
        return len(self.tables)

    @property
    def counted(self) -> str:
        """What the average is over, in words."""
        also = ["label share"] * (self.shares > 1)
        also += ["protocol"] * (len({table.task for table in self.tables}) < self.cells)
        if not also:
            return f"{self.cells} tasks"
        return f"{self.cells} combinations of {' and '.join(['task', *also])}"


def overview(study: Study, tables: Sequence[TaskTable]) -> Overview | None:
    """None where there is no baseline to compare with, or one source only; a sweep's rounds are no
    tasks to average over."""
    if study.rounds:
        return None
    ranked = tuple(t for t in tables if metric(t.ranked_by).better and t.baseline)
    sources = list(dict.fromkeys(row.source for table in ranked for row in table.rows))
    if len(sources) < 2:
        return None
    gaps = [gaps_by_seed(study, table) for table in ranked]
    rows = [_row(source, ranked, gaps, source == study.baseline) for source in sources]
    adjusted = holm([row.average.p if row.source != study.baseline else math.nan for row in rows])
    rows = [replace(row, p=p) for row, p in zip(rows, adjusted, strict=True)]
    rows.sort(key=lambda row: (math.isnan(row.average.mean), row.average.mean))
    shares = len({run.label_fraction for run in judged(study)})
    return Overview(ranked, study.baseline, tuple(rows), shares)


@dataclass(frozen=True)
class Gap:
    """How one run's error is above that of the baseline's run of the same seed."""

    percent: float
    parts: np.ndarray | None
    """(E,) what it would be of each example alone, to first order: their mean is `percent`; None
    where the two did not keep the same examples."""
    people: np.ndarray | None
    """(E,) whose they are."""


def gaps_by_seed(study: Study, table: TaskTable) -> dict[str, dict[int, Gap]]:
    """source -> seed -> gap, at each source's best settings."""
    name, found = table.ranked_by, finals(study, table)
    runs = {
        source: {seed: run for seed, run in mine.items() if name in run.metrics}
        for source, mine in found.items()
    }
    base = runs[table.baseline]
    return {
        source: {seed: _gap(run, base[seed], name) for seed, run in mine.items() if seed in base}
        for source, mine in runs.items()
    }


def _gap(mine: Run, base: Run, name: str) -> Gap:
    """The gap between two runs.

    A ratio of means is no mean of ratios: an example moves it by what the two errors are apart
    there once the baseline's is as large as the source's, over the baseline's mean.
    """
    error, other = (error_of(run.metrics[name], name) for run in (mine, base))
    percent = relative_gap(error, other, "lower")
    both = stacked((mine, base), name)
    if both is None or not math.isfinite(percent):
        return Gap(percent, None, None)
    values, examples = both
    apart = values[0] - error / other * values[1]
    if not np.isfinite(apart).any():
        return Gap(percent, None, None)
    parts = percent + metric(name).sign * 100 / other * (apart - np.nanmean(apart))
    return Gap(percent, parts, examples.people)


def error_of(value: float, name: str) -> float:
    """A figure as an error: what a share in percent lacks of 100 is one."""
    what = metric(name)
    if what.better != "higher":
        return value
    return 100.0 - value if what.unit == "%" else -value


def _row(
    source: str,
    tables: Sequence[TaskTable],
    gaps: Sequence[Mapping[str, Mapping[int, Gap]]],
    baseline: bool,
) -> OverviewRow:
    cells: list[Cell | None] = []
    for table, by_seed in zip(tables, gaps, strict=True):
        row = next((row for row in table.rows if row.source == source), None)
        if row is None:
            cells.append(None)
            continue
        gap = interval(each.percent for each in by_seed.get(source, {}).values())
        cells.append(Cell(row.metrics[table.ranked_by], gap, row.sure))
    if baseline:
        return OverviewRow(source, tuple(cells), Interval(0, 0, 0, 0), 0, 0)
    mine = [by_seed.get(source, {}) for by_seed in gaps]
    seeds = sorted(set.intersection(*(set(each) for each in mine)))
    if not seeds:
        return OverviewRow(source, tuple(cells), interval([]), 0, 0)
    parts = [_parts([each[seed] for seed in seeds]) for each in mine]
    people = min((len(np.unique(names)) for _, names in parts if names is not None), default=0)
    return OverviewRow(source, tuple(cells), crossed_average(parts), len(seeds), people)


def _parts(gaps: Sequence[Gap]) -> tuple[np.ndarray, np.ndarray | None]:
    """A cell's gaps by seed as (S, E) of examples and whose they are; (S, 1) where not all seeds
    kept the same examples, and then the average's interval asks people of the other cells alone."""
    parts = [each.parts for each in gaps if each.parts is not None]
    names = [each.people for each in gaps if each.people is not None]
    alike = len(names) == len(gaps) and all(np.array_equal(each, names[0]) for each in names)
    if not alike or any(not np.array_equal(np.isnan(p), np.isnan(parts[0])) for p in parts):
        return np.array([[each.percent] for each in gaps]), None
    return np.stack(parts), names[0]


def headline(found: Overview, missing: int) -> list[str]:
    """Which source wins, by how much, and whether that is sure: one sentence, and its footing."""
    complete = [row for row in found.rows if math.isfinite(row.average.mean)]
    best = complete[0] if complete else None
    where = f"over {found.counted}" if found.cells > 1 else ""
    if best is None:
        return ["No source has finished every task yet."]
    if best.source == found.baseline:
        text = f"No source comes before {best.source} {where}".rstrip()
        rival = complete[1] if len(complete) > 1 else None
        if rival is not None:
            text += f": {rival.source}, the next, has an error {rival.average.mean:.1f} % larger"
            text += _certainty(rival)
    else:
        how = "wins" if best.sure else "comes first, but not surely,"
        text = f"{best.source} {how} {where}".rstrip(" ,")
        text += f": on average its error is {-best.average.mean:.1f} % below {found.baseline}’s"
        text += _certainty(best)
    told = [f"{text}."]
    leader = next((row.source for row in complete if row.source != found.baseline), best.source)
    if wins := _wins(found, leader):
        told.append(f"{leader} has the lowest error in {wins} of these {found.cells}.")
    if missing:
        told.append("Runs are still missing, so this may change.")
    return told


def _certainty(row: OverviewRow) -> str:
    value = row.average
    if row.seeds < 2:
        return ", which one seed cannot prove"
    units = over(Comparison(value, row.seeds, row.people))
    if row.sure:
        low, high = sorted((abs(value.low), abs(value.high)))
        return f" (95 % interval {low:.1f} to {high:.1f} %, {units}): sure beyond chance"
    low, high = sorted((-value.low, -value.high))
    around = f"95 % interval {low:+.1f} to {high:+.1f} %, {units}".replace("-", MINUS)
    return f" ({around}), which may be chance"


def _wins(found: Overview, source: str) -> int:
    return sum(table.rows[0].source == source for table in found.tables)


def cell_name(table: TaskTable, tables: Sequence[TaskTable]) -> str:
    """The task, and its protocol where the task has tables of several."""
    several = sum(other.task == table.task for other in tables) > 1
    name = spoken(table.task).capitalize()
    return f"{name}, {table.protocol or 'protocol not recorded'}" if several else name
