"""One HTML page that needs nothing beside it: the answer first, then what it rests on.

Whatever comes out of files (names, recipes, versions) is escaped by the templates; the page loads
nothing from anywhere and forbids itself to. While runs are under way it loads itself again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from hpse_dist.report import evidence, figures, fine_print, results
from hpse_dist.report.floor import unseen
from hpse_dist.report.lineage import data_section, leak_warnings
from hpse_dist.report.overview import overview
from hpse_dist.report.pictures import BUDGET_BYTES, Picture, Wanted, embed, people_in
from hpse_dist.report.runs import Run, Study
from hpse_dist.report.tables import (
    TaskTable,
    doubles,
    figure,
    gains,
    metric,
    silent,
    spoken,
    task_tables,
)

NO_GAIN = (
    "Reference gain was not measured: it needs a finished run of an objective with two pictures, "
    "and held-out pairs of at least two subjects."
)
PEOPLE = 3  # shown of each task, by every source
SECTIONS = {
    "results": "Results",
    "labels": "Labels",
    "curves": "Curves",
    "settings": "Settings",
    "errors": "Where the errors are",
    "people": "Predictions",
    "pretraining": "Pre-training",
    "data": "Data",
    "cost": "Cost",
    "protocols": "Protocols",
    "recipes": "Recipes",
    "versions": "Where it ran",
}


def render(study: Study) -> str:
    """The page of a study or of a single run."""
    ink = figures.colours(list(dict.fromkeys(run.source for run in study.runs)), study.baseline)
    tables = task_tables(study)
    whole = overview(study, tables)
    people, lost = _people(study, tables, ink)
    pretraining, lost_too = _pretraining(study, ink)
    answers = results.answers(study, tables, whole)
    sentence = _gain_sentence(gains(study))
    context: dict[str, Any] = {
        "title": study.name,
        "kicker": _kicker(study),
        "answers": answers if tables or not sentence else [sentence],
        "progress": results.progress(study),
        "warnings": [
            *leak_warnings(study),
            *doubles(study),
            *silent(study, tables),
            *unseen(study, tables),
        ],
        "overview": results.overview_table(whole, ink),
        "results": [results.result(table, tables, study, ink) for table in tables],
        "footing": results.FOOTING,
        "labels": evidence.labels(study, tables, ink),
        "curves": evidence.curves(study, tables, ink),
        "rounds": study.rounds,
        "settings": evidence.settings(study, tables, ink),
        "errors": evidence.errors(study, tables, ink),
        "people": people,
        "pretraining": pretraining,
        "data": data_section(study),
        "cost": fine_print.cost(study),
        "protocols": fine_print.protocols(tables),
        "glossary": fine_print.glossary(tables),
        "recipes": fine_print.recipes(study),
        "versions": fine_print.environments(study),
        "footer": fine_print.footer(lost + lost_too),
    }
    context["sections"] = [(key, name) for key, name in SECTIONS.items() if context[key]]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hpse_dist.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(context)


def _kicker(study: Study) -> str:
    return (
        "Sweep report" if study.rounds else "Study report" if len(study.runs) > 1 else "Run report"
    )


def _people(
    study: Study, tables: Sequence[TaskTable], ink: Mapping[str, str]
) -> tuple[list[dict[str, Any]], int]:
    """The same people by every source: for each task the pictures of each source's first seed,
    learnt from as many labels as there are."""
    groups: list[tuple[str, str, list[list[Wanted]]]] = []
    for task in dict.fromkeys(run.base_task for run in study.of_kind("finetune")):
        runs = _shown(study, task, tables)
        for name in dict.fromkeys(name for run in runs for name in run.panels):
            drawn = [run for run in runs if name in run.panels]
            count = min(people_in(run.panels[name]) for run in drawn)
            rows: list[int | None] = [*range(min(count, PEOPLE))] or [None]
            wanted = [[_wanted(run, name, row) for run in drawn] for row in rows]
            groups.append((spoken(task).capitalize() or name, name, wanted))
    flat = [item for *_, rows in groups for row in rows for item in row]
    pictures, lost = embed(flat, BUDGET_BYTES * 2 // 3)
    found: dict[tuple[str, int | None], list[Picture]] = {}
    for picture in pictures:
        found.setdefault((picture.name, picture.row), []).append(picture)
    sections = [
        {
            "heading": heading,
            "rows": [found[key] for row in rows if (key := (name, row[0].row)) in found],
        }
        for heading, name, rows in groups
    ]
    return [{**s, "ink": ink} for s in sections if s["rows"]], lost


def _wanted(run: Run, name: str, row: int | None) -> Wanted:
    alt = f"{name} as predicted by {run.name}"
    return Wanted(run.panels[name], run.source, f"seed {run.seed}", alt, row, name)


def _shown(study: Study, task: str, tables: Sequence[TaskTable]) -> list[Run]:
    """One run of each source: done before under way, most labels, best settings, first seed."""
    best = {(table.task, row.source): row.settings for table in tables for row in table.rows}
    chosen: dict[str, Run] = {}
    for run in sorted(
        (r for r in study.of_kind("finetune") if r.base_task == task and r.panels),
        key=lambda run: (
            not run.done,
            -run.label_fraction,
            run.settings != best.get((run.task, run.source), run.settings),
            run.seed,
        ),
    ):
        chosen.setdefault(run.source, run)
    return [chosen[run.source] for run in study.runs if chosen.get(run.source) is run]


def _pretraining(study: Study, ink: Mapping[str, str]) -> tuple[dict[str, Any] | None, int]:
    runs = study.of_kind("pretrain")
    wanted = [
        Wanted(path, run.name, f"{name}, after {run.steps:,} steps", f"{name} by {run.name}")
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
