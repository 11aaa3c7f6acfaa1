"""Pictures that are in a collection twice, or in two collections: equal, or equal but for
recompression, another size, a slight crop, or being mirrored.

Candidates come from hashes (`hashes`, `hamming`); each is then looked at: the window is fitted to
its counterpart, and the two must correlate. Of a moving picture the next frame is such a duplicate
too, where little moves: `same_sequence` tells them apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from hpse_dist.data.collection import Collection
from hpse_dist.data.hamming import near
from hpse_dist.data.hashes import WINDOWS, Hashes, fitted_looks, frame_hashes

RADIUS = 10  # of 64 bits: 99 of 100 copies cut by a tenth of their side are within
MIN_CORRELATION = 0.95
LIMIT = 8  # candidates looked at for each picture
Progress = Callable[[int], object]

SCHEMA = pa.schema(
    [
        ("a", pa.int64()),
        ("b", pa.int64()),
        ("exact", pa.bool_()),
        ("mirrored", pa.bool_()),
        ("bits", pa.int8()),
        ("correlation", pa.float32()),
        ("same_sequence", pa.bool_()),
        *[(f"{what}_{side}", pa.string()) for side in "ab" for what in ("source", "split")],
    ]
)


@dataclass(frozen=True)
class Frames:
    """Some frames of a collection, with their hashes."""

    collection: Collection
    rows: np.ndarray
    """Which rows of frames.parquet, (N,) int64."""
    hashes: Hashes
    """Of those rows."""

    @classmethod
    def of(
        cls, collection: Collection, rows: np.ndarray, progress: Progress | None = None
    ) -> Frames:
        whole = frame_hashes(collection, progress)
        return cls(collection, rows, whole.take(rows))

    def column(self, name: str, at: np.ndarray) -> pa.ChunkedArray:
        """A column of frames.parquet for some of these frames."""
        return self.collection.frames[name].take(pa.array(self.rows[at]))


def within(collection: Collection, progress: Progress | None = None) -> pa.Table:
    """Duplicates inside a collection, each pair once with a < b, in the columns of `SCHEMA`.

    Whole pictures only: a picture and a cut-out of it are not looked for here.
    """
    frames = Frames.of(collection, np.arange(collection.num_frames), progress)
    whole = frames.hashes.windows[:, 0]
    found = []
    for mirrored, codes in enumerate((whole, frames.hashes.mirrored[:, 0])):
        i, j, bits = near(codes, whole, RADIUS, LIMIT + 1)
        swapped = np.minimum(i, j), np.maximum(i, j)
        zero: np.ndarray = np.zeros_like(bits)
        found.append(np.stack([*swapped, bits, zero, zero, zero + mirrored])[:, i != j])
    return _looked_at(frames, frames, np.concatenate(found, axis=1))


def between(a: Frames, b: Frames) -> pa.Table:
    """Pictures of `a` that are in `b` too, whole, slightly cropped or mirrored: of `SCHEMA`."""
    found = []
    for mirrored, windows in enumerate((a.hashes.windows, a.hashes.mirrored)):
        in_b = _windowed(windows[:, 0], b.hashes.windows)
        in_a = _windowed(b.hashes.windows[:, 0], windows[:, 1:])
        zero_b, zero_a = np.zeros(in_b.shape[1], np.int64), np.zeros(in_a.shape[1], np.int64)
        found += [
            np.stack([in_b[0], in_b[1], in_b[2], zero_b, in_b[3], zero_b + mirrored]),
            np.stack([in_a[1], in_a[0], in_a[2], in_a[3] + 1, zero_a, zero_a + mirrored]),
        ]
    return _looked_at(a, b, np.concatenate(found, axis=1))


def _windowed(whole: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """(4, M): row of `whole` (N,), row of `windows` (K, W), bits, and which window matches."""
    i, j, bits = near(whole, windows.reshape(-1), RADIUS, LIMIT)
    return np.stack([i, j // windows.shape[1], bits, j % windows.shape[1]])


def _looked_at(a: Frames, b: Frames, found: np.ndarray) -> pa.Table:
    """Candidates (6, M) of rows in a, in b, bits, windows in a and in b, and whether a is mirrored,
    as a table of duplicates.

    One row for each two frames; frames without contrast are left out.
    """
    found = found[:, ~(a.hashes.plain[found[0]] | b.hashes.plain[found[1]])]
    found = found[:, np.lexsort((found[2], found[5], found[1], found[0]))]
    found = found[:, _first(found[[0, 1, 5]])]
    exact = (a.hashes.exact[found[0]] == b.hashes.exact[found[1]]).all(axis=1)
    correlation: np.ndarray = np.where(exact, 1.0, 0.0)
    unsure = np.flatnonzero(~exact)
    correlation[unsure] = list(_correlations(a, b, found[:, unsure]))
    keep = correlation >= MIN_CORRELATION
    # a picture that is nearly its own mirror image is told as it is
    keep[keep] = _first(found[:2, keep])
    return _table(a, b, found[:, keep], exact[keep], correlation[keep])


def _first(keys: np.ndarray) -> np.ndarray:
    """(M,) bool, whether a column of sorted (K, M) differs from the one before."""
    first: np.ndarray = np.ones(keys.shape[1], bool)
    first[1:] = (keys[:, 1:] != keys[:, :-1]).any(axis=0)
    return first


def _correlations(a: Frames, b: Frames, found: np.ndarray, chunk: int = 256) -> Iterator[float]:
    """How alike the pictures of each candidate are, -1..1, after the window was fitted."""
    for start in range(0, found.shape[1], chunk):
        part = found[:, start : start + chunk]
        images = [
            frames.collection.read(frames.column("sample_id", at).to_numpy(), ["image"])["image"]
            for frames, at in ((a, part[0]), (b, part[1]))
        ]
        rows = zip(*images, part[3], part[4], part[5], strict=True)
        for one, other, window_a, window_b, mirrored in rows:
            if mirrored:
                one = one[:, ::-1]
            if window_a:
                yield fitted_looks(one, other, WINDOWS[window_a])
            else:
                yield fitted_looks(other, one, WINDOWS[window_b])


def _table(
    a: Frames, b: Frames, found: np.ndarray, exact: np.ndarray, correlation: np.ndarray
) -> pa.Table:
    i, j, bits = found[:3]
    same = np.asarray(_sequence(a, i)) == np.asarray(_sequence(b, j))
    inside = a.collection.folder == b.collection.folder
    columns = {
        "a": a.column("sample_id", i),
        "b": b.column("sample_id", j),
        "exact": exact,
        "mirrored": found[5] > 0,
        "bits": bits.astype(np.int8),
        "correlation": correlation.astype(np.float32),
        "same_sequence": same & inside,
        **{
            f"{what}_{side}": frames.column(what, at)
            for side, frames, at in (("a", a, i), ("b", b, j))
            for what in ("source", "split")
        },
    }
    return pa.table({name: columns[name] for name in SCHEMA.names}, schema=SCHEMA)


def _sequence(frames: Frames, at: np.ndarray) -> list[str]:
    parts = (frames.column(name, at).to_pylist() for name in ("subject", "sequence"))
    return [f"{subject}\n{sequence}" for subject, sequence in zip(*parts, strict=True)]


def counts(table: pa.Table) -> dict[str, int]:
    """How many duplicates there are, by kind."""
    exact, same = (table[name].to_numpy() for name in ("exact", "same_sequence"))
    return {
        "exact": int(exact.sum()),
        "near": int((~exact).sum()),
        "mirrored": int(table["mirrored"].to_numpy().sum()),
        "in one sequence": int(same.sum()),
        "across sequences": int((~same).sum()),
    }


def across(
    collection: Collection, others: list[Collection], progress: Progress | None = None
) -> list[tuple[str, pa.Table]]:
    """Duplicates within each collection and between each two of them: (which, table)."""
    everything = [collection, *others]
    found = [(f"{one.name} within", within(one, progress)) for one in everything]
    whole = [Frames.of(one, np.arange(one.num_frames)) for one in everything]
    for one, other in itertools.combinations(whole, 2):
        found.append((f"{one.collection.name} and {other.collection.name}", between(one, other)))
    return found


def check_list_name(path: Path) -> None:
    """ValueError unless the list's name says what it will be, and its folder is there."""
    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{path}: the list must be called something.parquet or something.csv")
    if not path.resolve().parent.is_dir():
        raise ValueError(f"{path}: no such folder to write the list into")


def write_list(found: list[tuple[str, pa.Table]], path: Path) -> None:
    """All duplicates with a column `where`, as .parquet or .csv by the file's name."""
    check_list_name(path)
    tables = [
        table.add_column(0, "where", pa.array([where] * table.num_rows, pa.string()))
        for where, table in found
    ]
    whole = pa.concat_tables(tables)
    if path.suffix == ".csv":
        pa.csv.write_csv(whole, path)
    else:
        pq.write_table(whole, path)
