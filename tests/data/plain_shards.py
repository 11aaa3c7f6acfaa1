"""A stand-in for FFCV's files, so that most tests of collections need no child process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from hpse_dist.data import beton


class PlainWriter:
    """The interface of `beton.BetonWriter`, storing .npz."""

    def __enter__(self) -> PlainWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is open."""

    def write(self, path: Path, rows: Sequence[beton.Row], spec: beton.ShardSpec) -> None:
        beton.check_rows(path, rows, spec)
        with open(path, "wb") as file:
            np.savez(file, **{name: np.stack([row[name] for row in rows]) for name in rows[0]})


def read_rows(path: Path, rows: Sequence[int], fields: Sequence[str]) -> dict[str, np.ndarray]:
    with np.load(path) as stored:
        return {name: stored[name][np.asarray(rows)] for name in fields}


@pytest.fixture
def plain_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beton, "BetonWriter", PlainWriter)
    monkeypatch.setattr(beton, "read_rows", read_rows)
