"""The page's second part: curves, label curves, spread over settings, errors by condition."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from hpse_dist.report import drawings, figures
from hpse_dist.report.breakdown import breakdowns
from hpse_dist.report.learning import (
    NEAR,
    LabelCurve,
    Sensitivity,
    convergence,
    label_studies,
    sensitivities,
    spreads,
)
from hpse_dist.report.overview import cell_name
from hpse_dist.report.runs import STOPPED, Run, Study
from hpse_dist.report.statistics import Interval
from hpse_dist.report.tables import TaskTable, best_settings, figure, metric, spoken

CURVES_SHOWN = 4  # figures per task: its ranking metric and the next ones, then the loss
CURVE_METRICS = ("pa_mpjpe", "mpjpe", "pve", "pck_005", "joint_error", "person_iou", "accuracy")
PRETRAINING_METRICS = ("reference_gain", "hidden_loss")
Ink = Mapping[str, str]


def curves(study: Study, tables: Sequence[TaskTable], ink: Ink) -> list[dict[str, Any]]:
    """Groups of figures: one for each task with most of its labels, one for pre-training."""
    groups = []
    finetunings = [run for run in study.of_kind("finetune") if run.history or run.training]
    most = {run.base_task: run.label_fraction for run in sorted(finetunings, key=_share)}
    finetunings = [run for run in finetunings if run.label_fraction == most[run.base_task]]
    named = {run.task: run.protocol for run in reversed(finetunings) if run.done}
    keys = [  # a run under way has not said its protocol yet
        (run.task, run.protocol if run.done else named.get(run.task, "")) for run in finetunings
    ]
    for key in dict.fromkeys(keys):
        runs = [run for run, its in zip(finetunings, keys, strict=True) if its == key]
        table = next((t for t in tables if (t.task, t.protocol) == key), None)
        heading = f"Fine-tuning on {spoken(key[0])}{f' ({key[1]})' if key[1] else ''}"
        order = (*(table.metric_names[:1] if table else ()), *CURVE_METRICS)
        group = _group(heading, _of_best_settings(runs, table), ink, study.baseline, order)
        groups.append({**group, "speed": _speed(study, table) if table else None})
    pretrainings = [run for run in study.of_kind("pretrain") if run.history or run.training]
    if pretrainings:
        order = (*PRETRAINING_METRICS, *CURVE_METRICS)
        group = _group("Pre-training", pretrainings, ink, study.baseline, order)
        groups.append({**group, "speed": None})
    return [group for group in groups if group["figures"]]


def _share(run: Run) -> float:
    return run.label_fraction


def _of_best_settings(runs: Sequence[Run], table: TaskTable | None) -> list[Run]:
    """Of each source the settings that its table shows."""
    if table is None:
        return list(runs)
    found: list[Run] = []
    for source in dict.fromkeys(run.source for run in runs):
        mine = [run for run in runs if run.source == source]
        done = [run for run in mine if run.done]
        found += best_settings(done, table.ranked_by).values() if done else mine
    return found


def _group(
    heading: str, runs: Sequence[Run], ink: Ink, baseline: str, order: Sequence[str]
) -> dict[str, Any]:
    sources = list(dict.fromkeys(run.source for run in runs))
    found = {name for run in runs for row in run.history for name in row}
    measured = [name for name in dict.fromkeys(order) if name in found][: CURVES_SHOWN - 1]
    drawn = []
    for name, training in [*((name, False) for name in measured), ("loss", True)]:
        lines = [
            figures.curve(
                [run for run in runs if run.source == source],
                name,
                source,
                ink[source],
                training=training,
                dashed=source == baseline,
            )
            for source in sources
        ]
        known = [line for line in lines if line is not None]
        if known:
            caption = "training loss" if training else f"{metric(name).label}, held-out subjects"
            svg = figures.curves_svg(f"{heading}: {caption}", known, name=name)
            drawn.append({"caption": caption, "svg": Markup(svg)})
    return {"heading": heading, "legend": [(s, ink[s]) for s in sources], "figures": drawn}


def _speed(study: Study, table: TaskTable) -> dict[str, Any] | None:
    """How fast each source arrives, as rows of text."""
    rows = convergence(study, table)
    what = metric(table.ranked_by)
    if not rows or not what.better:
        return None
    return {
        "columns": [
            f"within {NEAR:g} % of its final {what.label}",
            f"{table.baseline}’s final {what.label} met" if table.baseline else "",
            f"mean {what.label} over log steps",
        ],
        "rows": [
            (
                row.source,
                f"{_steps(row.arrived)}{' or before' if row.at_once else ''}",
                _met(row.baseline_met, row.met, row.seeds),
                figure(row.area.mean, what),
            )
            for row in rows
        ],
    }


def _steps(value: Interval) -> str:
    return f"step {value.mean:,.0f}" if math.isfinite(value.mean) else "–"


def _met(value: Interval, met: int, seeds: int) -> str:
    if not seeds:
        return "–"
    if not met:
        return "not reached"
    text = _steps(value)
    return text if met == seeds else f"{text}, by {met} of {seeds} seeds"


def labels(study: Study, tables: Sequence[TaskTable], ink: Ink) -> list[dict[str, Any]]:
    """Label curves, and how many labels match the baseline with all of them."""
    return [
        {
            "heading": spoken(found.task).capitalize(),
            "legend": [(curve.source, ink[curve.source]) for curve in found.curves],
            "svg": Markup(drawings.labels_svg(found, ink, study.baseline)),
            "rows": [
                (curve.source, *_needed(curve))
                for curve in found.curves
                if curve.needed is not None
            ],
            "baseline": study.baseline,
        }
        for found in label_studies(study, tables)
    ]


def _needed(curve: LabelCurve) -> tuple[str, str]:
    """The share of labels, and the interval that seeds allow to give."""
    needed = curve.needed
    assert needed is not None
    if not math.isfinite(needed.share):
        said = "not reached"
    else:
        said = f"{'at most ' if needed.at_most else ''}{_percent(needed.share)}"
    if all(value.n < 2 for value in curve.values):
        return said, "one seed, no interval"
    least = 1.0001 * min(curve.shares)
    low = f"{_percent(needed.earliest)}{' or fewer' if needed.earliest <= least else ''}"
    if not math.isfinite(needed.earliest):
        return said, "surely not reached"
    if not math.isfinite(needed.latest):
        return said, f"{low}, or never"
    return said, low if needed.latest <= least else f"{low} to {_percent(needed.latest)}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def settings(study: Study, tables: Sequence[TaskTable], ink: Ink) -> list[dict[str, Any]]:
    """The spread over the grid, task by task."""
    groups = []
    for table in tables:
        rows = spreads(study, table)
        if rows:
            what, over = metric(table.ranked_by), sensitivities(rows)
            groups.append(
                {
                    "heading": cell_name(table, tables),
                    "stopped": _stopped(study, table),
                    "edges": _edges(over),
                    "legend": [(row.source, ink[row.source]) for row in rows],
                    "svg": Markup(drawings.spread_svg(rows, table.ranked_by, ink)),
                    "over": [
                        {
                            "caption": f"{what.label} over {_last(found.key)}",
                            "svg": Markup(drawings.sensitivity_svg(found, table.ranked_by, ink)),
                        }
                        for found in over
                    ],
                    "rows": [
                        (
                            row.source,
                            figure(row.values[row.best], what),
                            figure(_median(row.values), what),
                            figure(row.values[-1], what),
                            row.settings[row.best],
                            len(row.values),
                        )
                        for row in rows
                    ],
                }
            )
    return groups


def _stopped(study: Study, table: TaskTable) -> str:
    """What stopping losers early has saved in a round of a sweep."""
    base = next(run.base_task for run in study.runs if run.task == table.task)
    runs = [run for run in study.runs if run.base_task == base]
    early = [run for run in runs if run.state == STOPPED]
    if not study.rounds:
        return ""
    saved = sum(run.planned_steps - run.steps for run in early)
    whole = sum(run.planned_steps for run in runs)
    return (
        f"{len(early)} of {len(runs)} trials were stopped early, which saved {saved:,} of "
        f"{whole:,} steps ({100 * saved / max(whole, 1):.0f} %)."
    )


def _edges(found: Sequence[Sensitivity]) -> str:
    """Which sources were best at the end of what was tried, so that more might be better."""
    told = [
        f"{row.source}’s best {_last(each.key)}, {each.best_at(row):g}"
        for each in found
        for row in each.rows
        if each.at_edge(row)
    ]
    ends = "lies at an end" if len(told) == 1 else "lie at ends"
    return f"{', '.join(told)}, {ends} of the values tried: widen them." if told else ""


def _last(key: str) -> str:
    return key.rpartition(".")[2].replace("_", " ")


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def errors(study: Study, tables: Sequence[TaskTable], ink: Ink) -> list[dict[str, Any]]:
    """Errors by condition; of a task learnt from several shares of labels, with most of them."""
    groups = []
    largest: dict[tuple[str, str], tuple[float, TaskTable]] = {}
    for table in tables:
        run = next(r for r in study.runs if r.task == table.task)
        key = (run.base_task, table.protocol)
        if key not in largest or run.label_fraction > largest[key][0]:
            largest[key] = run.label_fraction, table
    for _, table in largest.values():
        found = breakdowns(study, table)
        if found:
            groups.append(
                {
                    "heading": cell_name(table, tables),
                    "legend": [(source, ink[source]) for source in found[0].sources],
                    "figures": [
                        {
                            "caption": each.condition,
                            "svg": Markup(drawings.bins_svg(each, table.ranked_by, ink)),
                        }
                        for each in found
                    ],
                }
            )
    return groups
