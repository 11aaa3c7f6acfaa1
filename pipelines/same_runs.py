"""Whether two finished runs of one recipe are the same to the bit, and whether each sample came
exactly once."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from hpse_dist.checkpoint import published
from hpse_dist.checkpoint_files import MANIFEST
from hpse_dist.ledger import Ledger
from hpse_dist.log import METRICS_FILE, read_metrics


def compare(one: Path, other: Path) -> list[str]:
    """In what two finished runs of one recipe differ; nothing: an empty list."""
    losses = [_losses(folder) for folder in (one, other)]
    states = [_state(folder) for folder in (one, other)]
    found = []
    if losses[0] != losses[1]:
        steps = [s for s in losses[0] if losses[0][s] != losses[1].get(s)]
        found.append(f"losses of steps {steps[:5]}")
    if states[0]["place"] != states[1]["place"]:
        found.append(f"places in the data {states[0]['place']} and {states[1]['place']}")
    tensors = [state["tensors"] for state in states]
    if tensors[0].keys() != tensors[1].keys():
        return [*found, "names of the tensors"]
    different = [n for n in tensors[0] if not torch.equal(tensors[0][n], tensors[1][n])]
    return [*found, f"tensors {different[:5]}"] if different else found


def repeated_and_lost(folder: Path) -> tuple[int, int, int]:
    """Of a finished run's committed steps: samples, those too often in a pass, those too seldom.

    A pass is a stretch of the endless sequence, in which an item comes as often as its source's
    weight says; the last one is as a rule not whole, so nothing is missed in it.
    """
    taken: Counter[tuple[int, int, int]] = Counter()
    ledger = Ledger.open(folder)
    loader = ledger.loader()
    try:
        size = loader.samples_per_epoch
        for step in _committed(folder):
            place = ledger.place(step, size)
            rows = loader.rows_at(place)
            passes: np.ndarray = (
                place + np.arange(len(rows.item))
            ) // size  # not rows.epoch: a draw's key
            taken.update(
                zip(passes.tolist(), rows.source.tolist(), rows.item.tolist(), strict=True)
            )
        weights = [items.source.weight for items in loader.items]
        counts = [len(items.first) for items in loader.items]
    finally:
        loader.close()
    repeated = sum(max(0, n - math.ceil(weights[key[1]])) for key, n in taken.items())
    lost = sum(
        max(0, math.floor(weights[source]) - taken[number, source, item])
        for number in range(sum(taken.values()) // size)
        for source, count in enumerate(counts)
        for item in range(count)
    )
    return sum(taken.values()), repeated, lost


def _committed(folder: Path) -> Iterator[int]:
    """The steps of the committed log, as often as they stand there."""
    for row in read_metrics(folder / METRICS_FILE):
        if "loss" in row:
            yield row["step"]


def _losses(folder: Path) -> dict[int, float]:
    return {
        row["step"]: row["loss"] for row in read_metrics(folder / METRICS_FILE) if "loss" in row
    }


def _state(folder: Path) -> dict[str, Any]:
    """The last checkpoint's tensors and place."""
    newest = published(folder / "checkpoints")[0]
    manifest = json.loads((newest / MANIFEST).read_text(encoding="utf-8"))
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(newest.glob("state-*.safetensors")):
        tensors |= {f"{path.name}/{name}": value for name, value in load_file(path).items()}
    return {"place": (manifest["step"], manifest["loader"]), "tensors": tensors}
