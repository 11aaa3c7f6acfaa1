"""What a finished run measured example by example: `examples.parquet` in its folder, and
`examples_<collection>_<split>.parquet` for each set of frames that its recipe names besides.

One row for each held-out example in the order of evaluation, which is the same for every run on the
same collection: its ids, the conditions of `data.conditions`, and a column for each metric, NaN
where the example has none. Comparisons of sources on the same examples, and intervals over people,
are made of these files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hpse_dist.data.collection import Collection
from hpse_dist.data.conditions import conditions
from hpse_dist.disk import whole_file

FILE = "examples.parquet"
Columns = Mapping[str, np.ndarray]


def file_on(tag: str) -> str:
    """The file's name for frames that are called so; see `recipe.HeldOut.tag`."""
    return f"examples_{tag}.parquet"


def in_order(ranks: Sequence[Sequence[Columns]]) -> dict[str, np.ndarray]:
    """What `train.evaluate` kept on every rank as one column each, in the order of evaluation.

    Round k of evaluation holds one batch of every rank, in rank order; rows that are not `valid`
    only fill up a batch.
    """
    batches = [batch for round_ in zip(*ranks, strict=True) for batch in round_]
    names = dict.fromkeys(name for batch in batches for name in batch)
    valid = np.concatenate([batch["valid"] for batch in batches])
    columns = {
        name: np.concatenate([_column(batch, name) for batch in batches])[valid]
        for name in names
        if name != "valid"
    }
    for column in columns.values():
        if np.isinf(column).any():  # some predictions are no numbers: the others are not the model
            column[:] = np.nan
    return columns


def _column(batch: Columns, name: str) -> np.ndarray:
    return batch.get(name, np.full(len(batch["valid"]), np.nan, np.float32))


def write_examples(path: Path, collection: Collection, columns: Columns) -> None:
    """Write the file; columns: `sample_id` of the frame, of a pair its first, and the metrics."""
    frames = collection.frames
    ids = columns["sample_id"]
    at = np.searchsorted(frames["sample_id"].to_numpy(), ids)
    table: dict[str, object] = {"sample_id": ids}
    table |= {name: frames[name].take(at) for name in ("subject", "sequence", "camera")}
    table |= dict(conditions(collection, ids))
    table |= {f"metric/{name}": value for name, value in columns.items() if name != "sample_id"}
    with whole_file(path) as draft:
        pq.write_table(pa.table(table), draft, compression="zstd")
