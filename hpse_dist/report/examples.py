"""What runs measured example by example, read and compared on the same examples and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hpse_dist.report.runs import Run
from hpse_dist.report.statistics import Interval, crossed_interval, interval

CONDITIONS = ("view_deg", "in_sight", "pose_distance")


@dataclass(frozen=True)
class Examples:
    """Columns of a run's file, (E,) each."""

    ids: np.ndarray
    people: np.ndarray
    """Subjects' names; where none is known each example is somebody else."""
    conditions: Mapping[str, np.ndarray]
    metrics: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Comparison:
    """A mean difference on the same seeds and, where they are kept, the same examples."""

    difference: Interval
    seeds: int
    people: int = 0
    """How many people the examples are of; 0: compared by the seeds' means alone."""


def read_examples(run: Run) -> Examples | None:
    """What a finished run measured by its protocol; None where it has left none."""
    path = run.folder / run.examples
    return _read(path, path.stat().st_mtime_ns) if path.is_file() else None


@lru_cache(maxsize=512)
def _read(path: Path, changed: int) -> Examples:
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: damaged, or no parquet file ({error})") from None
    columns = {name: np.asarray(table[name]) for name in table.column_names}
    people = columns["subject"].astype(str)
    others = np.char.add("example ", np.arange(len(people)).astype(str))
    return Examples(
        ids=columns["sample_id"],
        people=np.where(people == "", others, people),  # as wide as both: no name is cut short
        conditions={name: columns[name] for name in CONDITIONS if name in columns},
        metrics={
            name.removeprefix("metric/"): value
            for name, value in columns.items()
            if name.startswith("metric/")
        },
    )


def stacked(runs: Sequence[Run], name: str) -> tuple[np.ndarray, Examples] | None:
    """A metric of runs that measured the same examples by their protocol, (runs, E), and the
    examples; else None."""
    found = [read_examples(run) for run in runs]
    known = [each for each in found if each is not None and name in each.metrics]
    if not known or len(known) < len(found):
        return None
    if any(not np.array_equal(each.ids, known[0].ids) for each in known):
        return None
    return np.stack([each.metrics[name] for each in known]).astype(np.float64), known[0]


def compare(mine: Mapping[int, Run], other: Mapping[int, Run], name: str) -> Comparison:
    """`mine` minus `other`, runs by seed, on the seeds that both have."""
    seeds = sorted(
        seed
        for seed in mine.keys() & other.keys()
        if name in mine[seed].metrics and name in other[seed].metrics
    )
    pairs = [*(mine[seed] for seed in seeds), *(other[seed] for seed in seeds)]
    both = stacked(pairs, name)
    if both is None or not seeds:
        means = [mine[seed].metrics[name] - other[seed].metrics[name] for seed in seeds]
        return Comparison(interval(means), len(seeds))
    values, examples = both
    differences = values[: len(seeds)] - values[len(seeds) :]
    people = len(np.unique(examples.people))
    return Comparison(crossed_interval(differences, examples.people), len(seeds), people)
