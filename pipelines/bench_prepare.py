"""What `python -m pipelines.bench prepare` measures: many workers, some of them killed, beside one.

Throughput is counted per second of processor time, so that workers that share their cores with one
another, or a machine with other users, are compared fairly.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cluster.connection import connected
from cluster.prepare import with_workers
from hpse_dist.config import load
from hpse_dist.data.collection import Collection
from hpse_dist.data.parts import Part
from hpse_dist.data.work import Todo
from hpse_dist.prepare import Meter, Task, prepare
from hpse_dist.recipe import DataRecipe
from pipelines import progress_bar
from pipelines.figures import Figure, figures

_CLOSE = 1e-5  # labels of the renderer are exact up to the last digits of float32
_CHUNK = 256


@dataclass(frozen=True)
class Making:
    """One collection as it was made."""

    collection: Collection
    parts: tuple[Part, ...]
    seconds: float
    """By the clock, from the first worker's start."""
    kills: int

    def by_worker(self) -> list[list[Part]]:
        """Each worker's parts in the order it made them."""
        makers: dict[str, list[Part]] = {}
        for part in sorted(self.parts, key=lambda part: part.made["at"]):
            makers.setdefault(part.made["by"], []).append(part)
        return list(makers.values())

    @property
    def per_core(self) -> float:
        """Frames per second of processor time, each worker's first part (its start) left out."""
        later = [part for parts in self.by_worker() for part in parts[1:]] or self.parts
        used = sum(part.made["processor_seconds"] for part in later)
        return sum(part.frames for part in later) / used

    def memory(self) -> tuple[float, float, float]:
        """(MB per 1,000 frames, least MB, most MB) of the workers.

        The slope is one line for all workers, each starting where it starts, over the second half
        of its parts: caches fill and buffers grow to their size in the first.
        """
        frames, megabytes = [], []
        for mine in self.by_worker():
            half = len(mine) // 2
            if len(mine) - half > 1:
                done = np.cumsum([part.frames for part in mine])[half:]
                used = np.array([part.made["memory_mb"] for part in mine])[half:]
                frames.append(done - done.mean())
                megabytes.append(used - used.mean())
        used_mb = [part.made["memory_mb"] for part in self.parts]
        if not frames:
            return float("nan"), min(used_mb), max(used_mb)
        x, y = np.concatenate(frames), np.concatenate(megabytes)
        return 1000 * float(x @ y / (x @ x)), min(used_mb), max(used_mb)

    def sentence(self, what: str) -> str:
        """What there is to say beside the table."""
        slope, least, most = self.memory()
        rejects = sum(sum(part.rejects.values()) for part in self.parts)
        return (
            f"{what}: {self.collection.num_frames} frames ({rejects} left out) in "
            f"{len(self.parts)} parts, {self.seconds:,.0f} s by the clock, {self.kills} workers "
            f"killed; memory of a worker {least:,.0f} to {most:,.0f} MB, {slope:+.2f} MB per "
            "1,000 frames in the second half"
        )


def bench_prepare(options: argparse.Namespace) -> list[Figure]:
    """The table of `bench prepare`; says the rest, and raises ValueError where contents differ."""
    if options.workers < 1 or options.kills < 0:
        raise ValueError("--workers must be at least 1, --kills at least 0")
    one, many, problems = make_both(
        options.recipe,
        options.overrides,
        workers=options.workers,
        kills=options.kills,
        folder=options.keep,
    )
    names = ["one worker alone", f"{options.workers} workers, {many.kills} killed"]
    for name, making in zip(names, (one, many), strict=True):
        print(making.sentence(name))
    if problems:
        raise ValueError(f"the two collections are not alike: {'; '.join(problems)}")
    print("both collections hold the same frames, labels and pairs; every file verified")
    measured = {names[0]: [one.per_core], names[1]: [many.per_core]}
    return figures(measured, "frames/s and core", names[0], {names[1]: "at least 0.9"})


def make_both(
    recipe: Path, overrides: Sequence[str], *, workers: int, kills: int, folder: Path | None
) -> tuple[Making, Making, list[str]]:
    """The recipe's collection by one Ray worker, and by many of which some are killed.

    Returns both, and what differs between them. `folder` keeps the collections; None drops them.
    """
    made = load(DataRecipe, recipe, overrides)
    with tempfile.TemporaryDirectory(prefix="hpse_bench_") as passing:
        out = folder or Path(passing)
        with connected():
            many = _make(replace(made, name=f"{made.name}-by-{workers}", out=out), workers, kills)
            one = _make(replace(made, name=f"{made.name}-by-1", out=out), 1, 0)
        problems = many.collection.verify() + differences(one.collection, many.collection)
    return one, many, problems


def _make(recipe: DataRecipe, workers: int, kills: int) -> Making:
    """One of the two, from nothing."""
    if recipe.folder().exists():
        raise ValueError(f"{recipe.folder()}: is there already; name another folder")
    carry_out, start = with_workers(workers), time.perf_counter()
    parts: list[Part] = []
    killer: _Killer | None = None

    def watched(task: Task, todo: Todo, meter: Meter | None) -> None:
        nonlocal start, killer
        start = time.perf_counter()
        killer = _Killer(todo, kills)
        killer.start()
        try:
            carry_out(task, todo, meter)
        finally:
            killer.over.set()
        parts.extend(todo.finished.values())

    with progress_bar(None, recipe.name, "frame") as bar:
        collection = prepare(recipe, meter=bar, carry_out=watched)
    assert killer is not None
    return Making(collection, tuple(parts), time.perf_counter() - start, killer.killed)


class _Killer(threading.Thread):
    """Ends workers with SIGKILL, spread over the parts: the last that has finished one."""

    def __init__(self, todo: Todo, kills: int) -> None:
        super().__init__(name="killer", daemon=True)
        self._todo, self._kills = todo, kills
        self.killed = 0
        self._dead: set[int] = set()
        self.over = threading.Event()

    def run(self) -> None:
        while self.killed < self._kills and not self.over.wait(0.2):
            done = list(self._todo.finished.values())
            due = (self._todo.count or 10**9) * (self.killed + 1) / (self._kills + 1)
            if len(done) >= due:
                last = sorted(done, key=lambda part: part.made["at"])
                process = int(last[-1].made["by"].split()[-1])
                if process in self._dead:
                    continue
                os.kill(process, signal.SIGKILL)
                self._dead.add(process)
                self.killed += 1
                tqdm.write(f"kill -9 {process} after {len(done)} parts", file=sys.stderr)


def differences(one: Collection, two: Collection) -> list[str]:
    """What two collections differ in: frames, their order, pixels, labels, pairs; [] if nothing."""
    if one.num_frames != two.num_frames:
        return [f"{one.num_frames} frames and {two.num_frames}"]
    found = [
        f"column {name} of frames.parquet"
        for name in one.frames.column_names
        if name not in ("pose", "surface") and not one.frames[name].equals(two.frames[name])
    ]
    if not one.pairs.select(["a", "b", "kind"]).equals(two.pairs.select(["a", "b", "kind"])):
        found.append("pairs.parquet")
    names = ["sample_id", "image", *one.label_fields]
    ids = one.frames["sample_id"].to_numpy()
    worst: dict[str, float] = dict.fromkeys(names, 0.0)
    for start in range(0, len(ids), _CHUNK):
        mine, its = (c.read(ids[start : start + _CHUNK], names) for c in (one, two))
        for name in names:
            worst[name] = max(worst[name], _distance(mine[name], its[name]))
    limits = {"image": 0.0, "sample_id": 0.0, "part_map": 0.0}
    found += [f"{n} by {far:.3g}" for n, far in worst.items() if far > limits.get(n, _CLOSE)]
    return found


def _distance(one: np.ndarray, two: np.ndarray) -> float:
    """Largest difference of any two numbers."""
    wide: Any = np.float64 if one.dtype.kind == "f" else np.int64
    return float(np.abs(one.astype(wide) - two.astype(wide)).max(initial=0))
