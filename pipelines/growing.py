"""Collections of any size for `bench growth`: real shards, of which most are links to one file.

Every shard holds the same few small pictures; `sample_id_starts` makes their sample ids differ. So
the loader opens, checks and decodes as ever, and a million frames take the disk of a thousand.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hpse_dist.data.beton import ShardSpec, write_shard
from hpse_dist.data.collection import PAIR_SCHEMA, SCHEMA_VERSION, CollectionConfig, describe
from hpse_dist.data.publish import file_entry, write_manifest
from hpse_dist.data.shards import FRAME_SCHEMA
from hpse_dist.draws import generator
from hpse_dist.records import Provenance

CROP_PX = 32
_PIECE = 1_000_000  # pairs written together
_POSE = 72  # numbers of a pose descriptor: the bulk of a real frames.parquet
_PEOPLE = 1000


@dataclass(frozen=True)
class Size:
    """How much work."""

    frames: int
    pairs: int
    shards: int

    def __post_init__(self) -> None:
        if self.frames % self.shards or self.frames < 2 * self.shards or self.pairs < 0:
            raise ValueError(
                f"{self.frames} frames cannot be {self.shards} equal shards of two or more"
            )


def make_collection(folder: Path, size: Size) -> None:
    """Write the collection; the same one for the same size."""
    folder.mkdir(parents=True)
    each = size.frames // size.shards
    names = _shards(folder, each, size.shards)
    pq.write_table(_frames(size), folder / "frames.parquet", compression="zstd")
    _write_pairs(folder / "pairs.parquet", size)
    shard = file_entry(folder / names[0])  # all of them are this file
    files = dict.fromkeys(names, shard)
    files |= {n: file_entry(folder / n) for n in ("frames.parquet", "pairs.parquet")}
    manifest = describe(
        CollectionConfig(crop_px=CROP_PX, frames_per_shard=each),
        Provenance("growth", "CC0-1.0", True, "", None),
        hashlib.sha256(repr(size).encode()).hexdigest(),
        counts={"frames": size.frames, "shards": size.shards},
        reprojection=None,
        fields={},
        shards=names,
        files=files,
        starts=range(0, size.frames, each),
    )
    write_manifest(folder, {**manifest, "schema": SCHEMA_VERSION})


def _shards(folder: Path, each: int, count: int) -> list[str]:
    """One file of `each` pictures, and links to it."""
    names = [f"frames-{number:05d}.beton" for number in range(count)]
    pictures = generator(0, "growth/pictures").integers(0, 256, (64, 4, 4, 3), np.uint8)
    pictures = pictures.repeat(CROP_PX // 4, 1).repeat(CROP_PX // 4, 2)
    rows = [{"image": pictures[i % 64], "sample_id": np.array(i)} for i in range(each)]
    write_shard(folder / names[0], rows, ShardSpec(CROP_PX))
    for name in names[1:]:
        os.link(folder / names[0], folder / name)
    return names


def _frames(size: Size) -> pa.Table:
    """frames.parquet: a thousand people, three sequences each."""
    number: np.ndarray = np.arange(size.frames)
    each = size.frames // size.shards
    person: np.ndarray = number * min(_PEOPLE, size.frames) // size.frames
    people = pa.array([f"person{i:05d}" for i in range(_PEOPLE)])
    sequences = pa.array([f"sequence{i:05d}" for i in range(3 * _PEOPLE)])
    poses = generator(0, "growth/poses").normal(size=size.frames * _POSE).astype(np.float32)
    offsets = pa.array(np.arange(size.frames + 1, dtype=np.int32) * _POSE)
    columns = {
        "sample_id": pa.array(number),
        "shard": pa.array(number // each),
        "row": pa.array(number % each),
        "subject": people.take(pa.array(person)),
        "sequence": sequences.take(pa.array(3 * person + number % 3)),
        "track": pa.array([""]).take(pa.array(np.zeros(size.frames, np.int8))),
        "camera": pa.array(["cam0"]).take(pa.array(np.zeros(size.frames, np.int8))),
        "time": pa.array(number / 25),
        "split": pa.array(["train"]).take(pa.array(np.zeros(size.frames, np.int8))),
        "pose": pa.ListArray.from_arrays(offsets, pa.array(poses)),
    }
    flags = pa.array(np.zeros(size.frames, bool))
    columns |= {name: flags for name in FRAME_SCHEMA.names if name.startswith("has_")}
    arrays = [
        columns.get(field.name, pa.nulls(size.frames, field.type)).cast(field.type)
        for field in FRAME_SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=FRAME_SCHEMA)


def _write_pairs(path: Path, size: Size) -> None:
    """pairs.parquet, shard after shard, in pieces: both frames of a pair in one shard."""
    each = size.frames // size.shards
    with pq.ParquetWriter(path, PAIR_SCHEMA) as file:
        for start in range(0, size.pairs, _PIECE):
            number: np.ndarray = np.arange(start, min(start + _PIECE, size.pairs))
            shard: np.ndarray = number * size.shards // size.pairs
            draw: np.ndarray = number * 2654435761 % 2**31
            first: np.ndarray = draw % each
            second = (first + 1 + draw // each % (each - 1)) % each
            columns = {"a": shard * each + first, "b": shard * each + second, "kind": number % 2}
            measure = pa.array((draw % 100 / 100).astype(np.float32))
            arrays = [
                pa.array(columns[f.name]).cast(f.type) if f.name in columns else measure
                for f in PAIR_SCHEMA
            ]
            file.write_table(pa.Table.from_arrays(arrays, schema=PAIR_SCHEMA))
