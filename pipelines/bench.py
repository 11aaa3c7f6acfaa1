"""`python -m pipelines.bench <part>`: how fast the parts are; `--help` lists them.

Candidates are measured in turn, several times over, so that a machine whose speed drifts or that
others use treats them alike. A ratio is the median over the rounds of two figures of one round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import torch

from hpse_dist import synth
from hpse_dist.data.collection import Collection
from hpse_dist.data.mining.cost import make_tables, mining_cost
from hpse_dist.data.pairs import PairsConfig
from hpse_dist.records import FrameRecord
from pipelines import (
    bench_attention,
    bench_growth,
    bench_loader,
    bench_runs,
    chaos,
    command_parser,
    memory_bench,
    progress_bar,
    run_command,
    step_bench,
)
from pipelines.bench_loader_kinds import bench_kinds
from pipelines.bench_prepare import bench_prepare
from pipelines.figures import Figure, figure, figures, table

# ------------------------------------------------------------------------------------- synth


def bench_synth(*, crop_px: int, sequences: int, rounds: int) -> list[Figure]:
    """Labelled crops per second of one core's time, the renderer's start left out."""
    torch.set_num_threads(1)
    names = [f"synthetic people, {crop_px} px, one core's time", "the same by the clock"]
    measured: dict[str, list[float]] = {name: [] for name in names}
    with progress_bar(rounds, "bench") as bar:
        for seed in range(rounds):
            for name, value in zip(names, _synthesis(crop_px, sequences, seed), strict=True):
                measured[name].append(value)
            bar.update()
    return figures(measured, "crops/s", names[0], {names[0]: "at least 25 at 128 px"})


def _synthesis(crop_px: int, sequences: int, seed: int) -> tuple[float, float]:
    """Crops per second of processor time and of wall time, on one process.

    A sequence's crops come at once when all are rendered: so the time from the first crop of all
    to the first crop of the last sequence is that of all sequences but the first.
    """
    config = synth.Config(
        num_subjects=sequences + 1, sequences_per_subject=1, crop_px=crop_px, seed=seed
    )
    first = last = None
    subject, crops = "", 0
    for frame in synth.frames(config, processes=1):
        if isinstance(frame, FrameRecord):
            if frame.subject != subject:
                subject, last = frame.subject, (time.process_time(), time.perf_counter())
            if first is None:
                first, start = last, subject
            crops += subject != start
    if first is None or last is None or first == last:
        raise ValueError(f"{sequences} sequences gave no crops to count; render more")
    return crops / (last[0] - first[0]), crops / (last[1] - first[1])


# ------------------------------------------------------------------------------------- pairs


def bench_pairs(*, frames: int, people: int, rules: PairsConfig, rounds: int) -> list[Figure]:
    """Seconds and memory of mining the pairs of made-up frames, each round in a fresh process."""
    if people < 1 or frames < 2 * people:
        raise ValueError(f"frames must be at least 2 for each of the people, found {frames}")
    with tempfile.TemporaryDirectory(prefix="hpse_bench_") as folder:
        make_tables(Path(folder), frames, people)
        with progress_bar(rounds, "bench") as bar:
            costs = []
            for _ in range(rounds):
                costs.append(mining_cost(Path(folder), rules))
                bar.update()
    one = costs[0]
    what = f"{one.pairs:,} pairs of {one.candidates:,} candidates, {one.frames:,} frames"
    return [
        figure(what, "s", [cost.seconds for cost in costs], "under 60 for 1,000,000 pairs"),
        figure("the same in processor time", "s", [cost.cpu_seconds for cost in costs]),
        figure("peak memory", "MiB", [cost.peak_bytes / 2**20 for cost in costs], "under 2,048"),
        figure("pairs", "pairs/s", [cost.pairs / cost.seconds for cost in costs]),
    ]


# ----------------------------------------------------------------------------------- command


def parser() -> argparse.ArgumentParser:
    made = command_parser(
        "bench",
        "How fast the loader, the renderer, a training step and the mining of pairs are.",
        "python -m pipelines.bench loader collections/demo --json loader.json",
    )
    kinds = "loader|synth|step|scaling|attention|pairs|growth|chaos|prepare|completion|memory"
    parts = made.add_subparsers(dest="part", required=True, metavar=kinds)
    bench_loader.add_arguments(parts)
    rendering = parts.add_parser("synth", help="crops/s of the renderer on one core")
    rendering.add_argument("--crop-px", type=int, default=128)
    rendering.add_argument("--sequences", type=int, default=2, help="of 16 moments, each round")
    bench_runs.add_arguments(parts)
    making = parts.add_parser("prepare", help="Ray workers, some killed, beside one worker alone")
    making.add_argument("recipe", type=Path, nargs="?", default=Path("configs/data/demo.yaml"))
    making.add_argument("overrides", nargs="*", metavar="key=value")
    making.add_argument("--workers", type=int, default=4)
    making.add_argument("--kills", type=int, default=2, help="workers ended with SIGKILL")
    making.add_argument("--keep", type=Path, help="folder for both collections; else removed")
    making.add_argument("--json", type=Path, help="write the figures here too")
    mining = parts.add_parser("pairs", help="seconds and memory of mining made-up frames' pairs")
    mining.add_argument("--frames", type=int, default=200_000)
    mining.add_argument("--people", type=int, default=500, help="half in rigs of 4 to 100 cameras")
    mining.add_argument("--per-frame", type=int, default=8, help="rule pairs.max_pose_per_frame")
    mining.add_argument("--per-moment", type=int, default=64, help="rule pairs.max_view_per_moment")
    mining.add_argument("--per-subject", type=int, help="rule pairs.max_per_subject")
    bench_attention.add_arguments(parts)
    bench_growth.add_arguments(parts)
    chaos.add_arguments(parts)
    step_bench.add_arguments(parts)
    memory_bench.add_arguments(parts)
    for part, rounds in ((rendering, 3), (mining, 3)):
        part.add_argument("--rounds", type=int, default=rounds, help="repeats, candidates in turn")
        part.add_argument("--json", type=Path, help="write the figures here too")
    return made


def main(options: argparse.Namespace) -> None:
    if options.part == "chaos":
        chaos.main(options)
        return
    if options.part == "memory":
        memory_bench.main(options)
        return
    if options.part == "growth":
        bench_growth.main(options, machine())
        return
    if options.part == "prepare":
        finish(bench_prepare(options), 1, options.json)
        return
    if options.rounds < 1:
        raise ValueError(f"--rounds must be at least 1, found {options.rounds}")
    if options.part == "loader":
        lines = bench_loaders(options)
    elif options.part == "attention":
        lines = bench_attention.from_options(options)
    elif options.part == "synth":
        lines = bench_synth(
            crop_px=options.crop_px, sequences=options.sequences, rounds=options.rounds
        )
    elif options.part == "completion":
        lines = step_bench.bench_completion(
            options.recipe,
            options.overrides,
            steps=options.steps,
            rounds=options.rounds,
        )
    elif options.part == "pairs":
        rules = PairsConfig(
            max_pose_per_frame=options.per_frame,
            max_view_per_moment=options.per_moment,
            max_per_subject=options.per_subject,
        )
        lines = bench_pairs(
            frames=options.frames, people=options.people, rules=rules, rounds=options.rounds
        )
    else:
        lines = bench_runs.from_options(options)
    finish(lines, options.rounds, options.json)


def bench_loaders(options: argparse.Namespace) -> list[Figure]:
    """Ours beside others, then the kinds of ours, of which one needs Ray."""
    collection = Collection.open(options.collection)
    settings = {name: getattr(options, name) for name in ("batch", "threads", "rounds", "seconds")}
    lines = bench_loader.bench_loader(collection, **settings)
    return lines if options.without_ray else lines + bench_kinds(collection, **settings)


def finish(lines: list[Figure], rounds: int, path: Path | None) -> None:
    """Print the table, and write it where that is asked for."""
    print(table(lines))
    print(f"{rounds} rounds on {machine()}; spread is half the range over the median")
    if path:
        content = {"machine": machine(), "figures": [asdict(line) for line in lines]}
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        print(f"done: {path}")


def machine() -> str:
    """The computer in a few words; how busy it was belongs to a figure."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores ({platform.machine()}), load {load:.1f}{gpu}"


if __name__ == "__main__":
    sys.exit(run_command(main, parser()))
