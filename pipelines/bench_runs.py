"""`bench step` and `bench scaling`: steps of the real trainer, read from its log.

Every measurement is a run of `pipelines.pretrain` in a process of its own, its start left out. The
clock counts what others do on the machine meanwhile; so steps are also held against the processor
time of all processes of the run, among them Ray's own.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from hpse_dist.config import load
from hpse_dist.log import METRICS_FILE, read_metrics
from hpse_dist.recipe import PretrainRecipe
from pipelines.figures import Figure, figure, figures, in_turn

BARE, ZERO, RAY = "plain torch", "DeepSpeed ZeRO-1", "DeepSpeed ZeRO-1 under Ray"
COMPILED = "plain torch, compiled"
_CORE = ", per core"
_LOOK_S = 1.0
_WITHOUT_RAY = ("--without-ray",)
_ZERO_1: dict[str, object] = {"machine.engine": "zero", "machine.zero_stage": 1}


@dataclass(frozen=True)
class Runs:
    """A recipe whose first steps are run again and again."""

    recipe: Path
    overrides: Sequence[str]
    steps: int
    """Counted in each run."""
    skip: int
    """Before those, to warm up."""
    folder: Path
    names: itertools.count[int] = field(default_factory=itertools.count)

    def speed(self, settings: Mapping[str, object], options: Sequence[str] = ()) -> Speed:
        """Of one run."""
        name, total = f"run{next(self.names)}", self.steps + self.skip
        given = {"name": name, "steps": total, "evaluate_every": total, "evaluate_limit": 1}
        given |= {"optim.warmup_steps": 1, "machine.out": self.folder, "machine.log_every": 1}
        given |= {"machine.checkpoint_every": total, "machine.panels_every": 10 * total}
        pairs = [f"{key}={value}" for key, value in {**given, **settings}.items()]
        command = [sys.executable, "-m", "pipelines.pretrain", str(self.recipe)]
        command += [*self.overrides, *pairs, *options]
        with watched() as spent:
            done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            *_, reason = ["no message", *done.stderr.strip().splitlines()]
            raise RuntimeError(f"the run {name} of {self.recipe} failed: {reason}")
        return speed(self.folder / name / METRICS_FILE, self.skip, spent)


@dataclass(frozen=True)
class Speed:
    """What one run showed."""

    clock: float
    """Steps per second."""
    core: float
    """Steps per second of processor time."""


def bench_step(runs: Runs, rounds: int, compiled: bool = False) -> list[Figure]:
    """Optimizer steps/s of one worker: bare, with DeepSpeed, and with DeepSpeed under Ray; and bare
    with `machine.compile`, where that is asked for."""
    one = {"machine.workers": 1}
    bare, zero = {**one, "machine.engine": "plain"}, {**one, **_ZERO_1}
    measures = {
        BARE: partial(runs.speed, bare, _WITHOUT_RAY),
        ZERO: partial(runs.speed, zero, _WITHOUT_RAY),
        RAY: partial(runs.speed, zero),
    }
    if compiled:
        measures[COMPILED] = partial(runs.speed, {**bare, "machine.compile": True}, _WITHOUT_RAY)
    found = in_turn(measures, rounds)
    clock = {name: [one.clock for one in speeds] for name, speeds in found.items()}
    core = {name + _CORE: [one.core for one in speeds] for name, speeds in found.items()}
    target = "at least 0.97"
    return [
        *figures(clock, "steps/s", BARE, {RAY: target}),
        *figures(core, "steps/s per core", BARE + _CORE, {RAY + _CORE: target}),
    ]


def bench_scaling(runs: Runs, workers: Sequence[int], per_worker: int, rounds: int) -> list[Figure]:
    """Samples/s of more and more workers under Ray, each with as many samples to a step."""
    measures, names = {}, {count: f"{count} workers" for count in workers}
    for count, name in names.items():
        settings = {
            "machine.workers": count,
            "machine.micro_batch": per_worker,
            "global_batch": count * per_worker,
        }
        measures[name] = partial(runs.speed, settings)
    found = in_turn(measures, rounds)
    samples = {
        name: [count * per_worker * one.clock for one in found[name]]
        for count, name in names.items()
    }
    core = {
        name + _CORE: [count * per_worker * one.core for one in found[name]]
        for count, name in names.items()
    }
    first = workers[0]
    lines = figures(samples, "samples/s", names[first], {})
    lines += figures(core, "samples/s per core", names[first] + _CORE, {})
    for count in workers[1:]:
        together = zip(samples[names[count]], samples[names[first]], strict=True)
        shares = [first * many / (count * few) for many, few in together]
        lines.append(figure(f"{names[count]}, of {count / first:g} x {names[first]}", "", shares))
    return lines


def speed(metrics: Path, skip: int, spent: Spent) -> Speed:
    """From the times of the log's lines, the first `skip` steps left out; by the clock 1 / median
    step."""
    times = {row["step"]: row["time"] for row in read_metrics(metrics) if "loss" in row}
    kept = [times[step] for step in sorted(times) if step > skip]
    if len(kept) < 3:
        raise ValueError(f"{metrics}: {len(kept)} steps after the first {skip} are too few")
    busy = spent.until(kept[-1]) - spent.until(kept[0])
    return Speed(1 / statistics.median(np.diff(kept).tolist()), (len(kept) - 1) / max(busy, 1e-9))


class Spent:
    """The processor time of all processes that have come from this one, as looked at again and
    again; of one that ends, what it had used when it was last seen."""

    def __init__(self) -> None:
        self._last: dict[psutil.Process, float] = {}
        self._looks: list[tuple[float, float]] = []
        self.look()

    def look(self) -> None:
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                self._last[process] = times.user + times.system
        self._looks.append((time.time(), sum(self._last.values())))

    def until(self, moment: float) -> float:
        """Seconds, up to a moment in seconds since 1970."""
        moments, seconds = zip(*self._looks, strict=True)
        return float(np.interp(moment, moments, seconds))


@contextlib.contextmanager
def watched() -> Iterator[Spent]:
    """What runs in the block is looked at every second."""
    spent, over = Spent(), threading.Event()

    def watch() -> None:
        while not over.wait(_LOOK_S):
            spent.look()

    thread = threading.Thread(target=watch, name="spent", daemon=True)
    thread.start()
    try:
        yield spent
    finally:
        over.set()
        thread.join()


# ------------------------------------------------------------------------------------ command


def add_arguments(parts: Any) -> None:
    """The command's parts `step` and `scaling`."""
    step = parts.add_parser("step", help="steps/s of plain torch, of DeepSpeed, and under Ray")
    step.add_argument("--compile", action="store_true", help="plain torch with machine.compile too")
    scaling = parts.add_parser("scaling", help="samples/s and efficiency of 1, 2, ... workers")
    scaling.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    scaling.add_argument("--per-worker", type=int, help="samples to a step; else micro_batch")
    for part in (step, scaling):
        demo = Path("configs/pretrain/demo.yaml")
        part.add_argument("recipe", type=Path, nargs="?", default=demo)
        part.add_argument("overrides", nargs="*", metavar="key=value")
        part.add_argument("--steps", type=int, default=60, help="counted in each run")
        part.add_argument("--skip", type=int, default=10, help="steps before those, to warm up")
        part.add_argument("--rounds", type=int, default=3, help="repeats, candidates in turn")
        part.add_argument("--json", type=Path, help="write the figures here too")


def from_options(options: argparse.Namespace) -> list[Figure]:
    """What the command asks for; a mistake is said before anything starts."""
    read = load(PretrainRecipe, options.recipe, options.overrides)
    if options.steps < 4 or options.skip < 0:
        raise ValueError(
            f"--steps must be at least 4, --skip 0, found {options.steps}, {options.skip}"
        )
    with tempfile.TemporaryDirectory(prefix="hpse_bench_") as folder:
        runs = Runs(options.recipe, options.overrides, options.steps, options.skip, Path(folder))
        if options.part == "step":
            return bench_step(runs, options.rounds, options.compile)
        per_worker = options.per_worker or read.machine.micro_batch
        if min(options.workers) < 1 or len({*options.workers}) < len(options.workers):
            raise ValueError(f"--workers must be different numbers from 1, found {options.workers}")
        return bench_scaling(runs, sorted(options.workers), per_worker, options.rounds)
