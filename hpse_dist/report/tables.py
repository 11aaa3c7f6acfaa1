"""Tables of a study: means with 95 % intervals over seeds, differences from the baseline, costs.

Pure functions of `runs.Study`; rounding is the page's business, the CSV files hold full numbers.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit

from hpse_dist.report.meanings import METRICS, Metric, protocol_named
from hpse_dist.report.runs import Run, Study

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean over `n` values and its t-interval; without one (n < 2) low and high are NaN."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def known(self) -> bool:
        return self.n >= 2

    @property
    def excludes_zero(self) -> bool:
        return self.known and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class SourceRow:
    """One source's line in a task's table, best first."""

    source: str
    seeds: tuple[int, ...]
    metrics: Mapping[str, Interval]
    difference: Interval | None
    """Ranking metric minus the baseline's, paired by seed; None for the baseline itself."""


@dataclass(frozen=True)
class TaskTable:
    """Sources ranked by a task's first metric."""

    task: str
    ranked_by: str
    metric_names: tuple[str, ...]
    rows: tuple[SourceRow, ...]
    baseline: str
    protocol: str = ""
    """What all its numbers were measured by; empty where the runs did not say."""


def metric(name: str) -> Metric:
    """What is known of a figure; an unknown one goes by its own name and is not ranked."""
    return METRICS.get(name, Metric(spoken(name)))


def interval(values: Iterable[float], level: float = LEVEL) -> Interval:
    """Mean and Student's t-interval of independent values."""
    sample = np.asarray([value for value in values if math.isfinite(value)], dtype=np.float64)
    n = len(sample)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(sample.mean())
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1)
    half = float(stdtrit(n - 1, 0.5 + level / 2) * sample.std(ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def task_tables(study: Study) -> list[TaskTable]:
    """One table for each task with finished runs, and for each protocol: two never share one."""
    runs = judged(study)
    keys = dict.fromkeys((run.task, run.protocol) for run in runs)
    return [
        _task_table([run for run in runs if (run.task, run.protocol) == key], study) for key in keys
    ]


def judged(study: Study) -> list[Run]:
    """Finished fine-tuning runs with their metrics, one for each protocol that a run has figures
    of: what its files of predictions scored joins what it measured itself by the same protocol."""
    found = []
    for run in study.of_kind("finetune"):
        figures = {run.protocol: dict(run.metrics)} if run.metrics else {}
        for protocol, scores in run.scores.items():
            figures[protocol] = {**scores, **figures.get(protocol, {})}
        if run.done:
            found += [replace(run, protocol=p, metrics=m) for p, m in figures.items()]
    return found


def _task_table(runs: Sequence[Run], study: Study) -> TaskTable:
    """The table of runs of one task; ValueError where their protocols differ."""
    task, protocol = runs[0].task, runs[0].protocol
    if any(run.protocol != protocol for run in runs):
        raise ValueError(
            f"{task}: runs were measured by different protocols "
            f"({', '.join(sorted({run.protocol or 'none named' for run in runs}))}), and their "
            "numbers cannot stand in one column"
        )
    names = _ordered_metrics(runs)
    first = names[0]
    by_source: dict[str, dict[int, Run]] = {}
    for run in runs:
        by_source.setdefault(run.source, {})[run.seed] = run
    baseline = by_source.get(study.baseline, {})
    rows = [
        SourceRow(
            source=source,
            seeds=tuple(sorted(seeds)),
            metrics={
                name: interval(run.metrics.get(name, math.nan) for run in seeds.values())
                for name in names
            },
            difference=(
                None
                if source == study.baseline or not baseline
                else interval(
                    seeds[seed].metrics.get(first, math.nan)
                    - baseline[seed].metrics.get(first, math.nan)
                    for seed in sorted(seeds.keys() & baseline.keys())
                )
            ),
        )
        for source, seeds in by_source.items()
    ]
    sign = -1.0 if metric(first).better == "higher" else 1.0
    rows.sort(key=lambda row: (math.isnan(row.metrics[first].mean), sign * row.metrics[first].mean))
    base = study.baseline if baseline else ""
    return TaskTable(task, first, names, tuple(rows), base, protocol)


def _ordered_metrics(runs: Sequence[Run]) -> tuple[str, ...]:
    """Names of the runs' metrics: those of their protocol in its order, then known ones in the
    order of METRICS, then the others."""
    found = dict.fromkeys(name for run in runs for name in run.metrics)
    protocol = protocol_named(runs[0].protocol)
    order = dict.fromkeys([*(protocol.figures if protocol else ()), *METRICS])
    known = [name for name in order if name in found]
    return (*known, *(name for name in found if name not in known))


def answer(table: TaskTable) -> str:
    """What the table says, in one or two sentences that claim no more than the seeds show."""
    what, best = metric(table.ranked_by), table.rows[0]
    if not what.better:
        return f"{table.task}: no figure that ranks the sources."
    value = best.metrics[table.ranked_by]
    text = f"{what.better.replace('er', 'est').capitalize()} {what.label} on {spoken(table.task)}"
    text += f" ({table.protocol}): " if table.protocol else ": "
    text += f"{best.source} with {figure(value.mean, what)}{_range(value, what)}"
    if best.source == table.baseline and len(table.rows) > 1:
        return f"{text}. No source comes before the baseline{_behind(table.rows[1], what)}."
    if best.difference is None or best.difference.n == 0:
        return f"{text}."
    size = figure(abs(best.difference.mean), what)
    if (best.difference.mean < 0) != (what.better == "lower"):
        return f"{text}. With the seeds that both have, it is not ahead of {table.baseline}."
    if not best.difference.known:
        return f"{text}, {size} better than {table.baseline}; one seed proves nothing."
    if best.difference.excludes_zero:
        around = _range(best.difference, what, absolute=True)
        return f"{text}, {size} better than {table.baseline}{around}."
    return (
        f"{text}. The {size} between it and {table.baseline} may be chance: the interval of the "
        f"difference over {best.difference.n} seeds holds zero."
    )


def _behind(row: SourceRow, what: Metric) -> str:
    """How far the next source is behind the baseline, where seeds allow to say so."""
    if row.difference is None or not row.difference.known:
        return ""
    size = figure(abs(row.difference.mean), what)
    chance = "" if row.difference.excludes_zero else ", which may be chance"
    return f"; {row.source} is {size} behind{chance}"


def spoken(name: str) -> str:
    """A name as words."""
    return name.replace("_", " ")


def _range(value: Interval, what: Metric, absolute: bool = False) -> str:
    if not value.known:
        return ""
    low, high = value.low, value.high
    if absolute:
        low, high = sorted((abs(low), abs(high)))
    return f" (95 % interval {low:.{what.digits}f} to {high:.{what.digits}f}, {value.n} seeds)"


def figure(value: float | None, what: Metric) -> str:
    """A number with its unit, a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.{what.digits}f}{' ' + what.unit if what.unit else ''}"


def gains(study: Study) -> list[dict[str, Any]]:
    """Reference gain of every finished pre-training run, in all and per pair kind."""
    rows = []
    for run in study.of_kind("pretrain"):
        if run.done and any(name.startswith("reference_gain") for name in run.metrics):
            rows.append(
                {
                    "run": run.name,
                    "all": run.metrics.get("reference_gain", math.nan),
                    "view": run.metrics.get("reference_gain_view", math.nan),
                    "pose": run.metrics.get("reference_gain_pose", math.nan),
                    "hidden_loss": run.metrics.get("hidden_loss", math.nan),
                    "hidden_loss_mean": run.metrics.get("hidden_loss_mean", math.nan),
                }
            )
    return rows


def costs(study: Study) -> list[dict[str, Any]]:
    """What every run took; `share` is its part of all worker-seconds."""
    spent = [(run.seconds or 0.0) * (run.world_size or 1) for run in study.runs]
    whole = sum(spent)
    return [
        {
            "run": run.name,
            "kind": run.kind,
            "source": run.source,
            "task": run.task,
            "seed": run.seed,
            "steps": run.steps,
            "samples": run.steps * run.global_batch,
            "workers": run.world_size,
            "seconds": run.seconds,
            "samples_per_s": run.samples_per_s,
            "share": part / whole if whole else 0.0,
            "done": run.done,
        }
        for run, part in zip(study.runs, spent, strict=True)
    ]


def write_tables(study: Study, folder: Path) -> list[Path]:
    """summary.csv, runs.csv, curves.csv and costs.csv: all that the page shows, in full numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    summary = [
        {
            "task": table.task,
            "protocol": table.protocol,
            "source": row.source,
            "metric": name,
            "unit": metric(name).unit,
            "better": metric(name).better,
            "mean": value.mean,
            "low95": value.low,
            "high95": value.high,
            "seeds": value.n,
            **_difference(row, name == table.ranked_by),
        }
        for table in task_tables(study)
        for row in table.rows
        for name, value in row.metrics.items()
    ]
    identity = [
        (run, {"run": run.name, "kind": run.kind, "source": run.source, "task": run.task})
        for run in study.runs
    ]
    finals = [
        {**who, "seed": run.seed, "metric": name, "value": value}
        for run, who in identity
        for name, value in run.metrics.items()
    ]
    curves = [
        {**who, "seed": run.seed, "step": int(row["step"]), "metric": name, "value": value}
        for run, who in identity
        for row in run.history
        for name, value in row.items()
        if name != "step"
    ]
    files: dict[str, list[dict[str, Any]]] = {
        "summary": summary,
        "runs": finals,
        "curves": curves,
        "costs": costs(study),
    }
    return [_write_csv(folder / f"{name}.csv", rows) for name, rows in files.items() if rows]


def _difference(row: SourceRow, ranked: bool) -> dict[str, float | None]:
    value = row.difference if ranked else None
    return {
        "difference": value.mean if value else None,
        "difference_low95": value.low if value else None,
        "difference_high95": value.high if value else None,
    }


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return path


def _cell(value: Any) -> Any:
    """Empty for what is not known; text that a spreadsheet would run as a formula is quoted."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@")):
        return f"'{value}"
    return value
