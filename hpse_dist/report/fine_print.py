"""The page's last part: protocols, what figures mean, cost, recipes, and where it all ran."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from hpse_dist import __version__
from hpse_dist.report.accounts import Spent, spent, together
from hpse_dist.report.meanings import protocol_text
from hpse_dist.report.runs import Run, Study
from hpse_dist.report.tables import TaskTable, costs, metric, spoken


def protocols(tables: Sequence[TaskTable]) -> list[tuple[str, str]]:
    """Each protocol once, with the tasks that it judged."""
    tasks: dict[str, list[str]] = {}
    for table in tables:
        tasks.setdefault(table.protocol, []).append(spoken(table.task))
    return [(", ".join(names), protocol_text(name)) for name, names in tasks.items()]


def glossary(tables: Sequence[TaskTable]) -> list[tuple[str, str]]:
    """What each figure measures, once."""
    names = dict.fromkeys(name for table in tables for name in table.metric_names)
    return [(metric(n).label, metric(n).meaning) for n in names if metric(n).meaning]


def cost(study: Study) -> dict[str, Any]:
    """What it took: a line for every run, and for each source what it costs in all."""
    rows = costs(study)
    whole = sum((row["seconds"] or 0.0) * (row["workers"] or 1) for row in rows)
    text = f"{len(rows)} run{'s' if len(rows) > 1 else ''}, {duration(whole)} of worker time in all"
    text += _spent(study.runs) + ", restarts and evaluations included."
    return {
        "sentence": text,
        "sources": _by_source(study),
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
                    f"{row['memory_mb'] / 1024:.1f} GB" if row["memory_mb"] else "–",
                    f"{100 * row['share']:.0f} %",
                ],
            }
            for row in rows
        ],
        "note": _energy_note(study),
        "accounts": accounts(study),
    }


def accounts(study: Study) -> dict[str, Any] | None:
    """Effective training time, restarts by cause and lost work, of each run and of all."""
    found = spent(study)
    if not found:
        return None
    whole = together(found)
    again = whole.starts - len(found)
    text = f"{100 * whole.effective:.0f} % of the {duration(whole.wall_s)} that runs took went "
    text += "into steps that count; the rest is starting, evaluations, checkpoints and what was "
    text += "lost. "
    if again:
        text += f"{again} restart{'s' if again > 1 else ''} ({whole.causes}) lost "
        text += f"{whole.lost_steps:,} steps, {duration(whole.lost_s)} of training."
    else:
        text += "No run had to be started again."
    return {"sentence": text, "rows": [_account(one) for one in _with_whole(found, whole)]}


def _with_whole(found: Sequence[Spent], whole: Spent) -> list[Spent]:
    return [whole, *found] if len(found) > 1 else list(found)


def _account(one: Spent) -> tuple[str, ...]:
    return (
        one.name,
        f"{100 * one.effective:.0f} %",
        duration(one.wall_s),
        f"{one.starts}",
        one.causes or "–",
        f"{one.lost_steps:,}",
        duration(one.lost_s) if one.lost_steps else "–",
        duration(one.recover_s),
    )


def _spent(runs: Sequence[Run]) -> str:
    """`, 1.2 core-hours, 3.4 GPU-hours, 0.5 kWh`: what was measured, and nothing else."""
    parts = []
    for name, unit, scale in (
        ("core_seconds", "core-hours", 3600.0),
        ("gpu_seconds", "GPU-hours", 3600.0),
    ):
        value = sum(run.cost.get(name, 0.0) for run in runs) / scale
        if value:
            parts.append(f"{value:.2f} {unit}")
    joules = sum(run.cost.get(n, 0.0) for run in runs for n in ("cpu_joules", "gpu_joules"))
    if joules:
        parts.append(f"{joules / 3.6e6:.3f} kWh")
    return f" ({', '.join(parts)})" if parts else ""


def _by_source(study: Study) -> list[tuple[str, str, str]]:
    """Source, what making it took once, what one fine-tuning run from it takes on average."""
    rows = []
    for source in dict.fromkeys(run.source for run in study.runs):
        mine = [run for run in study.runs if run.source == source and run.done]
        made = sum(run.seconds or 0.0 for run in mine if run.kind == "pretrain")
        tuned = [run.seconds or 0.0 for run in mine if run.kind == "finetune"]
        each = duration(sum(tuned) / len(tuned)) if tuned else "–"
        rows.append((source, duration(made) if made else "–", each))
    return rows


def _energy_note(study: Study) -> str:
    read = {name for run in study.runs for name in run.cost}
    if not any(run.cost for run in study.runs):
        return ""
    if not read & {"cpu_joules", "gpu_joules"}:
        return "Energy could not be read where these runs ran (no RAPL, no NVML), so none is given."
    kinds = [
        text
        for name, text in (
            ("cpu_joules", "processors by RAPL, of the whole machine"),
            ("gpu_joules", "GPUs by NVML"),
        )
        if name in read
    ]
    return f"Energy is what the hardware used meanwhile: {'; '.join(kinds)}."


def duration(seconds: float | None) -> str:
    """`48 s`, `12 min`, `3 h 05 min`; a dash where it is not known."""
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def recipes(study: Study) -> list[dict[str, str]]:
    """Recipes in full, and of one that is nearly another's its differences."""
    shown: list[dict[str, str]] = []
    firsts: dict[tuple[str, str], Run] = {}
    for run in study.runs:
        if not run.recipe:
            continue
        first = firsts.setdefault((run.kind, run.base_task), run)
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


def environments(study: Study) -> list[list[tuple[str, str]]]:
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


def footer(lost: int) -> str:
    """Who made the page, when, and what is not in it."""
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    text = f"Made by hpse_dist {__version__} on {made}."
    return f"{text} {lost} pictures are left out to keep the page small." if lost else text
