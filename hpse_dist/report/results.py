"""The page's first part: the answer, all tasks at a glance, each task's table, what is not done."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from hpse_dist.report import figures
from hpse_dist.report.learning import finals
from hpse_dist.report.meanings import on_other_frames
from hpse_dist.report.overview import Overview, cell_name, headline
from hpse_dist.report.runs import Run, Study
from hpse_dist.report.statistics import Interval
from hpse_dist.report.tables import (
    MINUS,
    SourceRow,
    TaskTable,
    answer,
    figure,
    metric,
    over,
    settings_text,
)

STATES = ("running", "failed", "stopped", "waiting")
SHOWN = 24  # runs that are not done, told one by one


def answers(study: Study, tables: Sequence[TaskTable], whole: Overview | None) -> list[str]:
    """The answer: of several cells their average, of one its own sentence."""
    if whole is not None and whole.cells > 1:
        return headline(whole, len(study.missing()))
    if tables:
        return [answer(table) for table in (tables[:1] if study.rounds else tables)]
    return ["No run of this study is done yet." if study.missing() else "No held-out figures."]


def progress(study: Study) -> dict[str, Any] | None:
    """What is not done, and why; None when all is."""
    undone = [run for run in study.runs if not run.done]
    if not undone:
        return None
    counts = Counter(run.state for run in undone)
    told = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    first = sorted(undone, key=lambda run: STATES.index(run.state))[:SHOWN]
    return {
        "sentence": f"{len(undone)} of {len(study.runs)} runs are not done ({told}) and are in no "
        "table.",
        "rows": [(run.name, run.state, _progress(run, study)) for run in first],
        "more": len(undone) - len(first),
        "live": bool(counts["running"]),
    }


def _progress(run: Run, study: Study) -> str:
    if run.trouble:
        return run.trouble
    if run.state in ("running", "stopped"):
        of = f" of {run.planned_steps:,}" if run.planned_steps else ""
        return f"step {run.steps:,}{of}"
    before = [other.name for other in study.runs if other.name in run.after and not other.done]
    return f"for {', '.join(before)}" if before else ""


def overview_table(whole: Overview | None, ink: Mapping[str, str]) -> dict[str, Any] | None:
    """Sources as columns, best first; cells as rows, the average above them."""
    if whole is None or whole.cells < 2:
        return None
    rows = []
    for number, table in enumerate(whole.tables):
        what = metric(table.ranked_by)
        cells = []
        for row in whole.rows:
            cell = row.cells[number]
            cells.append(
                {
                    "best": row.source == table.rows[0].source,
                    "value": "–" if cell is None else _gap(cell.gap.mean, row.source, whole),
                    "range": "" if cell is None else figure(cell.value.mean, what),
                    "sure": cell is not None and cell.sure,
                }
            )
        rows.append(
            {
                "name": cell_name(table, whole.tables),
                "metric": what.label,
                "cells": cells,
                "id": number,
            }
        )
    return {
        "columns": [(row.source, ink[row.source]) for row in whole.rows],
        "average": [
            {"value": _signed(row.average.mean, 1), "range": _ends(row.average, 1, signed=True)}
            if row.source != whole.baseline
            else {"value": "0", "range": "baseline"}
            for row in whole.rows
        ],
        "rows": rows,
        "baseline": whole.baseline,
    }


def _gap(value: float, source: str, whole: Overview) -> str:
    return "0" if source == whole.baseline else _signed(value, 1)


def result(
    table: TaskTable, tables: Sequence[TaskTable], study: Study, ink: Mapping[str, str]
) -> dict[str, Any]:
    """A task's ranked table, every cell as text."""
    first = table.ranked_by
    runs = finals(study, table)
    seeds = {source: figures.seed_values(list(r.values()), first) for source, r in runs.items()}
    low, high = figures.span(
        [row.metrics[first] for row in table.rows], [v for values in seeds.values() for v in values]
    )
    rows = [
        {
            "source": row.source,
            "settings": settings_text(row.settings),
            "best": number == 0 and len(table.rows) > 1,
            "colour": ink[row.source],
            "cells": [_cell(row.metrics[name], name) for name in table.metric_names],
            "against": _against(row, first),
            "drawing": Markup(
                figures.interval_svg(
                    row.metrics[first], seeds[row.source], low, high, ink[row.source]
                )
            ),
            "seeds": len(row.seeds),
        }
        for number, row in enumerate(table.rows)
    ]
    meanings = [metric(name) for name in table.metric_names]
    return {
        "heading": cell_name(table, tables),
        "answer": answer(table),
        "columns": [f"{m.label}{', ' + m.unit if m.unit else ''}" for m in meanings],
        "rows": rows,
        "baseline": table.baseline,
        "compared": bool(table.baseline) and len(table.rows) > 1,
        "drawn": any(row.metrics[first].n > 1 for row in table.rows) or len(table.rows) > 1,
        "note": _note(table, runs),
    }


FOOTING = (
    "Held-out subjects only. Figures are means over seeds, below them 95 % t-intervals; p is "
    "corrected by Holm for a table’s comparisons. The intervals tell of chance in fine-tuning: "
    "each source was made once."
)


def _cell(value: Interval, name: str) -> dict[str, str]:
    digits = metric(name).digits
    if not math.isfinite(value.mean):
        return {"value": "–", "range": ""}
    return {"value": f"{value.mean:.{digits}f}", "range": _ends(value, digits)}


def _ends(value: Interval, digits: int, signed: bool = False) -> str:
    if not value.known:
        return ""
    sign = "+" if signed else ""
    return f"{value.low:{sign}.{digits}f} to {value.high:{sign}.{digits}f}".replace("-", MINUS)


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", MINUS) if math.isfinite(value) else "–"


def _against(row: SourceRow, name: str) -> dict[str, str]:
    if row.against is None or not math.isfinite(row.against.difference.mean):
        return {"value": "–", "range": "", "p": ""}
    digits, value = metric(name).digits, row.against.difference
    p = ""
    if math.isfinite(row.p):
        p = f"p = {row.p:.3f}" if row.p >= 0.001 else "p < 0.001"
        p += ", sure" if row.sure else ""
    return {
        "value": _signed(value.mean, digits),
        "range": _ends(value, digits, signed=True),
        "p": p,
    }


def _note(table: TaskTable, runs: Mapping[str, Mapping[int, Run]]) -> str:
    """How the figures of this table came about; its runs by source and seed."""
    what = metric(table.ranked_by)
    text = f"Ranked by {what.label}{f', {what.better} is better' if what.better else ''}"
    trained = {
        source: " and ".join(dict.fromkeys(map(_training, seeds.values())))
        for source, seeds in runs.items()
    }
    alike = len({_training(run) for seeds in runs.values() for run in seeds.values()}) == 1
    text += "; every source was fine-tuned for " if alike else "; fine-tuning differed: "
    text += _each(trained)
    against = {
        row.source: row.against
        for row in table.rows
        if row.against is not None and row.against.difference.known
    }
    if against:
        examples = all(comparison.people for comparison in against.values())
        text += f"; differences are on the same seeds{' and examples' if examples else ''}"
        spans = {source: over(comparison) for source, comparison in against.items()}
        text += f", their intervals over {_each(spans)}"
    if any(row.settings for row in table.rows):
        text += ". Of each source the best settings tried are shown, chosen on "
        shown = [run for seeds in runs.values() for run in seeds.values()]
        apart = on_other_frames(table.protocol) and all(math.isfinite(r.choice) for r in shown)
        text += "its own held-out subjects, " if apart else "these same subjects, "
        text += "not on these" if apart else "which flatters all of them alike"
    blind = [source for source, seeds in runs.items() if any(run.blind for run in seeds.values())]
    if blind:
        text += f". {' and '.join(blind)}: the encoder sees no picture, so that is what the labels "
        text += "alone are worth"
    return f"{text}."


def _training(run: Run) -> str:
    """`5,000 steps of 32 samples`."""
    return f"{run.steps:,} steps" + (f" of {run.global_batch} samples" if run.global_batch else "")


def _each(said: Mapping[str, str]) -> str:
    """What is said of sources: once where it is the same of all, else `this (a, b), that (c)`."""
    sources: dict[str, list[str]] = {}
    for source, text in said.items():
        sources.setdefault(text, []).append(source)
    if len(sources) == 1:
        return next(iter(sources))
    return ", ".join(f"{text} ({', '.join(names)})" for text, names in sources.items())
