"""One HTML page that needs nothing beside it: the answer first, then what it rests on.

Whatever comes out of files (names, recipes, versions) is escaped by the template; the page loads
nothing from anywhere and forbids itself to.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from hpse_dist import __version__
from hpse_dist.report import figures
from hpse_dist.report.lineage import data_section, leak_warnings
from hpse_dist.report.meanings import protocol_text
from hpse_dist.report.pictures import BUDGET_BYTES, Wanted, embed
from hpse_dist.report.runs import Run, Study
from hpse_dist.report.tables import (
    Interval,
    SourceRow,
    TaskTable,
    answer,
    costs,
    figure,
    gains,
    judged,
    metric,
    spoken,
    task_tables,
)

MINUS = "\N{MINUS SIGN}"
NO_GAIN = (
    "Reference gain was not measured: it needs a finished run of an objective with two pictures, "
    "and held-out pairs of at least two subjects."
)
CURVES_SHOWN = 4  # figures per task: its ranking metric and the next ones, then the loss
CURVE_METRICS = ("pa_mpjpe", "mpjpe", "pve", "reference_gain", "hidden_loss")


def render(study: Study) -> str:
    """The page of a study or of a single run."""
    ink = figures.colours(list(dict.fromkeys(run.source for run in study.runs)), study.baseline)
    tables = task_tables(study)
    predictions, lost = _predictions(study)
    pretraining, lost_too = _pretraining(study, ink)
    context = {
        "title": study.name,
        "kicker": "Study report" if len(study.runs) > 1 else "Run report",
        "answers": [answer(table) for table in tables] or [_without_tables(study)],
        "missing": study.missing(),
        "total": len(study.runs),
        "tables": [_table(table, study, ink) for table in tables],
        "curves": _curves(study, ink),
        "predictions": predictions,
        "pretraining": pretraining,
        "data": data_section(study),
        "leaks": leak_warnings(study),
        "cost": _cost(study),
        "recipes": _recipes(study),
        "environments": _environments(study),
        "footer": _footer(lost + lost_too),
    }
    names = {
        "results": ("Results", context["tables"]),
        "curves": ("Curves", context["curves"]),
        "predictions": ("Predictions", predictions),
        "pretraining": ("Pre-training", pretraining),
        "data": ("Data", context["data"]),
        "cost": ("Cost", True),
        "recipes": ("Recipes", True),
        "versions": ("Where it ran", True),
    }
    context["sections"] = [(key, name) for key, (name, shown) in names.items() if shown]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = files("hpse_dist.report").joinpath("page.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(context)


def _without_tables(study: Study) -> str:
    rows = gains(study)
    if rows:
        return _gain_sentence(rows)
    return "No run of this study is done yet." if study.missing() else "No held-out figures."


def _table(table: TaskTable, study: Study, ink: Mapping[str, str]) -> dict[str, Any]:
    """A task's ranked table, every cell as text."""
    first = table.ranked_by
    by_source = {
        row.source: [
            run
            for run in judged(study)
            if (run.task, run.protocol, run.source) == (table.task, table.protocol, row.source)
        ]
        for row in table.rows
    }
    low, high = figures.span(
        [row.metrics[first] for row in table.rows],
        [value for runs in by_source.values() for value in figures.seed_values(runs, first)],
    )
    rows = [
        {
            "source": row.source,
            "best": number == 0 and len(table.rows) > 1,
            "colour": ink[row.source],
            "cells": [_cell(row.metrics[name], name) for name in table.metric_names],
            "difference": _difference(row, first),
            "drawing": Markup(
                figures.interval_svg(
                    row.metrics[first],
                    figures.seed_values(by_source[row.source], first),
                    low,
                    high,
                    ink[row.source],
                )
            ),
            "seeds": len(row.seeds),
        }
        for number, row in enumerate(table.rows)
    ]
    meanings = [metric(name) for name in table.metric_names]
    return {
        "heading": _heading(table, study),
        "columns": [f"{m.label}{', ' + m.unit if m.unit else ''}" for m in meanings],
        "rows": rows,
        "baseline": table.baseline,
        "compared": bool(table.baseline) and len(table.rows) > 1,
        "drawn": any(row.metrics[first].n > 1 for row in table.rows) or len(table.rows) > 1,
        "note": _note(table, next(iter(by_source.values()))),
        "protocol": protocol_text(table.protocol),
        "meanings": [(m.label, m.meaning) for m in meanings if m.meaning],
    }


def _heading(table: TaskTable, study: Study) -> str:
    """The task, and the protocol where the task has tables of several."""
    several = len({run.protocol for run in judged(study) if run.task == table.task}) > 1
    name = spoken(table.task).capitalize()
    return f"{name}, {table.protocol or 'protocol not recorded'}" if several else name


def _cell(value: Interval, name: str) -> dict[str, str]:
    digits = metric(name).digits
    if not math.isfinite(value.mean):
        return {"value": "–", "range": ""}
    around = f"{value.low:.{digits}f} to {value.high:.{digits}f}" if value.known else ""
    return {"value": f"{value.mean:.{digits}f}", "range": around}


def _difference(row: SourceRow, name: str) -> dict[str, str]:
    if row.difference is None or not math.isfinite(row.difference.mean):
        return {"value": "–", "range": ""}
    digits, value = metric(name).digits, row.difference
    around = f"{value.low:+.{digits}f} to {value.high:+.{digits}f}" if value.known else ""
    return {
        "value": f"{value.mean:+.{digits}f}".replace("-", MINUS),
        "range": around.replace("-", MINUS),
    }


def _note(table: TaskTable, runs: Sequence[Run]) -> str:
    """How the figures came about, in three sentences."""
    what = metric(table.ranked_by)
    text = f"Held-out subjects only. Ranked by {what.label}"
    text += f", {what.better} is better" if what.better else ""
    if runs:
        text += f"; every source was fine-tuned for {runs[0].steps:,} steps"
        text += f" of {runs[0].global_batch} samples" if runs[0].global_batch else ""
    text += ". Figures are means over seeds, below them 95 % t-intervals"
    text += "; differences are paired by seed" if table.baseline and len(table.rows) > 1 else ""
    return f"{text}. The intervals tell of chance in fine-tuning: each source was made once."


def _curves(study: Study, ink: Mapping[str, str]) -> list[dict[str, Any]]:
    """Groups of figures: one for each task, one for pre-training."""
    groups = []
    finetunings = [run for run in study.of_kind("finetune") if run.history or run.training]
    named = {run.task: run.protocol for run in reversed(finetunings) if run.done}
    keys = [  # a run under way has not said its protocol yet
        (run.task, run.protocol if run.done else named.get(run.task, "")) for run in finetunings
    ]
    for key in dict.fromkeys(keys):
        runs = [run for run, its in zip(finetunings, keys, strict=True) if its == key]
        heading = f"Fine-tuning on {spoken(key[0])}{f' ({key[1]})' if key[1] else ''}"
        groups.append(_curve_group(heading, runs, ink, study.baseline))
    pretrainings = [run for run in study.of_kind("pretrain") if run.history or run.training]
    if pretrainings:
        groups.append(_curve_group("Pre-training", pretrainings, ink, study.baseline))
    return [group for group in groups if group["figures"]]


def _curve_group(
    heading: str, runs: Sequence[Run], ink: Mapping[str, str], baseline: str
) -> dict[str, Any]:
    sources = list(dict.fromkeys(run.source for run in runs))
    found = {name for run in runs for row in run.history for name in row}
    measured = [name for name in CURVE_METRICS if name in found][: CURVES_SHOWN - 1]
    names = [*((name, False) for name in measured), ("loss", True)]
    drawn = []
    for name, training in names:
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
    return {
        "heading": heading,
        "legend": [(source, ink[source]) for source in sources],
        "figures": drawn,
    }


def _predictions(study: Study) -> tuple[list[Any], int]:
    """For each task and source the last pictures of its first seed."""
    chosen: dict[tuple[str, str], Run] = {}
    for run in sorted(study.of_kind("finetune"), key=lambda run: (not run.done, run.seed)):
        if run.panels:
            chosen.setdefault((run.task, run.source), run)
    wanted = [
        Wanted(path, run.source, f"{name}, seed {run.seed}", f"{name} as predicted by {run.name}")
        for run in study.runs  # in the plan's order
        if chosen.get((run.task, run.source)) is run and run.kind == "finetune"
        for name, path in run.panels.items()
    ]
    return embed(wanted, BUDGET_BYTES * 2 // 3)


def _pretraining(study: Study, ink: Mapping[str, str]) -> tuple[dict[str, Any] | None, int]:
    runs = study.of_kind("pretrain")
    wanted = [
        Wanted(path, run.name, f"{name}, {_progress(run)}", f"{name} by {run.name}")
        for run in runs
        for name, path in run.panels.items()
    ]
    pictures, lost = embed(wanted, BUDGET_BYTES // 3)
    rows = gains(study)
    if not rows and not pictures:
        return None, lost
    colour = {run.name: ink[run.source] for run in runs}
    bars = {
        row["run"]: {k: row[k] for k in ("all", "view", "pose") if math.isfinite(row[k])}
        for row in rows
    }
    return {
        "gains": [
            {
                "run": row["run"],
                "colour": colour[row["run"]],
                "cells": [figure(row[k], metric("reference_gain")) for k in ("all", "view", "pose")]
                + [figure(row[k], metric(k)) for k in ("hidden_loss", "hidden_loss_mean")],
            }
            for row in rows
        ],
        "sentence": _gain_sentence(rows) or NO_GAIN,
        "meaning": f"Reference gain: {metric('reference_gain').meaning}.",
        "svg": Markup(figures.gain_svg(bars, colour)) if rows else "",
        "pictures": pictures,
    }, lost


def _progress(run: Run) -> str:
    return f"after {run.steps:,} steps"


def _gain_sentence(rows: Sequence[Mapping[str, Any]]) -> str:
    what = metric("reference_gain")
    told = []
    for row in rows:
        kinds = [
            f"{kind} pairs {figure(row[kind], what)}"
            for kind in ("view", "pose")
            if math.isfinite(row[kind])
        ]
        text = f"The error of {row['run']} on hidden patches grows by {figure(row['all'], what)}"
        text += " when the second picture shows somebody else"
        text += f" ({', '.join(kinds)})" if kinds else ""
        used = row["all"] > 0
        told.append(f"{text}: it {'uses' if used else 'does not use'} the second picture.")
    return " ".join(told)


def _cost(study: Study) -> dict[str, Any]:
    rows = costs(study)
    whole = sum((row["seconds"] or 0.0) * (row["workers"] or 1) for row in rows)
    return {
        "sentence": f"{len(rows)} run{'s' if len(rows) > 1 else ''}, {duration(whole)} of worker "
        "time in all, restarts and evaluations included.",
        "rows": [
            {
                "run": row["run"],
                "done": row["done"],
                "cells": [
                    f"{row['steps']:,}",
                    f"{row['samples']:,}" if row["samples"] else "–",
                    row["workers"] or "–",
                    duration(row["seconds"]),
                    f"{row['samples_per_s']:.0f}" if row["samples_per_s"] else "–",
                    f"{100 * row['share']:.0f} %",
                ],
            }
            for row in rows
        ],
    }


def duration(seconds: float | None) -> str:
    """`48 s`, `12 min`, `3 h 05 min`; a dash where it is not known."""
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def _recipes(study: Study) -> list[dict[str, str]]:
    """Recipes in full, and of one that is nearly another's its differences."""
    shown: list[dict[str, str]] = []
    firsts: dict[tuple[str, str], Run] = {}
    for run in study.runs:
        if not run.recipe:
            continue
        first = firsts.setdefault((run.kind, run.task), run)
        text, detail = run.recipe, f"{run.kind}, {run.recipe_hash[:12]}".rstrip(", ")
        if first is not run:
            changes = _changes(first.recipe, run.recipe)
            if len(changes) < len(text.splitlines()):
                text = "\n".join(changes) or "(the same)"
                detail += f", against {first.name}"
        shown.append({"name": run.name, "detail": detail, "text": text})
    return shown


def _changes(old: str, new: str) -> list[str]:
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), n=0, lineterm="")
    return [line for line in list(lines)[2:] if not line.startswith("@@")]


def _environments(study: Study) -> list[list[tuple[str, str]]]:
    """Each different environment once, with the runs that it was for when there are several."""
    groups: dict[str, list[Run]] = {}
    for run in study.runs:
        if run.environment:
            groups.setdefault(json.dumps(run.environment, sort_keys=True), []).append(run)
    lists = []
    for runs in groups.values():
        rows = [(str(key), _value(value)) for key, value in runs[0].environment.items()]
        if len(groups) > 1:
            rows.insert(0, ("runs", ", ".join(run.name for run in runs)))
        lists.append(rows)
    return lists


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(_value(item) for item in value) or "none"
    return str(value)


def _footer(lost: int) -> str:
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    text = f"Made by hpse_dist {__version__} on {made}."
    return f"{text} {lost} pictures are left out to keep the page small." if lost else text
