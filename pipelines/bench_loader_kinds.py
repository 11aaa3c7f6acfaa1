"""`bench loader`, its second part: the kinds of `machine.loader` side by side.

Each decodes all pictures of the collection with as many threads or Ray data workers. A rate per
core counts this process, its data workers where they are at work, and for every kind what Ray
itself uses meanwhile, which it does under any run.
Waiting is measured beside a step that leaves the processors alone, as one on a GPU does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from cluster.connection import connected
from cluster.data_workers import DataWorkers
from hpse_dist.data.augment import AugmentConfig
from hpse_dist.data.collection import Collection
from hpse_dist.data.decoding import Kind
from hpse_dist.data.loader import Loader, Source
from hpse_dist.world import World
from pipelines.bench_loader import processor_seconds
from pipelines.figures import Figure, figure, figures, in_turn
from pipelines.soak import role_of

KINDS: tuple[Kind, ...] = ("inline", "workers", "resident")
_WARM = 12  # batches before the first that counts: some are ready when a measurement begins
_LOAD = 0.5  # of inline's full rate, at which waiting is measured


@dataclass(frozen=True)
class Taken:
    """What one measurement found."""

    rate: float
    """Frames per second."""
    core: float
    """Frames per second of processor time."""
    waiting: float
    """Share of the time spent inside the loader."""


def bench_kinds(
    collection: Collection, *, batch: int, threads: int, rounds: int, seconds: float
) -> list[Figure]:
    """Frames/s of each kind by the clock and per core, and how long training would wait for it."""
    whole = Collection.open(collection.folder.resolve())  # a data worker may be anywhere
    with ExitStack() as stack:
        stack.enter_context(connected(batches=True))
        loaders: dict[str, Loader] = {
            kind: _loader(whole, kind, batch, threads, stack) for kind in KINDS
        }
        running = {kind: made.decoded() for kind, made in loaders.items()}

        def measured(step_s: float) -> dict[str, list[Taken]]:
            return in_turn(
                {k: partial(take, loaders[k], running[k], seconds, step_s) for k in loaders}, rounds
            )

        fast = measured(0.0)
        slow = measured(batch / (_LOAD * max(one.rate for one in fast["inline"])))
        for batches in running.values():
            batches.close()  # type: ignore[attr-defined]
    return _lines(fast, slow, threads)


def _lines(
    fast: dict[str, list[Taken]], slow: dict[str, list[Taken]], threads: int
) -> list[Figure]:
    def named(kind: str) -> str:
        return f"loader {kind}, {threads} at work"

    clock = {named(kind): [one.rate for one in found] for kind, found in fast.items()}
    core = {f"{named(kind)}, per core": [x.core for x in found] for kind, found in fast.items()}
    lines = figures(clock, "frames/s", named("inline"), {named("workers"): "at least 0.9"})
    targets = {f"{named('workers')}, per core": "at least 0.9"}
    lines += figures(core, "frames/s per core", f"{named('inline')}, per core", targets)
    for kind, found in slow.items():
        name = f"{named(kind)}, waiting beside a step at {_LOAD:.0%} of inline's rate"
        lines.append(figure(name, "% of the time", [100 * one.waiting for one in found]))
    return lines


def _loader(
    collection: Collection, kind: Kind, batch: int, threads: int, stack: ExitStack
) -> Loader:
    made = Loader(
        [Source(collection, split=None)],
        needs=["image"],
        sampling="frames",
        world=World(),
        seed=0,
        global_batch=batch,
        micro_batch=batch,
        augment=AugmentConfig(),
        image_px=collection.config.crop_px * 7 // 8,
        patch_px=collection.config.crop_px * 7 // 8,
        threads=threads,
        kind=kind,
        hire=DataWorkers(threads),
    )
    stack.callback(made.close)
    return made


def _processor_seconds(data_workers: bool) -> float:
    """Of this process and its living children, among them Ray's; without idle data workers."""
    if data_workers:
        return processor_seconds()
    return processor_seconds(lambda title: role_of(title) != "data")


def take(made: Loader, batches: Iterator[Any], seconds: float, step_s: float) -> Taken:
    """Batches for some seconds, each followed by a step in which no processor works."""
    for _ in range(_WARM):
        next(batches)
    used = partial(_processor_seconds, bool(made.core_seconds))
    frames, start, busy, waited = 0, time.perf_counter(), used(), made.wait_seconds
    while (passed := time.perf_counter() - start) < seconds:
        frames += len(next(batches)["image"])
        if step_s:
            time.sleep(step_s)
    core = frames / max(used() - busy, 1e-9)
    return Taken(frames / passed, core, (made.wait_seconds - waited) / passed)
