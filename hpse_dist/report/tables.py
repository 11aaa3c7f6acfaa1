"""Tables of a study: means with 95 % intervals over seeds, differences from the baseline, costs.

Pure functions of `runs.Study`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hpse_dist.report import accounts
from hpse_dist.report.examples import Comparison, compare
from hpse_dist.report.meanings import METRICS, Metric, protocol_named
from hpse_dist.report.runs import STOPPED, Run, Study
from hpse_dist.report.statistics import LEVEL, Interval, holm, interval

MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class SourceRow:
    """One source's line in a task's table, best first."""

    source: str
    seeds: tuple[int, ...]
    metrics: Mapping[str, Interval]
    against: Comparison | None
    """Ranking metric minus the baseline's; None for the baseline itself."""
    p: float = math.nan
    """Of that difference, corrected by Holm for all the comparisons of the table."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The point of the grid that these are figures of: the best one."""

    @property
    def sure(self) -> bool:
        """Whether seeds, and people where they are known, set it apart from the baseline."""
        return self.against is not None and self.against.seeds > 1 and self.p < 1 - LEVEL


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


def task_tables(study: Study) -> list[TaskTable]:
    """One table for each task with finished runs, and for each protocol: two never share one."""
    runs = judged(study)
    keys = dict.fromkeys((run.task, run.protocol) for run in runs)
    tables = [
        _task_table([run for run in runs if (run.task, run.protocol) == key], study) for key in keys
    ]
    if study.rounds:  # the last round decides, so it comes first
        place = {run.task: study.rounds.index(run.base_task) for run in runs}
        tables.sort(key=lambda table: -place[table.task])
    return tables


def judged(study: Study) -> list[Run]:
    """Finished fine-tuning runs with their metrics, one for each protocol that a run has figures
    of: what its files of predictions scored joins what it measured itself by the same protocol.

    By another protocol than its own, or on other frames, a run has final figures alone, and
    examples where they were kept: its history holds figures of the same names, but not of the same
    meaning. Nor do those have a say in which settings are the best: a test set that chose them
    would be no test.
    """
    first, found = _ranking(study), []
    for run in study.of_kind("finetune"):
        figures = _figures(run) if run.done else {}
        name = first.get((run.task, run.protocol), "")
        choice = metric(name).sign * figures.get(run.protocol, {}).get(name, math.nan)
        for protocol, metrics in figures.items():
            if not metrics:
                continue
            one = replace(run, protocol=protocol, metrics=metrics)
            if protocol != run.protocol:
                examples = run.scored.get(protocol, "")
                one = replace(one, history=(), examples=examples, choice=choice)
            found.append(one)
    return found


def _figures(run: Run) -> dict[str, dict[str, float]]:
    """What a run has figures of, by protocol: its own, of which it may lack all, and others."""
    found = {run.protocol: dict(run.metrics)}
    for protocol, scores in run.scores.items():
        found[protocol] = {**scores, **found.get(protocol, {})}
    return found


def _ranking(study: Study) -> dict[tuple[str, str], str]:
    """The figure that ranks a task's runs by their own protocol, by (task, protocol)."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in study.of_kind("finetune"):
        own = _figures(run)[run.protocol] if run.done else {}
        if own:
            groups.setdefault((run.task, run.protocol), []).append(replace(run, metrics=own))
    return {key: _names(runs, study)[0] for key, runs in groups.items()}


def _names(runs: Sequence[Run], study: Study) -> tuple[str, ...]:
    """Of the runs' figures the names, that which ranks first: a sweep's metric where there is."""
    names = _ordered_metrics(runs)
    if study.metric in names:
        names = (study.metric, *(name for name in names if name != study.metric))
    return names


def _task_table(runs: Sequence[Run], study: Study) -> TaskTable:
    """The table of runs of one task; ValueError where their protocols differ."""
    task, protocol = runs[0].task, runs[0].protocol
    if any(run.protocol != protocol for run in runs):
        raise ValueError(
            f"{task}: runs were measured by different protocols "
            f"({', '.join(sorted({run.protocol or 'none named' for run in runs}))}), and their "
            "numbers cannot stand in one column"
        )
    names = _names(runs, study)
    first = names[0]
    best = {
        source: best_settings([run for run in runs if run.source == source], first)
        for source in dict.fromkeys(run.source for run in runs)
    }
    base = best.get(study.baseline, {})
    rows = [_row(source, found, names, base) for source, found in best.items()]
    adjusted = holm([row.against.difference.p if row.against else math.nan for row in rows])
    rows = [replace(row, p=p) for row, p in zip(rows, adjusted, strict=True)]
    sign = metric(first).sign
    rows.sort(key=lambda row: (math.isnan(row.metrics[first].mean), sign * row.metrics[first].mean))
    return TaskTable(task, first, names, tuple(rows), study.baseline if base else "", protocol)


def _row(
    source: str, runs: Mapping[int, Run], names: Sequence[str], base: Mapping[int, Run]
) -> SourceRow:
    """One source's line, of its runs by seed and the baseline's."""
    itself = runs is base or not base
    return SourceRow(
        source=source,
        seeds=tuple(sorted(runs)),
        metrics={n: interval(run.metrics.get(n, math.nan) for run in runs.values()) for n in names},
        against=None if itself else compare(runs, base, names[0]),
        settings=next(iter(runs.values())).settings,
    )


def by_settings(runs: Sequence[Run]) -> dict[str, dict[int, Run]]:
    """One source's runs of a task by their place in the grid, spoken, and by seed: of several runs
    of one seed the first, as `doubles` tells."""
    found: dict[str, dict[int, Run]] = {}
    for run in runs:
        found.setdefault(settings_text(run.settings), {}).setdefault(run.seed, run)
    return found


def doubles(study: Study) -> list[str]:
    """A sentence for each source in a table of which several runs have one seed and the same
    settings, as in a folder of runs that no plan tells apart: which is shown, which are not."""
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in judged(study):
        groups.setdefault((run.source, run.task, run.protocol), []).append(run)
    told = []
    for (source, task, protocol), runs in groups.items():
        ended = _ended(runs)
        shown, hidden = by_settings(ended), dict[str, list[str]]()
        for run in ended:
            kept = shown[settings_text(run.settings)][run.seed]
            if kept is not run:
                hidden.setdefault(kept.folder.name, []).append(run.folder.name)
        if hidden:
            each = [f"{kept} is shown, not {' or '.join(names)}" for kept, names in hidden.items()]
            told.append(
                f"{source} has several runs of one seed on {spoken(task)}"
                f"{f' ({protocol})' if protocol else ''}, and tables take one of each: "
                f"{'; '.join(each)}. To see another, move the one shown to another folder."
            )
    return told


def silent(study: Study, tables: Sequence[TaskTable]) -> list[str]:
    """A sentence for each source in a table with finished runs that have no figure to rank by, as
    where they diverged: its mean is of the others, and would be worse with them."""
    told = []
    for table in tables:
        what = metric(table.ranked_by)
        for row in table.rows:
            runs = [
                (run, _figures(run))
                for run in study.of_kind("finetune")
                if (run.task, run.source, run.state) == (table.task, row.source, "done")
                and run.settings == row.settings
            ]
            found = {
                run.folder.name: figures[table.protocol]
                for run, figures in runs
                if table.protocol in figures
            }
            mute = [name for name, figures in found.items() if table.ranked_by not in figures]
            if mute:
                told.append(
                    f"{row.source} on {spoken(table.task)}: {' and '.join(mute)} ended without a "
                    f"{what.label}, as where predictions are no numbers. The mean shown is of the "
                    f"other {len(found) - len(mute)} of {len(found)} runs: it flatters the source."
                )
    return told


def _ended(runs: Sequence[Run]) -> Sequence[Run]:
    """Those that no sweep stopped early; all where none went to its end."""
    return [run for run in runs if run.state != STOPPED] or runs


def settings_text(settings: Mapping[str, Any]) -> str:
    """`lr 0.001, weight_decay 0.05`."""
    return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in settings.items())


def best_settings(runs: Sequence[Run], name: str) -> dict[int, Run]:
    """The runs by seed of the point of the grid with the best mean, among those where most seeds
    have that figure; one that a sweep stopped early only where none went to its end.

    Of runs measured on other frames than their own held-out ones, the best is so by its own.
    """
    ended = _ended(runs)
    chosen = any(math.isfinite(run.choice) for run in ended)

    def rank(seeds: Mapping[int, Run]) -> tuple[int, float]:
        value = interval(
            run.choice if chosen else metric(name).sign * run.metrics.get(name, math.nan)
            for run in seeds.values()
        )
        return -value.n, value.mean if value.n else math.inf

    return min(by_settings(ended).values(), key=rank)


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
    if best.against is None or best.against.seeds == 0:
        return f"{text}."
    mean = best.against.difference.mean
    size = figure(abs(mean), what, apart=True)
    if (mean < 0) != (what.better == "lower"):
        return f"{text}. With the seeds that both have, it is not ahead of {table.baseline}."
    if best.against.seeds == 1:
        return f"{text}, {size} better than {table.baseline}; one seed proves nothing."
    if best.sure:
        around = _range(best.against.difference, what, absolute=True, over=over(best.against))
        return f"{text}, {size} better than {table.baseline}{around}{_objections(table)}."
    return (
        f"{text}. The {size} between it and {table.baseline} may be chance: "
        f"p = {best.p:.2f} over {over(best.against)}."
    )


def _objections(table: TaskTable) -> str:
    """Other figures of the same runs by which the baseline is ahead of the best."""
    best, base = table.rows[0], next(row for row in table.rows if row.source == table.baseline)
    against = []
    for name in table.metric_names[1:]:
        gap = best.metrics[name].mean - base.metrics[name].mean
        if metric(name).better and (gap > 0) == (metric(name).better == "lower") and gap:
            against.append(metric(name).label)
    return f"; by {' and '.join(against)} {base.source} is ahead" if against else ""


def over(comparison: Comparison) -> str:
    """What a comparison's interval is over: `3 seeds and 12 people`."""
    seeds = f"{comparison.seeds} seed{'s' if comparison.seeds > 1 else ''}"
    return f"{seeds} and {comparison.people} people" if comparison.people else seeds


def _behind(row: SourceRow, what: Metric) -> str:
    """How far the next source is behind the baseline, where seeds allow to say so."""
    if row.against is None or row.against.seeds < 2:
        return ""
    size = figure(abs(row.against.difference.mean), what, apart=True)
    chance = "" if row.sure else ", which may be chance"
    return f"; {row.source} is {size} behind{chance}"


def spoken(name: str) -> str:
    """A name as words."""
    return name.replace("_", " ")


def _range(value: Interval, what: Metric, absolute: bool = False, over: str = "") -> str:
    if not value.known:
        return ""
    low, high = value.low, value.high
    if absolute:
        low, high = sorted((abs(low), abs(high)))
    over = over or f"{value.n} seeds"
    ends = f"{low:.{what.digits}f} to {high:.{what.digits}f}".replace("-", MINUS)
    return f" (95 % interval {ends}, {over})"


def figure(value: float | None, what: Metric, apart: bool = False) -> str:
    """A number with its unit, a dash where there is none; what lies between two percentages, which
    are `apart`, is points."""
    if value is None or not math.isfinite(value):
        return "–"
    number = f"{round(value, what.digits) + 0.0:.{what.digits}f}".replace("-", MINUS)  # no -0.0
    unit = "points" if apart and what.unit == "%" else what.unit
    return f"{number}{' ' + unit if unit else ''}"


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
    known = {one.name: one for one in accounts.spent(study)}
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
            "core_seconds": run.cost.get("core_seconds"),
            "gpu_seconds": run.cost.get("gpu_seconds"),
            "memory_mb": run.cost.get("memory_mb"),
            "gpu_memory_mb": run.cost.get("gpu_memory_mb"),
            "cpu_joules": run.cost.get("cpu_joules"),
            "gpu_joules": run.cost.get("gpu_joules"),
            "share": part / whole if whole else 0.0,
            "done": run.done,
            **_account(known.get(run.name)),
        }
        for run, part in zip(study.runs, spent, strict=True)
    ]


def _account(one: accounts.Spent | None) -> dict[str, Any]:
    """Columns of what restarts have cost; empty for a run that kept no account."""
    return {
        "effective": one.effective if one else None,
        "starts": one.starts if one else None,
        "ended_before": one.causes if one else None,
        "lost_steps": one.lost_steps if one else None,
        "lost_seconds": one.lost_s if one else None,
        "worst_recovery_seconds": one.recover_s if one else None,
    }
