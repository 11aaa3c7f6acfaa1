"""Records that cannot be decoded, and which others stand for them.

The choice is keyed by the record, the epoch and the try: the same on any number of ranks, with any
number of threads, and after a resume.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hpse_dist.data.items import Items
from hpse_dist.draws import uniform

NEAR, TRIES = 8, 16  # of these tries, so many within the record's own shard


@dataclass(frozen=True)
class BadRecord:
    """A stored frame whose picture is damaged."""

    sample_id: int
    """As it is in the run."""
    shard: Path
    row: int

    def __str__(self) -> str:
        return f"{self.shard}, row {self.row}"


def substitutes(items: Items, bad: np.ndarray, epoch: np.ndarray, attempt: int) -> np.ndarray:
    """An item of the same kind for each of some items (n,), at first of the same shard."""
    draw = uniform(
        0,
        "substitute",
        torch.from_numpy(np.ascontiguousarray(epoch)),
        torch.from_numpy(items.sample_id[items.first[bad]] + items.offset),
        TRIES,
    )[:, attempt].numpy()
    chosen = np.empty_like(bad)
    for place, item in enumerate(bad.tolist()):
        alike = items.kind == items.kind[item]
        if attempt < NEAR:
            alike &= items.shard[items.first] == items.shard[items.first[item]]
        pool = np.flatnonzero(alike)
        chosen[place] = pool[int(draw[place] * len(pool))]
    return chosen
