"""What runs left in their folders, read as it is: nothing is computed again, nothing is guessed."""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpse_dist.disk import nobody_holds
from hpse_dist.safety import as_written, parsed_json

PLAN_FILE = "plan.json"
SCORES_FILE = "scores.json"
EXAMPLES_FILE = "examples.parquet"
STARTS_FILE = "starts.json"
SWEEP_FILE = "sweep.json"
STOPPED_FILE = "stopped_early.json"
STOPPED = "stopped early"
_MOST = 1e300  # of a figure
_LEVELS = 32  # of lists and maps within one another in a file of a run
LOCK_FILE = "lock"
QUIET_S = 600  # no line for so long: the run was stopped, or its machine was
RESTART_S = 60  # nobody at its folder for so long: as above; workers that died are back by then
PANEL = re.compile(r"step_(\d+)_(.+)\.png")


@dataclass(frozen=True)
class Run:
    """One run folder. `metrics` are the final ones, empty while the run is not done."""

    folder: Path
    name: str
    kind: str = ""
    source: str = ""
    blind: bool = False
    """Its encoder was cut off from the pictures."""
    task: str = ""
    seed: int = 0
    done: bool = False
    steps: int = 0
    global_batch: int = 0
    state: str = ""
    """done, stopped early (by a sweep), running, stopped, failed or waiting."""
    trouble: str = ""
    """Why it failed, or what it waits for."""
    planned_steps: int = 0
    after: tuple[str, ...] = ()
    """Names of the runs that it waits for."""
    base_task: str = ""
    """The task without the share of labels."""
    label_fraction: float = 1.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Its hyper-parameters, in a study with a grid."""
    cost: Mapping[str, float] = field(default_factory=dict)
    """What its processes' meters read."""
    seconds: float | None = None
    samples_per_s: float | None = None
    world_size: int | None = None
    account: Mapping[str, Any] = field(default_factory=dict)
    """Where its time went, over all its starts; empty while the run is not done."""
    recipe_hash: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    protocol: str = ""
    """By which protocol the metrics were measured; empty where the run did not say."""
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Figures by other protocols, and of its files of predictions, by the protocol."""
    choice: float = math.nan
    """Of figures by another protocol or on other frames: the figure that its settings are chosen
    by, its own on its own held-out people, lower is better."""
    history: tuple[Mapping[str, float], ...] = ()
    """Evaluations on held-out subjects, each with its step."""
    examples: str = EXAMPLES_FILE
    """File in its folder of what each example gave by its protocol; empty where none can be."""
    scored: Mapping[str, str] = field(default_factory=dict)
    """The same for other protocols, where examples were kept."""
    training: tuple[Mapping[str, float], ...] = ()
    """What training logged, each with its step."""
    panels: Mapping[str, Path] = field(default_factory=dict)
    """The last picture of each name."""
    recipe: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """Runs that belong together, in the order of their plan."""

    name: str
    runs: tuple[Run, ...]
    baseline: str = ""
    rounds: tuple[str, ...] = ()
    """Of a sweep, in order: the last decides, the earlier ones chose what goes into it."""
    metric: str = ""
    """What a sweep judged its settings by; it ranks its tables."""

    def of_kind(self, kind: str) -> list[Run]:
        return [run for run in self.runs if run.kind == kind]

    def missing(self) -> list[str]:
        """Names of the runs that are not done."""
        return [run.name for run in self.runs if not run.done]


def read_study(folder: Path) -> Study:
    """The study or the single run in a folder; ValueError when there is neither."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give a study's folder or a run's")
    plan_path = folder / PLAN_FILE
    if plan_path.is_file() and not is_run(folder):  # a run's own plan is of its speed
        with as_written(plan_path):
            return _planned(folder, _json(plan_path))
    if is_run(folder):
        return Study(folder.resolve().name, (read_run(folder),))
    runs = tuple(read_run(path) for path in sorted(folder.iterdir()) if is_run(path))
    if not runs:
        raise ValueError(
            f"{folder}: neither a study (no {PLAN_FILE}) nor a run (no recipe.yaml), and no folder "
            "in it is a run"
        )
    return Study(folder.resolve().name, runs)


def _planned(folder: Path, plan: Mapping[str, Any]) -> Study:
    """The study that a plan describes."""
    sweep = _json(folder / SWEEP_FILE) if (folder / SWEEP_FILE).is_file() else {}
    return Study(
        str(plan["study"]),
        tuple(read_run(_place(folder, row["folder"]), row) for row in plan["runs"]),
        str(plan.get("baseline", "")),
        tuple(map(str, sweep.get("rounds", ()))),
        str(sweep.get("metric", "")),
    )


def is_run(folder: Path) -> bool:
    """Whether a run has begun in the folder."""
    return (folder / "recipe.yaml").is_file() or (folder / "report.json").is_file()


def read_run(folder: Path, planned: Mapping[str, Any] | None = None) -> Run:
    """A run's folder; what it has not written yet comes from its row in the plan."""
    with as_written(folder):
        return _read_run(folder, planned or {})


def _read_run(folder: Path, planned: Mapping[str, Any]) -> Run:
    state, trouble = state_of(folder)
    done = state in ("done", STOPPED)  # what a sweep has stopped tells how far it came
    said = folder / ("report.json" if state != STOPPED else STOPPED_FILE)
    report = _json(said) if said.is_file() else {}
    figures, rows = _numbers(report), _rows(folder / "metrics.jsonl")
    told = [_numbers(row) for row in report.get("history", [])]
    history = [row for row in told if "step" in row] or _held_out(rows)
    source = report.get("source", planned.get("source", ""))
    if isinstance(source, Mapping):
        source = source.get("name", "")
    scores = _scores(folder / SCORES_FILE) if done else {}
    return Run(
        folder=folder,
        name=str(planned.get("name") or report.get("name") or folder.resolve().name),
        kind=str(planned.get("kind") or report.get("kind", "")),
        source=str(planned.get("source") or source),
        blind=report.get("blind") is True,
        task=_task(planned, report),
        seed=int(report.get("seed", planned.get("seed", 0))),
        done=done,
        state=state,
        trouble=trouble,
        planned_steps=int(planned.get("steps") or 0),
        after=tuple(map(str, planned.get("after", ()))),
        base_task=str(planned.get("task") or report.get("task", "")),
        label_fraction=_fraction(planned, report),
        settings=dict(planned.get("settings", {})),
        cost=_numbers(report.get("cost", {})),
        steps=int(report.get("steps") or max((int(row["step"]) for row in rows), default=0)),
        global_batch=int(report.get("global_batch") or 0),
        seconds=figures.get("seconds"),
        samples_per_s=figures.get("samples_per_s"),
        world_size=int(figures["world_size"]) if "world_size" in figures else None,
        account=_account(report.get("account")),
        recipe_hash=str(report.get("recipe_hash", "")),
        metrics=_numbers(report.get("metrics", {})) if done else {},
        protocol=str(report.get("protocol", "")),
        scores={name: _numbers(row.get("figures", {})) for name, row in scores.items()},
        scored={name: _file_of(row) for name, row in scores.items()},
        history=tuple(history),
        training=tuple(row for row in map(_numbers, rows) if not any("/" in key for key in row)),
        panels=_panels(folder / "panels"),
        recipe=_text(folder / "recipe.yaml"),
        environment=(
            _json(folder / "environment.json") if (folder / "environment.json").is_file() else {}
        ),
    )


def _task(planned: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """The task; one learnt from a part of the labels is another, in every table and curve."""
    task = str(planned.get("task") or report.get("task", ""))
    fraction = _fraction(planned, report)
    return task if fraction == 1 else f"{task}, {100 * fraction:g} % of labels"


def _fraction(planned: Mapping[str, Any], report: Mapping[str, Any]) -> float:
    return float(report.get("label_fraction") or planned.get("label_fraction") or 1.0)


def state_of(folder: Path) -> tuple[str, str]:
    """The state of the run in a folder, and the sentence of the error that it ended with.

    A run that was begun is running while its log or its account was written to a short time ago, no
    last word stands in it, and a process has its folder, or had it a moment ago.
    """
    if (folder / "DONE").is_file():
        return "done", ""
    for path in sorted(folder.glob("logs/final_*.json")):
        with contextlib.suppress(FileNotFoundError):  # the run has just been begun again
            return "failed", str(_json(path).get("sentence", ""))
    if (folder / STOPPED_FILE).is_file():
        return STOPPED, ""
    marks = [folder / name for name in ("recipe.yaml", "metrics.jsonl", STARTS_FILE)]
    times = [path.stat().st_mtime for path in marks if path.is_file()]
    if not times:
        return "waiting", ""
    ended = _last_start(folder).get("ended")
    patience_s = RESTART_S if nobody_holds(folder / LOCK_FILE) else QUIET_S
    alive = ended is None and time.time() - max(times) < patience_s
    return ("running" if alive else "stopped"), ""


def _last_start(folder: Path) -> dict[str, Any]:
    """What the run's account says of its last start."""
    try:
        return dict(parsed_json((folder / STARTS_FILE).read_text(encoding="utf-8"))[-1])
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def failed_since(folder: Path, time_s: float) -> bool:
    """Whether the run in a folder has failed after that moment."""
    for path in folder.glob("logs/final_*.json"):
        with contextlib.suppress(FileNotFoundError):  # the run has just been begun again
            if path.stat().st_mtime >= time_s:
                return True
    return False


def planned_states(plan_path: Path) -> dict[str, str]:
    """The state of every run of a plan, by name."""
    rows = _json(plan_path)["runs"]
    return {r["name"]: state_of(_place(plan_path.parent, r["folder"]))[0] for r in rows}


def _place(study: Path, folder: str) -> Path:
    """A planned run's folder; a study that was moved whole still finds the runs inside it."""
    path = Path(folder)
    inside = study / path.name
    return inside if not path.exists() and inside.exists() else path


def _json(path: Path) -> dict[str, Any]:
    try:
        document = parsed_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(document, dict):
        raise ValueError(f"{path}: a JSON object is needed, found {type(document).__name__}")
    if _deeper(document, _LEVELS):
        raise ValueError(f"{path}: nested over {_LEVELS} levels deep, as no file of a run is")
    return document


def _deeper(value: Any, levels: int) -> bool:
    """Whether lists and maps lie within one another in more levels than that."""
    if not isinstance(value, dict | list):
        return False
    within = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper(item, levels - 1) for item in within)


def _rows(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; one torn by a kill is left out."""
    rows = []
    for line in _text(path).splitlines():
        try:
            row = parsed_json(line)
        except ValueError:
            continue
        if "step" in _numbers(row):
            rows.append(row)
    return rows


def _scores(path: Path) -> dict[str, Mapping[str, Any]]:
    """What the whole held-out set, other frames, or scored files of predictions gave: how tables
    call the protocol -> its `protocols.score.Score`."""
    rows = _json(path) if path.is_file() else {}
    return {
        f"{name} ({row['regressor'][:8]})" if row.get("regressor") else name: row
        for name, row in rows.items()
        if isinstance(row, Mapping)
    }


def _file_of(score: Mapping[str, Any]) -> str:
    """The file of the run's own folder that has a score's examples."""
    name = str(score.get("each", ""))
    return name if Path(name).name == name else ""


def _held_out(rows: list[dict[str, Any]]) -> list[dict[str, float]]:
    """The evaluations among the lines of metrics.jsonl, as report.json has them."""
    found = []
    for row in rows:
        values = {key[4:]: value for key, value in row.items() if key.startswith("val/")}
        if values:
            found.append(_numbers({"step": row["step"], **values}))
    return found


def _account(value: Any) -> dict[str, Any]:
    """Where a run's time went; empty where that is not all there."""
    known = _numbers(value)
    if not {"useful_s", "wall_s", "starts"} <= known.keys():
        return {}
    parts = {name: _numbers(value.get(name)) for name in ("ended", "recover_s")}
    return {**known, **parts}


def _numbers(row: Any) -> dict[str, float]:
    """The finite numbers of a row; none of what is no row."""
    return {
        key: value
        for key, value in (row.items() if isinstance(row, Mapping) else ())
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _MOST
    }


def _panels(folder: Path) -> dict[str, Path]:
    """The picture of the last step for each name in panels/."""
    last: dict[str, tuple[int, Path]] = {}
    for path in sorted(folder.glob("step_*.png")):
        match = PANEL.fullmatch(path.name)
        if match and int(match[1]) >= last.get(match[2], (-1, path))[0]:
            last[match[2]] = int(match[1]), path
    return {name: path for name, (_, path) in last.items()}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
