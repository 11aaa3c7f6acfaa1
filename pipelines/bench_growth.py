"""`bench growth`: what the loader costs as frames, pairs and shards become more, on log axes, and
training as ranks do (`bench_ranks`).

Each size is read in a process of its own. Start: from opening the collection to the first batch.
Step: a batch of 64 small pictures, by the processor time of all threads. Worst step: the dearest
of some two hundred, one epoch's end and the next one's beginning among them. Memory: the process's
peak over what the smallest collection of all needs.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hpse_dist.data.augment import AugmentConfig
from hpse_dist.data.collection import Collection
from hpse_dist.data.loader import Loader, Sampling, Source
from hpse_dist.data.mining.cost import in_process
from hpse_dist.meter import forget_peak, peak_memory_mb
from hpse_dist.world import World
from pipelines import progress_bar
from pipelines.bench_ranks import RANK_BATCH, rank_costs
from pipelines.growing import CROP_PX, Size, make_collection

_BATCH = 64
_SMALLEST = Size(frames=1000, pairs=1000, shards=1)
_FOR_RANKS = Size(frames=10_000, pairs=100_000, shards=10)
LIMIT_S = 30.0  # of the start, whatever the size


@dataclass(frozen=True)
class Point:
    """One size and what it costs."""

    axis: str
    work: int
    """How many of what the axis says."""
    start_s: float
    start_cpu_s: float
    step_ms: float
    worst_step_ms: float
    memory_mib: float


def sizes(frames: int, pairs: int, shards: int) -> dict[str, list[tuple[int, Size]]]:
    """Axis -> its points up to these largest, each ten times the one before."""
    return {
        "frames": [(n, Size(n, 0, max(1, n // 1000))) for n in _tens(1000, frames)],
        "pairs": [(n, Size(100_000, n, 100)) for n in _tens(10_000, pairs)],
        "shards": [(n, Size(100_000, 1_000_000, n)) for n in _tens(10, shards)],
    }


def _tens(first: int, last: int) -> list[int]:
    if last < first:
        return []
    return [first * 10**k for k in range(round(math.log10(last / first)) + 1)]


def bench_ranks(most: int, *, steps: int, rounds: int) -> list[Point]:
    """The cost of 1, 2, 4, ... ranks, up to so many."""
    counts = [2**k for k in range(most.bit_length())]
    with tempfile.TemporaryDirectory(prefix="hpse_bench_") as place:
        made = Path(place) / "made"
        make_collection(made, _FOR_RANKS)
        with progress_bar(len(counts), "bench") as bar:
            points = []
            for count in counts:
                costs = [rank_costs(made, count, steps) for _ in range(rounds)]
                points.append(Point("ranks", count, **_medians(costs)))
                bar.update()
    return points


def _medians(costs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: statistics.median(cost[name] for cost in costs) for name in costs[0]}


def bench_growth(
    wanted: Mapping[str, Sequence[tuple[int, Size]]], *, steps: int, rounds: int
) -> list[Point]:
    """The cost of every size, each figure the median of `rounds` processes."""
    points = []
    with tempfile.TemporaryDirectory(prefix="hpse_bench_") as place:
        smallest = Path(place) / "smallest"
        make_collection(smallest, _SMALLEST)
        with progress_bar(sum(map(len, wanted.values())), "bench") as bar:
            for axis, work, size in [(a, n, s) for a, found in wanted.items() for n, s in found]:
                with tempfile.TemporaryDirectory(dir=place) as folder:
                    make_collection(Path(folder) / "made", size)
                    made = Path(folder) / "made"
                    costs = [_cost(smallest, made, axis, steps) for _ in range(rounds)]
                points.append(Point(axis, work, **_medians(costs)))
                bar.update()
    return points


def _cost(smallest: Path, folder: Path, axis: str, steps: int) -> dict[str, float]:
    said = in_process(__name__, "measure", smallest, folder, axis, steps)
    return json.loads(said.splitlines()[-1])


def measure(smallest: str, folder: str, axis: str, steps: str) -> None:
    """Print what a collection costs this process, that of the smallest left out."""
    sampling: Sampling = "frames" if axis == "frames" else "pairs"
    warm = _loader(smallest, sampling)
    next(iter(warm))
    warm.close()
    forget_peak()
    before = peak_memory_mb()
    began, busy = time.perf_counter(), time.process_time()
    loader = _loader(folder, sampling)
    batches = iter(loader)
    next(batches)
    cost = {"start_s": time.perf_counter() - began, "start_cpu_s": time.process_time() - busy}
    seconds = []
    for place in (0, max(0, loader.samples_per_epoch // _BATCH - int(steps) // 4)):
        batches.close()  # type: ignore[attr-defined]
        epoch, cursor = divmod(place * _BATCH, loader.samples_per_epoch)
        loader.load_state_dict({"epoch": epoch, "cursor": cursor})
        batches = iter(loader)
        next(batches)
        for _ in range(int(steps) // 2):
            busy = time.process_time()
            next(batches)
            seconds.append(time.process_time() - busy)
    loader.close()
    peak = peak_memory_mb()
    cost |= {"step_ms": 1e3 * statistics.median(seconds), "worst_step_ms": 1e3 * max(seconds)}
    print(json.dumps({**cost, "memory_mib": peak - before}))


def _loader(folder: str, sampling: Sampling) -> Loader:
    return Loader(
        [Source(Collection.open(folder))],
        needs=["image"] if sampling == "frames" else ["image", "image_ref", "pair_weight"],
        sampling=sampling,
        world=World(),
        seed=0,
        global_batch=_BATCH,
        micro_batch=_BATCH,
        augment=AugmentConfig(crop_scale=(1.0, 1.0)),
        image_px=CROP_PX,
        patch_px=CROP_PX,
    )


# ------------------------------------------------------------------------------------ reports


COLUMNS = {
    "start_s": ("start", "s"),
    "start_cpu_s": ("start, processor", "s"),
    "step_ms": ("step", "ms"),
    "worst_step_ms": ("worst step", "ms"),
    "memory_mib": ("memory", "MiB"),
}


def growth_table(points: Sequence[Point]) -> str:
    """A row for each size; under each axis by which power of the work its costs grow at the end."""
    rows = [["", *(f"{name}, {unit}" for name, unit in COLUMNS.values())]]
    for axis in dict.fromkeys(point.axis for point in points):
        here = [point for point in points if point.axis == axis]
        for point in here:
            values = (getattr(point, name) for name in COLUMNS)
            rows.append([f"{point.work:,} {axis}", *(f"{value:,.2f}" for value in values)])
        if len(here) > 1:
            powers = (power(here, name) for name in COLUMNS)
            rows.append(["  grows as work to the", *(f"{value:.2f}" for value in powers)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        row[0].ljust(widths[0])
        + "".join(f"  {row[i].rjust(widths[i])}" for i in range(1, len(row)))
        for row in rows
    )


def power(points: Sequence[Point], name: str) -> float:
    """x in cost ~ work^x between the last two sizes: 0 is flat, 1 in proportion."""
    before, last = points[-2:]
    costs = max(getattr(last, name), 1e-3) / max(getattr(before, name), 1e-3)
    return math.log(costs) / math.log(last.work / before.work)


def draw(points: Sequence[Point], path: Path) -> None:
    """Time above, memory below, a column for each axis; all axes logarithmic."""
    from matplotlib.figure import Figure

    axes = list(dict.fromkeys(point.axis for point in points))
    figure = Figure(figsize=(4 * len(axes), 6), layout="constrained")
    panels: Any = figure.subplots(2, len(axes), squeeze=False, sharex="col", sharey="row")
    for column, axis in enumerate(axes):
        here = [point for point in points if point.axis == axis]
        work = [point.work for point in here]
        seconds, memory = panels[0][column], panels[1][column]
        for name, scale in (("start_s", 1), ("worst_step_ms", 1e-3), ("step_ms", 1e-3)):
            values = [scale * getattr(point, name) for point in here]
            seconds.loglog(work, values, "o-", label=COLUMNS[name][0])
        seconds.axhline(LIMIT_S, color="grey", linestyle="--", linewidth=1)
        memory.loglog(work, [max(point.memory_mib, 1) for point in here], "o-", color="tab:purple")
        memory.set_xlabel(axis)
        for panel in (seconds, memory):
            panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("seconds")
    panels[0][0].legend(frameon=False)
    panels[1][0].set_ylabel("peak memory, MiB")
    figure.savefig(path)


# ------------------------------------------------------------------------------------ command


def add_arguments(parts: Any) -> None:
    """The command's part `growth`."""
    part: argparse.ArgumentParser = parts.add_parser(
        "growth", help="start, step and memory against numbers of frames, pairs, shards and ranks"
    )
    part.add_argument("--frames", type=int, default=1_000_000, help="most frames; 0 for none")
    part.add_argument("--pairs", type=int, default=10_000_000, help="most pairs; 0 for none")
    part.add_argument("--shards", type=int, default=10_000, help="most shards; 0 for none")
    part.add_argument("--ranks", type=int, default=8, help="most processes; 0 for none")
    part.add_argument("--steps", type=int, default=200, help="batches of each measurement")
    part.add_argument("--rounds", type=int, default=1, help="processes for each size")
    part.add_argument("--json", type=Path, help="write the figures here too")
    part.add_argument("--figure", type=Path, help="draw them here: .png, .svg or .pdf")


def main(options: argparse.Namespace, machine: str) -> None:
    """Measure, print, and write what is asked for."""
    if options.steps < 8 or options.rounds < 1:
        raise ValueError("--steps must be at least 8 and --rounds at least 1")
    wanted = sizes(options.frames, options.pairs, options.shards)
    if not any(wanted.values()) and options.ranks < 1:
        raise ValueError(
            "nothing to measure: --frames 1000, --pairs 10000, --shards 10 or --ranks 1, or more"
        )
    points = bench_growth(wanted, steps=options.steps, rounds=options.rounds)
    points += bench_ranks(max(0, options.ranks), steps=options.steps, rounds=options.rounds)
    print(growth_table(points))
    print(f"{options.rounds} rounds on {machine}; batches of {_BATCH}, of a rank {RANK_BATCH}")
    if options.json:
        content = {"machine": machine, "points": [asdict(point) for point in points]}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        print(f"done: {options.json}")
    if options.figure:
        draw(points, options.figure)
        print(f"done: {options.figure}")
