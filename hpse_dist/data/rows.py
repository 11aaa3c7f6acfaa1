"""What a shard's rows are: fields of fixed shape, checked before anything is written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

Row = Mapping[str, np.ndarray]
"""One frame: `image` (crop_px, crop_px, 3) uint8 or, as another shard has it, its JPEG (n,) uint8;
`sample_id`, and the labels of a ShardSpec."""


@dataclass(frozen=True)
class ShardSpec:
    """What every row of a shard holds besides its `sample_id`."""

    crop_px: int
    """Side of the stored square crop."""
    image_mode: Literal["jpg", "raw"] = "jpg"
    """JPEG is 5 to 20 times smaller; raw is exact and faster to read while it fits in memory."""
    jpeg_quality: int = 90
    """Of 100; ignored for raw."""
    labels: Mapping[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)
    """Name -> (shape, numpy dtype name). The shape () is a number: kept as int64 or float64."""

    def __post_init__(self) -> None:
        if self.crop_px < 8:
            raise ValueError(f"crop_px must be at least 8, found {self.crop_px}")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality must be in 1..100, found {self.jpeg_quality}")
        if "image" in self.labels:
            raise ValueError("a label must not be called image: every row has one")
        for name, (shape, dtype) in self.labels.items():
            if 0 in shape or np.dtype(dtype).kind not in "biuf":
                raise ValueError(f"label {name}: shape {shape}, dtype {dtype} cannot be stored")

    def sample_bytes(self) -> int:
        """Upper bound of one row's size in the file."""
        labels = sum(math.prod(s) * np.dtype(d).itemsize for s, d in self.labels.values())
        return 3 * self.crop_px**2 + 4096 + labels


def layouts(spec: ShardSpec) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Field -> (shape, dtype) of everything in a row."""
    image = (spec.crop_px, spec.crop_px, 3)
    labels = {name: (tuple(shape), np.dtype(d)) for name, (shape, d) in spec.labels.items()}
    return {"image": (image, np.dtype("u1")), "sample_id": ((), np.dtype("i8")), **labels}


def check_rows(path: Path, rows: Sequence[Row], spec: ShardSpec) -> None:
    """ValueError names the first row that does not fit the spec."""
    if not rows:
        raise ValueError(f"{path}: a shard needs at least one row")
    expected = layouts(spec)
    for i, row in enumerate(rows):
        if set(row) != set(expected):
            odd = ", ".join(sorted(set(row) ^ set(expected)))
            raise ValueError(f"{path}, row {i}: its fields differ from the spec in {odd}")
        for name, (shape, dtype) in expected.items():
            value = np.asarray(row[name])
            if name == "image" and spec.image_mode == "jpg" and value.ndim == 1:
                if value.dtype != np.uint8 or not 0 < len(value) <= spec.sample_bytes():
                    raise ValueError(f"{path}, row {i}: image is no JPEG that fits a row")
                continue
            fits = value.dtype.kind in "biuf" if shape == () else value.dtype == dtype
            if value.shape != shape or not fits:
                raise ValueError(
                    f"{path}, row {i}: {name} is {value.dtype} {value.shape}, "
                    f"the spec has {dtype} {shape}"
                )
