"""A study's tables as files: full numbers as CSV, for machines, and ranked tables as LaTeX and
Markdown, for papers and notes."""

from __future__ import annotations

import csv
import io
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpse_dist.disk import write_text
from hpse_dist.report.breakdown import breakdowns
from hpse_dist.report.floor import unseen
from hpse_dist.report.learning import convergence, label_studies, spreads
from hpse_dist.report.meanings import Metric
from hpse_dist.report.overview import Cell, Overview, cell_name, overview
from hpse_dist.report.runs import Study
from hpse_dist.report.statistics import Interval
from hpse_dist.report.tables import (
    SourceRow,
    TaskTable,
    costs,
    doubles,
    metric,
    silent,
    task_tables,
)

log = logging.getLogger(__name__)

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Printed:
    """A table of text: the first row of a body is the best."""

    title: str
    header: tuple[str, ...]
    body: tuple[tuple[str, ...], ...]
    note: str = ""


def write_tables(study: Study, folder: Path) -> list[Path]:
    """Everything that the page shows: one CSV file each, and tables.tex and tables.md; logs which
    runs are in no table because another of their seed is, or in no mean for want of a figure."""
    known = task_tables(study)
    for sentence in (*doubles(study), *silent(study, known), *unseen(study, known)):
        log.warning("%s", sentence)
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: rows for name, rows in csv_rows(study).items() if rows}
    paths = [_write_csv(folder / f"{name}.csv", rows) for name, rows in files.items()]
    tables = printed(study)
    if tables:
        for name, text in (("tables.tex", latex(tables)), ("tables.md", markdown(tables))):
            write_text(folder / name, text)
            paths.append(folder / name)
    return paths


def printed(study: Study) -> list[Printed]:
    """The overview, where there are several cells, and each task's ranked table."""
    tables = task_tables(study)
    whole = overview(study, tables)
    found = [_overview(whole)] if whole is not None and whole.cells > 1 else []
    return found + [_ranked(table, tables) for table in tables]


def _overview(found: Overview) -> Printed:
    names = [cell_name(table, found.tables) for table in found.tables]
    body = [
        (
            row.source,
            "0" if row.source == found.baseline else _text(row.average, 1, signed=True),
            *(_gap(cell, row.source == found.baseline) for cell in row.cells),
        )
        for row in found.rows
    ]
    note = (
        f"Error relative to {found.baseline}'s in percent, below zero is better; the average with "
        "its 95 % interval over seeds, and over people where examples were kept."
    )
    return Printed("Gap to the baseline", ("source", "average", *names), tuple(body), note)


def _gap(cell: Cell | None, baseline: bool) -> str:
    if cell is None or not math.isfinite(cell.gap.mean):
        return "–"
    return "0" if baseline else f"{cell.gap.mean:+.1f}"


def _ranked(table: TaskTable, tables: Sequence[TaskTable]) -> Printed:
    meanings = [metric(name) for name in table.metric_names]
    compared = [f"against {table.baseline}", "p (Holm)"] if table.baseline else []
    header = ("source", *(_column(m) for m in meanings), *compared, "seeds")
    body = []
    for row in table.rows:
        cells = [
            _text(row.metrics[name], what.digits)
            for name, what in zip(table.metric_names, meanings, strict=True)
        ]
        if compared:
            difference = row.against.difference if row.against else None
            cells.append(_text(difference, meanings[0].digits, signed=True) if difference else "–")
            cells.append(_p(row.p))
        body.append((row.source, *cells, str(len(row.seeds))))
    protocol = f" Protocol {table.protocol}." if table.protocol else ""
    note = f"Means over seeds with 95 % intervals.{protocol}"
    return Printed(cell_name(table, tables), header, tuple(body), note)


def _p(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _column(what: Metric) -> str:
    return f"{what.label}, {what.unit}" if what.unit else what.label


def _text(value: Interval, digits: int, signed: bool = False) -> str:
    if not math.isfinite(value.mean):
        return "–"
    sign = "+" if signed else ""
    text = f"{value.mean:{sign}.{digits}f}"
    around = f" [{value.low:{sign}.{digits}f}, {value.high:{sign}.{digits}f}]"
    return text + (around if value.known else "")


def markdown(tables: Sequence[Printed]) -> str:
    """Pipe tables; the first row, the best, is bold."""
    parts = []
    for table in tables:
        rule = ["---", *("---:" for _ in table.header[1:])]
        best = (f"**{table.body[0][0]}**", *table.body[0][1:])
        rows = [table.header, rule, best, *table.body[1:]]
        lines = [
            "| " + " | ".join(_escaped(cell, r"([|\\`])") for cell in row) + " |" for row in rows
        ]
        parts.append("\n".join([f"### {table.title}", "", *lines, "", table.note, ""]))
    return "\n".join(parts)


def latex(tables: Sequence[Printed]) -> str:
    """Booktabs tables; the first row, the best, is bold."""
    parts = ["% \\usepackage{booktabs}"]
    for table in tables:
        rows = [" & ".join(map(_tex, row)) + r" \\" for row in (table.header, *table.body)]
        cells = [_tex(cell) for cell in table.body[0]]
        rows[1] = " & ".join([rf"\textbf{{{cells[0]}}}", *cells[1:]]) + r" \\"
        parts.append(
            "\n".join(
                [
                    r"\begin{table}",
                    r"  \centering",
                    rf"  \caption{{{_tex(table.title)}. {_tex(table.note)}}}",
                    rf"  \begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
                    r"    \toprule",
                    f"    {rows[0]}",
                    r"    \midrule",
                    *(f"    {row}" for row in rows[1:]),
                    r"    \bottomrule",
                    r"  \end{tabular}",
                    r"\end{table}",
                ]
            )
        )
    return "\n\n".join(parts) + "\n"


def _tex(text: str) -> str:
    """Text that LaTeX prints as it is; a number's minus is a minus."""
    text = text.replace("\\", r"\textbackslash{}")
    text = re.sub(r"([&%$#_{}])", r"\\\1", text).replace(r"\textbackslash\{\}", r"\textbackslash{}")
    text = text.replace("~", r"\textasciitilde{}").replace("^", r"\textasciicircum{}")
    text = re.sub(r"[<>|]", r"$\g<0>$", text)  # other signs in LaTeX's own font
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", text).replace("–", "--")


def _escaped(text: str, what: str) -> str:
    return re.sub(what, r"\\\1", text).replace("\n", " ")


def csv_rows(study: Study) -> dict[str, Rows]:
    """The CSV files' rows, in full numbers."""
    tables = task_tables(study)
    identity = [
        (
            run,
            {
                "run": run.name,
                "kind": run.kind,
                "source": run.source,
                "task": run.task,
                "seed": run.seed,
                **{f"setting {key}": value for key, value in run.settings.items()},
            },
        )
        for run in study.runs
    ]
    finals = [
        {**who, "metric": name, "value": value}
        for run, who in identity
        for name, value in run.metrics.items()
    ]
    curves = [
        {**who, "step": int(row["step"]), "metric": name, "value": value}
        for run, who in identity
        for row in run.history
        for name, value in row.items()
        if name != "step"
    ]
    return {
        "summary": [r for table in tables for row in table.rows for r in _summary(table, row)],
        "gaps": _gap_rows(overview(study, tables)),
        "labels": _label_rows(study, tables),
        "convergence": [
            {
                "task": table.task,
                "protocol": table.protocol,
                "source": row.source,
                **_spread("arrived_step", row.arrived),
                **_spread("baseline_met_step", row.baseline_met),
                "met": row.met,
                "of_seeds": row.seeds,
                **_spread("area", row.area),
            }
            for table in tables
            for row in convergence(study, table)
        ],
        "settings": [
            {
                "task": table.task,
                "source": row.source,
                "settings": text,
                "mean": value,
                "rank": rank,
                **({"stopped_early": early} if study.rounds else {}),
            }
            for table in tables
            for row in spreads(study, table)
            for rank, (text, value, early) in enumerate(
                zip(row.settings, row.values, row.stopped, strict=True), 1
            )
        ],
        "conditions": [
            {
                "task": table.task,
                "protocol": table.protocol,
                "metric": table.ranked_by,
                "condition": found.condition,
                "bin": each.name,
                "examples": each.examples,
                "source": source,
                **_spread("mean", value),
            }
            for table in tables
            for found in breakdowns(study, table)
            for each in found.bins
            for source, value in zip(found.sources, each.values, strict=True)
        ],
        "runs": finals,
        "curves": curves,
        "costs": costs(study),
    }


def _summary(table: TaskTable, row: SourceRow) -> Rows:
    found = []
    for name, value in row.metrics.items():
        what = metric(name)
        against = row.against if name == table.ranked_by else None
        difference = against.difference if against else None
        found.append(
            {
                "task": table.task,
                "protocol": table.protocol,
                "source": row.source,
                "settings": " ".join(f"{k}={v}" for k, v in row.settings.items()),
                "metric": name,
                "unit": what.unit,
                "better": what.better,
                "mean": value.mean,
                "low95": value.low,
                "high95": value.high,
                "seeds": value.n,
                "difference": difference.mean if difference else None,
                "difference_low95": difference.low if difference else None,
                "difference_high95": difference.high if difference else None,
                "difference_seeds": against.seeds if against else None,
                "difference_people": against.people if against else None,
                "p": difference.p if difference else None,
                "p_holm": row.p if against else None,
            }
        )
    return found


def _gap_rows(found: Overview | None) -> Rows:
    if found is None:
        return []
    rows: Rows = []
    for row in found.rows:
        for table, cell in zip(found.tables, row.cells, strict=True):
            if cell is not None:
                who = {"source": row.source, "task": table.task, "metric": table.ranked_by}
                rows.append({**who, **_spread("gap_percent", cell.gap), "p_holm": None})
        who = {"source": row.source, "task": "average", "metric": ""}
        units = {"seeds": row.seeds, "people": row.people}
        rows.append({**who, **_spread("gap_percent", row.average), "p_holm": row.p, **units})
    return rows


def _label_rows(study: Study, tables: Sequence[TaskTable]) -> Rows:
    rows: Rows = []
    for found in label_studies(study, tables):
        for curve in found.curves:
            who = {"task": found.task, "source": curve.source, "metric": found.metric}
            needed = curve.needed
            for share, value in zip(curve.shares, curve.values, strict=True):
                rows.append(
                    {
                        **who,
                        "label_share": share,
                        **_spread("mean", value),
                        "share_to_match_baseline": needed.share if needed else None,
                        "earliest": needed.earliest if needed else None,
                        "latest": needed.latest if needed else None,
                    }
                )
    return rows


def _spread(name: str, value: Interval) -> dict[str, float]:
    return {name: value.mean, f"{name}_low95": value.low, f"{name}_high95": value.high}


def _write_csv(path: Path, rows: Rows) -> Path:
    names = dict.fromkeys(name for row in rows for name in row)
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, fieldnames=list(names))
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    write_text(path, file.getvalue())
    return path


def _cell(value: Any) -> Any:
    """Empty for what is not known; text that a spreadsheet would run as a formula is quoted."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@")):
        return f"'{value}"
    return value
