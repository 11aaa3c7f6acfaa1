"""What mining costs: wall time and peak memory of a process that does nothing else."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from hpse_dist.config import build, to_dict
from hpse_dist.data.collection import SCHEMA_VERSION, Collection
from hpse_dist.data.mining.made import made_frames, population
from hpse_dist.data.pairs import PairsConfig, write_pairs
from hpse_dist.data.publish import file_entry, write_manifest


@dataclass(frozen=True)
class MiningCost:
    """One mining of a collection's pairs, from its frames.parquet to its pairs.parquet."""

    frames: int
    candidates: int
    pairs: int
    """Different pairs, each counted once whatever its orders."""
    rows: int
    """Of pairs.parquet."""
    seconds: float
    """By the clock, the start of the program left out."""
    cpu_seconds: float
    """Of the processor, which others may keep waiting."""
    peak_bytes: int
    """Most memory the process ever had."""


def make_tables(folder: Path, num_frames: int, num_people: int) -> None:
    """A collection of made-up frames and no pictures, in a process of its own."""
    in_process(__name__, "_make", folder, num_frames, num_people)


def mining_cost(folder: Path, config: PairsConfig) -> MiningCost:
    """Mine what `make_tables` made; other pairs that are there are mined anew."""
    return MiningCost(
        **json.loads(in_process(__name__, "_mine", folder, json.dumps(to_dict(config))))
    )


def in_process(module: str, function: str, *values: object) -> str:
    """What a function prints in a fresh process; it gets the values as text."""
    program = f"import sys; from {module} import {function}; {function}(*sys.argv[1:])"
    command = [sys.executable, "-c", program, *map(str, values)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        *_, reason = ["no message", *done.stderr.strip().splitlines()]
        raise RuntimeError(f"the process that was measured failed: {reason}")
    return done.stdout


def _make(folder: str, num_frames: str, num_people: str) -> None:
    path = Path(folder) / "frames.parquet"
    table = made_frames(population(int(num_frames), int(num_people)))
    pq.write_table(table, path, compression="zstd")
    files = {path.name: file_entry(path)}
    counts = {"frames": table.num_rows}
    write_manifest(
        Path(folder), {"schema": SCHEMA_VERSION, "counts": counts, "shards": [], "files": files}
    )


def _mine(folder: str, rules: str) -> None:
    began, busy = time.perf_counter(), time.process_time()
    collection = Collection.open(folder)
    collection.manifest = {k: v for k, v in collection.manifest.items() if k != "pairs"}
    write_pairs(collection, build(PairsConfig, json.loads(rules)))
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - busy
    mined = collection.manifest["pairs"]
    spread = mined["spread"].values()
    cost = {
        "frames": collection.num_frames,
        "candidates": sum(kind["candidates"] for kind in spread),
        "pairs": sum(kind["kept"] for kind in spread),
        "rows": mined["view"] + mined["pose"],
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }
    print(json.dumps(cost))
