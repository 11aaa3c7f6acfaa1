"""Annotated pictures made up for tests: own pictures, own numbers, in official layouts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hpse_dist.records import FrameRecord, Reject

WIDTH, HEIGHT = 240, 200


def picture(path: Path, value: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), value, np.uint8)).save(path)


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def places(count: int, seed: int = 0) -> np.ndarray:
    """(count, 2) places of pixels inside the picture, whole numbers."""
    numbers = np.random.default_rng(seed)
    return numbers.integers((40, 30), (WIDTH - 40, HEIGHT - 30), (count, 2)).astype(float)


def triples(xy: np.ndarray, sure: Iterable[float]) -> list[float]:
    """x, y, v of each joint in one list, as COCO writes them."""
    return np.column_stack([xy, list(sure)]).ravel().tolist()


def parted(
    records: Iterable[FrameRecord | Reject],
) -> tuple[list[FrameRecord], dict[str, str]]:
    """The frames, and the rejects' reasons by source."""
    records = list(records)
    frames = [record for record in records if isinstance(record, FrameRecord)]
    return frames, {r.source: r.reason for r in records if isinstance(r, Reject)}
