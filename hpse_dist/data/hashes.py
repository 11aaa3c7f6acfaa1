"""What pictures look like, in a few bytes that survive recompression, resizing and cropping.

Each frame has an exact hash of its decoded pixels, and one 64-bit hash of its low frequencies for
each of 19 windows: the whole crop, and windows of two smaller sizes at nine places. A picture and a
cut-out of it then share a nearly equal hash between the whole of one and some window of the other.
The same of the mirrored picture finds copies that someone has mirrored.
The hash is the usual one of 8 x 8 DCT coefficients (Zauner 2010, "Implementation and benchmarking
of perceptual image hash functions"); window, reduction and transform are one matrix product.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy

from hpse_dist.data import beton
from hpse_dist.data.collection import Collection
from hpse_dist.stamps import VERSION

FILE = "hashes.parquet"
REDUCED_PX = 64  # pictures are looked at in grey at this size
LOOK_PX = 24  # and compared with one another at this one
PLAIN = 3.0  # standard deviation of grey levels (of 255) below which there is nothing to tell by
_SIZES = (0.92, 0.84)
_CHUNK = 256


@dataclass(frozen=True)
class Window:
    """A square part of a crop, in shares of its side."""

    x: float
    y: float
    side: float


def _windows() -> tuple[Window, ...]:
    parts = [Window(0.0, 0.0, 1.0)]
    for side in _SIZES:
        places = (0.0, (1 - side) / 2, 1 - side)
        parts += [Window(x, y, side) for y in places for x in places]
    return tuple(parts)


WINDOWS = _windows()


@dataclass(frozen=True)
class Hashes:
    """Hashes of a collection's frames, in the order of frames.parquet."""

    exact: np.ndarray
    """(N, 2) uint64, the first 128 bits of the sha256 of the decoded pixels."""
    windows: np.ndarray
    """(N, 19) uint64, of each window; the first is the whole picture."""
    mirrored: np.ndarray
    """(N, 19) uint64, of each window of the mirrored picture."""
    plain: np.ndarray
    """(N,) bool, True where the picture is of one grey and the hashes of windows mean nothing."""

    def __len__(self) -> int:
        return len(self.exact)

    def take(self, rows: np.ndarray) -> Hashes:
        """The hashes of some frames."""
        return Hashes(self.exact[rows], self.windows[rows], self.mirrored[rows], self.plain[rows])


def frame_hashes(collection: Collection, progress: Callable[[int], object] | None = None) -> Hashes:
    """The hashes of a collection: kept in its hashes.parquet, computed by decoding if not there.

    They depend on the stored pictures alone. In a folder that cannot be written to they are
    computed each time. `progress` is called with numbers of frames.
    """
    kept = _read(collection)
    if kept is not None:
        if progress:
            progress(len(kept))
        return kept
    parts = []
    for images in pictures(collection):
        windows, plain = picture_hashes(images)
        mirrored, _ = picture_hashes(images[:, :, ::-1])
        parts.append((_exact(images), windows, mirrored, plain))
        if progress:
            progress(len(images))
    order = np.argsort(_stored_order(collection), kind="stable")
    hashes = Hashes(*(np.concatenate(part)[order] for part in zip(*parts, strict=True)))
    with contextlib.suppress(PermissionError):
        collection.update_file(FILE, lambda path: _write(hashes, collection, path))
    return hashes


def pictures(collection: Collection) -> Iterator[np.ndarray]:
    """The frames' pictures in the order of shards and rows: (n, px, px, 3) uint8 at a time."""
    shard, row = (collection.frames[name].to_numpy() for name in ("shard", "row"))
    for number, path in enumerate(collection.shards):  # which may hold rows that were left out
        rows = np.sort(row[shard == number])
        for start in range(0, len(rows), _CHUNK):
            yield beton.read_rows(path, rows[start : start + _CHUNK], ["image"])["image"]


def picture_hashes(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(hashes (N, 19) uint64, whether plain (N,)) of pictures (N, px, px, 3) uint8."""
    grey = reduced(images)
    plain = grey.std(axis=(1, 2)) < PLAIN
    bits: np.ndarray = np.empty((len(grey), len(WINDOWS), 64), bool)
    for index, window in enumerate(WINDOWS):
        across, down = _transform(window.x, window.side), _transform(window.y, window.side)
        low = (down @ grey @ across.T).reshape(len(grey), 64)
        bits[:, index] = low > np.median(low[:, 1:], axis=1, keepdims=True)
    return np.packbits(bits, axis=2).view(">u8")[..., 0].astype(np.uint64), plain


def fitted_looks(wider: np.ndarray, other: np.ndarray, window: Window) -> float:
    """Correlation of a picture with the part of a wider one that resembles it most, -1..1.

    Both (px, px, 3) uint8; the part is looked for near `window`: first in steps of 0.02 of the
    side, then of 0.006.
    """
    whole, part = reduced(wider[None])[0], reduced(other[None])[0]
    shares = _reduction(0.0, 1.0, LOOK_PX)
    wanted = _normal((shares @ part @ shares.T).reshape(1, -1))[0]
    best = window.x, window.y, window.side
    correlation = -1.0
    for step, reach in ((0.02, 2), (0.006, 2)):
        offsets = step * np.arange(-reach, reach + 1)
        centre = best
        for side in np.minimum(centre[2] + offsets, 1.0):
            # the window grows around its middle
            low_x, low_y = (value + (centre[2] - side) / 2 for value in centre[:2])
            xs, ys = (np.clip(low + offsets, 0, 1 - side) for low in (low_x, low_y))
            across = np.stack([_reduction(x, side, LOOK_PX) for x in xs])
            down = np.stack([_reduction(y, side, LOOK_PX) for y in ys])
            seen = (down @ whole)[:, None] @ across.transpose(0, 2, 1)[None]
            alike = _normal(seen.reshape(len(ys) * len(xs), -1)) @ wanted
            index = int(alike.argmax())
            if alike[index] > correlation:
                correlation = float(alike[index])
                best = xs[index % len(xs)], ys[index // len(xs)], side
    return correlation


def _normal(seen: np.ndarray) -> np.ndarray:
    """Rows of mean 0 and norm 1."""
    seen = seen - seen.mean(axis=1, keepdims=True)
    return seen / np.maximum(np.linalg.norm(seen, axis=1, keepdims=True), 1e-6)


def reduced(images: np.ndarray) -> np.ndarray:
    """Pictures in grey, cells of means: (N, px, px, 3) uint8 -> (N, 64, 64) float32."""
    grey = images @ np.array([0.299, 0.587, 0.114], np.float32)
    if grey.shape[1] == REDUCED_PX:
        return grey
    shares = _reduction(0.0, 1.0, REDUCED_PX, grey.shape[1])
    return shares @ grey @ shares.T


@cache
def _transform(start: float, side: float) -> np.ndarray:
    """(8, 64): the lowest 8 DCT coefficients of a part of a row, reduced to 32 cells before."""
    basis = scipy.fft.dct(np.eye(32), axis=0, norm="ortho")[:8]
    return (basis @ _reduction(start, side, 32)).astype(np.float32)


def _reduction(start: float, side: float, cells: int, length: int = REDUCED_PX) -> np.ndarray:
    """(cells, length) float32: means over equal parts of [start, start + side] of a row.

    Pixels that a part covers partly count by that share.
    """
    edges = (start + side * np.arange(cells + 1) / cells) * length
    at = np.arange(length)
    covered = np.clip(np.minimum(edges[1:, None], at + 1) - np.maximum(edges[:-1, None], at), 0, 1)
    return (covered / covered.sum(axis=1, keepdims=True)).astype(np.float32)


def _exact(images: np.ndarray) -> np.ndarray:
    """(N, 2) uint64 out of the sha256 of each picture's pixels."""
    digests = [hashlib.sha256(image.tobytes()).digest()[:16] for image in images]
    return np.frombuffer(b"".join(digests), ">u8").reshape(-1, 2).astype(np.uint64)


def _stored_order(collection: Collection) -> np.ndarray:
    """For each frame's picture, by shard and row, which row of frames.parquet it is."""
    shard, row = (collection.frames[name].to_numpy() for name in ("shard", "row"))
    return np.lexsort((row, shard))


def _write(hashes: Hashes, collection: Collection, path: Path) -> None:
    table = pa.table(
        {
            "sample_id": collection.frames["sample_id"],
            "exact": pa.FixedSizeListArray.from_arrays(pa.array(hashes.exact.reshape(-1)), 2),
            **{
                name: pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), len(WINDOWS))
                for name, part in (("windows", hashes.windows), ("mirrored", hashes.mirrored))
            },
            "plain": hashes.plain,
        }
    )
    pq.write_table(table.replace_schema_metadata({"version": str(VERSION)}), path)


def _read(collection: Collection) -> Hashes | None:
    """What hashes.parquet holds; None where there is none, or one of another rule."""
    if FILE not in collection.manifest["files"]:
        return None
    table = pq.read_table(collection.folder / FILE)
    known = (table.schema.metadata or {}).get(b"version") == str(VERSION).encode()
    if not known or not table["sample_id"].equals(collection.frames["sample_id"]):
        return None
    exact, windows, mirrored = (
        table[name].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)
        for name in ("exact", "windows", "mirrored")
    )
    return Hashes(exact, windows, mirrored, table["plain"].to_numpy())
