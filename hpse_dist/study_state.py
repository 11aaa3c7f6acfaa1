"""How far a study has come, what the rest of it will take, and when to stop starting runs.

Estimates are of finished runs of the same size beside the planned ones, where there are any; else
of a model of arithmetic and memory, which is good for the order of magnitude, and says that it is
one.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from hpse_dist.config import ConfigError, digest, read_yaml, to_dict
from hpse_dist.recipe import FinetuneRecipe, PretrainRecipe, component
from hpse_dist.report.runs import STOPPED_FILE, failed_since, state_of
from hpse_dist.run_folder import check_data, check_folder, is_done
from hpse_dist.safety import parsed_json
from hpse_dist.study import PlannedRun
from hpse_dist.study_recipe import StudyMachine

CORE_FLOPS, GPU_FLOPS = 3e10, 3e13  # per second and core or GPU, as transformers reach them
HEADS = 1.5  # decoder or head and data beside the encoder's own arithmetic
PROCESS_MB = 900  # Python, torch and the loader before any weights
STATE_BYTES = 16  # of a parameter: fp32 weight, gradient, AdamW's two moments
ACTIVATION_BYTES = 34  # per token, channel and layer at 16 bit (Korthikanti et al. 2022, eq. 1)
SIZED_BY = ("encoder", "objective", "task", "global_batch", "precision", "encoder_frozen")


@dataclass(frozen=True)
class Estimate:
    """What a run will take on the machine that the finished ones were on, or on this one."""

    seconds: float
    memory_mb: float
    basis: str


def state(run: PlannedRun) -> tuple[str, str]:
    """A planned run's state in one word, and what is to be said of it.

    done, running, stopped (begun, to go on), failed, waiting; and refused: its folder holds a run
    of another recipe, or one whose source or collections have been made anew since.
    """
    try:
        check_folder(run.recipe, run.folder)
        check_origins(run)
    except ConfigError as error:
        return "refused", str(error)
    return state_of(run.folder)


def check_origins(run: PlannedRun) -> None:
    """ConfigError where a run's collections, or a finished one's source, have changed under it."""
    try:
        check_data(run.recipe, run.folder)
    except ConfigError:
        raise
    except (ValueError, OSError):
        pass  # moved away or removed since: what was made of it still counts
    if not (run.after and is_done(run.folder) and isinstance(run.recipe, FinetuneRecipe)):
        return
    used = _json(run.folder / "report.json").get("source_card", {}).get("recipe_hash")
    now = _json(Path(run.recipe.source) / "card.json").get("recipe_hash")
    if used and now and used != now:
        raise ConfigError(
            f"{run.folder} was fine-tuned from {run.after[0]} before that was made anew by another "
            "recipe; remove the folder to run it again, or give the pre-training another name"
        )


def describe(runs: Sequence[PlannedRun]) -> list[str]:
    """The plan as lines of text: number, kind, name, steps, state, estimate, what comes before."""
    estimates, states = estimate(runs), [state(run) for run in runs]
    names, width = [run.name for run in runs], max(len(run.name) for run in runs)
    lines = []
    for number, (run, (word, said)) in enumerate(zip(runs, states, strict=True), start=1):
        guess = estimates[run.name]
        takes = f"{_time(guess.seconds):>8s} {_memory(guess.memory_mb):>7s}"
        after = ", ".join(str(1 + names.index(name)) for name in run.after)
        lines.append(
            f"{number:3d}  {run.kind:8s}  {run.name:{width}s}  {run.recipe.steps:7d} steps  "
            f"{word:7s}  {takes if word != 'done' else '':16s}"
            f"{f'  after {after}' if after else ''}".rstrip()
            + (f"  {said}" if word in ("refused", "failed") else "")
        )
    to_do = [r for r, (word, _) in zip(runs, states, strict=True) if word != "done"]
    whole = sum(estimates[run.name].seconds for run in to_do)
    lines.append(
        f"{len(runs)} runs: {', '.join(_counted(word for word, _ in states))}; "
        f"{sum(run.recipe.steps for run in to_do)} steps to go"
        + (f", about {_time(whole)} one after the other" if to_do else "")
    )
    bases = dict.fromkeys(estimates[run.name].basis for run in to_do)
    return [*lines, *(f"estimates: {basis}" for basis in bases)]


def _counted(words: Iterable[str]) -> list[str]:
    found = list(words)
    return [f"{found.count(word)} {word}" for word in dict.fromkeys(found)]


def estimate(runs: Sequence[PlannedRun]) -> dict[str, Estimate]:
    """Time and memory of every run, from the finished runs beside the planned ones and in studies
    beside theirs, or from the model."""
    outs = {run.folder.parent if run.kind == "pretrain" else run.folder.parents[1] for run in runs}
    known = _finished(sorted(outs))
    found = {}
    for run in runs:
        like = known.get(_size(to_dict(run.recipe)), [])
        if like:
            per_step = statistics.median(report["seconds"] / report["steps"] for report in like)
            memory = max(report.get("cost", {}).get("memory_mb", 0.0) for report in like)
            count = f"{len(like)} finished run{'s' if len(like) > 1 else ''}"
            basis = f"{count} of the same size, on the machine they ran on"
            found[run.name] = Estimate(per_step * run.recipe.steps, memory, basis)
        else:
            found[run.name] = _modelled(run.recipe)
    return found


def _finished(outs: Sequence[Path]) -> dict[str, list[dict[str, Any]]]:
    """Reports of the finished runs in some folders and in the studies in them, by their size."""
    found: dict[str, list[dict[str, Any]]] = {}
    marks = {mark for out in outs for depth in ("*/DONE", "*/*/DONE") for mark in out.glob(depth)}
    for done in sorted(marks):
        report = _json(done.with_name("report.json"))
        if report.get("seconds") and report.get("steps"):
            size = _size(read_yaml(done.with_name("recipe.yaml")))
            found.setdefault(size, []).append(report)
    return found


def _size(recipe: Mapping[str, Any]) -> str:
    """Runs of one size do the same arithmetic in a step on as many workers of one engine."""
    machine = recipe.get("machine", {})
    about = {key: recipe.get(key) for key in SIZED_BY}
    about |= {key: machine.get(key) for key in ("workers", "micro_batch", "engine")}
    foreign = str(recipe.get("source", "")).partition(":")
    return digest({"weights": foreign[2], **about})


def _modelled(recipe: PretrainRecipe | FinetuneRecipe) -> Estimate:
    """6 x parameters x tokens and the attention's own arithmetic, forward and backward."""
    encoder, machine = recipe.encoder, recipe.machine
    dim, depth, _ = encoder.sizes()
    if not dim or ":" in recipe.source:
        unknown = f"none for {encoder.timm or recipe.source}, of which no finished run is found"
        return Estimate(math.nan, math.nan, unknown)
    tokens = (encoder.image_px // encoder.patch_px) ** 2
    parameters = 12 * depth * dim**2 + 3 * encoder.patch_px**2 * dim
    pictures = recipe.global_batch * (2 if "image_ref" in component(recipe)[1] else 1)
    forward = 2 * parameters * tokens + 4 * depth * tokens**2 * dim
    gpu = machine.device == "cuda" or (machine.device == "auto" and torch.cuda.is_available())
    cores = os.cpu_count() or 1
    speed = machine.workers * GPU_FLOPS if gpu else cores * CORE_FLOPS
    seconds = recipe.steps * pictures * 3 * forward * HEADS / speed
    width = 1 if recipe.precision == "bf16" else 2
    kept = machine.micro_batch * tokens * dim * depth * ACTIVATION_BYTES * width
    memory = PROCESS_MB + HEADS * (parameters * STATE_BYTES + kept) / 2**20
    where = "one GPU per worker" if gpu else f"{cores} cores"
    basis = f"a model of a transformer's arithmetic on {where}, no finished run of that size"
    return Estimate(seconds, memory, basis)


class _Bounded(Protocol):
    """A study or a sweep."""

    @property
    def machine(self) -> StudyMachine: ...
    def folder(self) -> Path: ...


class Budget:
    """What a study may use up; asked before each run that would be started, in any process."""

    def __init__(self, study: _Bounded, runs: Sequence[PlannedRun]) -> None:
        self.machine, self.folder, self.began = study.machine, study.folder(), time.time()
        self.folders = {run.folder: run.kind for run in runs}

    def refusal(self) -> str | None:
        """Why no further run is to be started; None: go on."""
        machine = self.machine
        hours = (time.time() - self.began) / 3600
        failed = sum(failed_since(folder, self.began) for folder in self.folders)
        if machine.hours is not None and hours >= machine.hours:
            return f"the time budget, machine.hours={machine.hours:g}, is used up"
        if machine.failures is not None and failed >= machine.failures:
            return (
                f"{failed} run{'s' if failed > 1 else ''} failed, the failure budget is "
                f"machine.failures={machine.failures}"
            )
        if machine.disk_gb is not None and (held := self._held_gb(machine.disk_gb)):
            return (
                f"the study holds {held:.3g} GB, the budget is machine.disk_gb={machine.disk_gb:g}"
                f": raise it, or remove what is not needed of {self.folder}"
            )
        return None

    def _held_gb(self, most: float) -> float | None:
        """What the study's folder holds, if it is that much and stays it when what may be removed
        is: the run that has just ended still has its checkpoints."""
        held = size_gb(self.folder)
        if held >= most and self.machine.free_finished:
            for folder, kind in self.folders.items():
                _free(folder, kind)
            held = size_gb(self.folder)
        return held if held >= most else None


def size_gb(folder: Path) -> float:
    """What a folder's files take; runs under way come and go with theirs meanwhile."""
    found = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                found += os.stat(os.path.join(place, name)).st_size
    return found / 1e9


def free_finished(runs: Sequence[PlannedRun]) -> float:
    """Remove the checkpoints of fine-tuning runs that have ended; returns the gigabytes that
    frees."""
    return sum(_free(run.folder, run.kind) for run in runs)


def _free(folder: Path, kind: str) -> float:
    checkpoints = folder / "checkpoints"
    ended = is_done(folder) or (folder / STOPPED_FILE).is_file()  # neither is gone on with
    if kind != "finetune" or not ended or not checkpoints.is_dir():
        return 0.0
    freed = size_gb(checkpoints)
    shutil.rmtree(checkpoints, ignore_errors=True)  # another process may be at it
    return freed


def _json(path: Path) -> dict[str, Any]:
    try:
        return parsed_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _time(seconds: float) -> str:
    """Rough, as an estimate is."""
    if not math.isfinite(seconds):
        return "-"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 2e5 else f"{seconds / 86400:.0f} days"


def _memory(megabytes: float) -> str:
    return f"{megabytes / 1024:.1f} GB" if megabytes > 0 else "-"
