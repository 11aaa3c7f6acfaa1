"""Cuts a stream of stored frames into shards and writes each when it is full.

Memory holds one shard's frames, whatever the length of the stream.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hpse_dist.data import beton
from hpse_dist.data.crops import (
    BODY,
    GROUPS,
    HAND,
    PARTS,
    PERSON_CELLS,
    CollectionConfig,
    StoredFrame,
    Unusable,
)

_NUMBERS = pa.list_(pa.float64())
FRAME_SCHEMA = pa.schema(
    [
        ("sample_id", pa.int64()),
        ("shard", pa.int32()),
        ("row", pa.int32()),
        ("subject", pa.string()),
        ("sequence", pa.string()),
        ("track", pa.string()),
        ("camera", pa.string()),
        ("time", pa.float64()),
        ("split", pa.string()),
        ("source", pa.string()),
        ("box", _NUMBERS),
        ("crop", _NUMBERS),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("K", _NUMBERS),
        ("R", _NUMBERS),
        ("t", _NUMBERS),
        ("centre", _NUMBERS),
        ("pose_kind", pa.string()),
        ("pose", pa.list_(pa.float32())),
        ("surface", pa.binary()),
        ("has_mask", pa.bool_()),
        *[(f"has_{name}", pa.bool_()) for name in GROUPS],
    ]
)
REJECT_SCHEMA = pa.schema([("source", pa.string()), ("reason", pa.string())])
_MOST_GROWTH = 4  # a shard may grow to this many times frames_per_shard for a moment's sake

Fields = dict[str, tuple[tuple[int, ...], str]]  # name -> (shape, numpy dtype name)


def moment_of(subject: str, track: str, sequence: str, time: float) -> tuple[str, str, int]:
    """What frames of one moment share: the person, the sequence, the millisecond."""
    return (subject or track, sequence, round(time * 1000))


class TableWriter:
    """A parquet file written in pieces of bounded size."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        """One more row, a value for each column."""
        self._rows.append(row)
        if len(self._rows) >= 4096:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self._rows = []

    def close(self) -> None:
        """Write what is left; the file is complete only after this."""
        if self._rows:
            self._flush()
        self._writer.close()


class Layout:
    """The fields every row of a collection's shards has: learned from the first shard's frames."""

    def __init__(self, config: CollectionConfig) -> None:
        self._wanted = config.labels
        self._shapes: Fields = {}
        self._frozen = False
        self._named = "parts" in config.labels  # and no frame has said yet which of them
        if "body" in config.labels:
            sizes = zip(BODY, (3, 69, 10, 3), strict=True)
            self._shapes.update({name: ((n,), "float32") for name, n in sizes})
        if "hand" in config.labels:
            sizes = zip(HAND, (3, 45, 10, 3), strict=True)
            self._shapes.update({name: ((n,), "float32") for name, n in sizes})
        if "parts" in config.labels:
            px = config.label_px
            self._shapes["part_map"] = ((px, px), "uint8")
            self._shapes["uv_map"] = ((2, px, px), "float16")
        if "label" in config.labels:
            self._shapes["label"] = ((), "int64")

    def know(self, fields: Fields) -> None:
        """Shapes of labels that frames of later shards may be the first to carry."""
        for name, kind in fields.items():
            if name != "person" and not name.startswith("has_"):  # which `fields` adds
                self._shapes[name] = kind

    def fix(self, fields: Fields) -> None:
        """These fields and no others: those of another part of the same collection."""
        self.know(fields)
        self._frozen = True

    def admit(self, frame: StoredFrame) -> None:
        """Learn a frame's labels, drop those not wanted; raises Unusable where a shape differs."""
        for group, names in GROUPS.items():
            names = tuple(name for name in names if name in frame.row)
            if not names:
                continue
            if self._wanted and group not in self._wanted:
                frame.about[f"has_{group}"] = False
                for name in names:
                    del frame.row[name]
                continue
            if group == "parts":
                self._check_parts(names)
            for name in names:
                self._learn(name, frame, group)
        if "intrinsics" in frame.row:
            self._learn("intrinsics", frame, "")

    def _check_parts(self, names: tuple[str, ...]) -> None:
        """All of a collection's part maps have surface coordinates, or none: one flag for both."""
        first = "part_map" not in self._shapes or (self._named and not self._frozen)
        if first and "uv_map" not in names:
            self._shapes.pop("uv_map", None)
        elif not first and ("uv_map" in names) != ("uv_map" in self._shapes):
            there, earlier = ("with", "without") if "uv_map" in names else ("without", "with")
            raise Unusable(f"carries part_map {there} uv_map, earlier frames {earlier}")
        self._named = False

    def _learn(self, name: str, frame: StoredFrame, group: str) -> None:
        value = frame.row[name]
        known = self._shapes.get(name)
        if known is None and self._frozen:
            if group == "":  # a camera known only now: kept in frames.parquet
                del frame.row[name]
                return
            raise ValueError(
                f"{frame.about['source']}: carries {name}, which the frames of the first shard did "
                f"not; name every label to store in the recipe, such as labels: [{group}]"
            )
        if known is None:
            self._shapes[name] = (value.shape, value.dtype.name)
        elif known[0] != value.shape:
            raise Unusable(f"{name} has shape {value.shape}, earlier frames {known[0]}")

    def freeze(self) -> None:
        """No new labels from here on: a shard is about to be written."""
        if not self._frozen:
            for group in self._wanted:
                if GROUPS[group][0] not in self._shapes:
                    raise ValueError(
                        f"labels names {group}, but no frame of the first shard carries it, so its "
                        "shape is unknown; leave it out, or put frames that carry it first"
                    )
        self._frozen = True

    def fields(self) -> Fields:
        """Name -> (shape, numpy dtype name) of each stored field but image and sample_id."""
        fields: Fields = {"person": ((PERSON_CELLS, PERSON_CELLS), "uint8")}
        # in one order, whichever frame was the first to carry a label
        order = [name for names in GROUPS.values() for name in names] + ["intrinsics"]
        fields.update({name: self._shapes[name] for name in order if name in self._shapes})
        firsts = (("has_body", BODY[0]), ("has_hand", HAND[0]), ("has_parts", PARTS[0]))
        for flag, name in firsts:
            if name in self._shapes:
                fields[flag] = ((), "uint8")
        return fields

    def complete(self, frame: StoredFrame) -> dict[str, np.ndarray]:
        """A row with every field: what a frame lacks is zero (label: -1), its has_* flag 0."""
        row = {**frame.row, "sample_id": np.array(frame.about["sample_id"], np.int64)}
        for name, (shape, dtype) in self.fields().items():
            if name.startswith("has_"):
                row[name] = np.array(frame.about[name], dtype)
            elif name not in row:
                row[name] = np.full(shape, -1 if name == "label" else 0, dtype)
        return row


class ShardWriter:
    """Takes frames one by one; a shard goes to disk when enough of them are there.

    Frames of one subject and moment share a shard, and a subject's sequence does as far as
    frames_per_shard allows. Sample ids are running numbers. A `writer` that is given is left open.
    """

    def __init__(
        self, folder: Path, config: CollectionConfig, writer: beton.BetonWriter | None = None
    ) -> None:
        self.layout = Layout(config)
        self.shards: list[str] = []
        self.num_frames = 0
        self._folder = folder
        self._config = config
        self._waiting: list[StoredFrame] = []
        self._closed_moments: set[int] = set()  # hashes: of a million moments, 64 MB
        self._table = TableWriter(folder / "frames.parquet", FRAME_SCHEMA)
        self._own = None if writer else beton.BetonWriter()
        self._writer: beton.BetonWriter = writer or self._own  # type: ignore[assignment]

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._own:
            self._own.close()

    def add(self, frame: StoredFrame, split: str) -> None:
        """Take one frame; raises Unusable where it cannot join the frames already written."""
        self.layout.admit(frame)
        if hash(_moment(frame)) in self._closed_moments:
            raise Unusable("its shard was full and closed: frames of one moment must come together")
        if len(self._waiting) >= self._config.frames_per_shard:
            self._write(self._cut(frame))
        frame.about.update(sample_id=self.num_frames, split=split)
        self._waiting.append(frame)
        self.num_frames += 1

    def finish(self) -> None:
        """Write what waits, then the table."""
        if self._waiting:
            self._write(len(self._waiting))
        self._table.close()

    def _cut(self, newest: StoredFrame) -> int:
        """How many waiting frames make the next shard: up to a change of sequence, else of moment.

        0 where even that would part a moment; then the shard grows.
        """
        frames, limit = [*self._waiting, newest], self._config.frames_per_shard
        at_sequences = _cut_points([_moment(frame)[:2] for frame in frames])
        fitting = [point for point in at_sequences if 2 * point >= limit]
        cut = max(fitting or _cut_points([_moment(frame) for frame in frames]), default=0)
        if cut == 0 and len(frames) > max(_MOST_GROWTH * limit, 1024):
            raise ValueError(
                f"{newest.about['source']}: over {len(frames) - 1} frames without the end of a "
                f"moment; raise frames_per_shard (now {limit}) or order the frames by time"
            )
        return cut

    def _write(self, count: int) -> None:
        """Write, read back and forget the first `count` waiting frames."""
        if count == 0:
            return
        self.layout.freeze()
        frames, self._waiting = self._waiting[:count], self._waiting[count:]
        rows = [self.layout.complete(frame) for frame in frames]
        name = f"frames-{len(self.shards):05d}.beton"
        spec = shard_spec(self._config, self.layout.fields())
        self._writer.write(self._folder / name, rows, spec)  # which also reads it back
        for index, frame in enumerate(frames):
            self._table.add({**frame.about, "shard": len(self.shards), "row": index})
        self._closed_moments.update(hash(_moment(frame)) for frame in frames)
        self.shards.append(name)


def shard_spec(config: CollectionConfig, fields: Fields) -> beton.ShardSpec:
    """A collection's shards in the terms of their writer."""
    return beton.ShardSpec(config.crop_px, config.image_mode, config.jpeg_quality, fields)


def _moment(frame: StoredFrame) -> tuple[str, str, int]:
    about = frame.about
    return moment_of(about["subject"], about["track"], about["sequence"], about["time"])


def _cut_points(keys: list[tuple[Any, ...]]) -> list[int]:
    """Where a list can be cut so that no key stands on both sides: indices 1..len-1."""
    last = {key: index for index, key in enumerate(keys)}
    points, reach = [], -1
    for index, key in enumerate(keys[:-1]):
        reach = max(reach, last[key])
        if reach == index:
            points.append(index + 1)
    return points
