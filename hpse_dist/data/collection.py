"""A collection: person crops with labels in FFCV shards, and tables that say what they are.

    manifest.json        schema version, origin, licence, counts, crop rule, sha256 of every file
    frames-00000.beton   every frame once, with its labels
    frames.parquet       one row per frame: ids, time, camera, box, split, pose descriptor
    pairs.parquet        one row per pair, mined from frames.parquet alone
    rejects.parquet      what was left out, and why

It is written into a folder `.<name>.partial` beside its place and renamed when all of it is on
disk: a collection is there whole or not at all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import hpse_dist
from hpse_dist.config import digest, to_dict
from hpse_dist.data import beton
from hpse_dist.data.crops import CollectionConfig, StoredFrame
from hpse_dist.data.manifest import seal_holds
from hpse_dist.data.publish import (
    STAGED_MANIFEST,
    file_entry,
    held_folder,
    partial_folder,
    publish,
    read_manifest,
    stage_manifest,
    write_manifest,
)
from hpse_dist.data.shards import Fields, shard_spec
from hpse_dist.data.stage import Copy
from hpse_dist.data.store import Progress, store
from hpse_dist.data.tables import PAIR_SCHEMA, checked, read_table
from hpse_dist.records import FrameRecord, Provenance, Reject

__all__ = ["SCHEMA_VERSION", "Collection", "CollectionConfig", "find_finished", "write_collection"]

PATIENCE_S = 0.2  # between two looks at a collection that another process may be changing
SCHEMA_VERSION = 2  # 1: without sample_id_starts


class Collection:
    """A finished collection on disk. Tables are read when first asked for."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest

    @classmethod
    def open(cls, folder: Path | str, check: bool = True) -> Collection:
        """The collection in a folder; ValueError where there is none, or one of a newer schema.

        `check` looks whether every file is there in its full size; `verify` looks closer.
        """
        folder = Path(folder)
        collection = cls(folder, read_manifest(folder / "manifest.json", SCHEMA_VERSION))
        missing = collection._missing() if check else []
        if not missing:
            return collection
        # another process may be between the two renames of `update_file`, or was killed there
        time.sleep(PATIENCE_S)
        for name in (STAGED_MANIFEST, "manifest.json"):  # in this order: the one becomes the other
            with suppress(ValueError):
                collection = cls(folder, read_manifest(folder / name, SCHEMA_VERSION))
                if not collection._missing():
                    return collection
        raise ValueError(f"{folder}/{missing[0]}; prepare the collection again")

    def _missing(self) -> list[str]:
        """Files that are absent or of another size than the manifest says, a sentence each."""
        problems = []
        for name, entry in self.manifest["files"].items():
            path = self.folder / name
            if Path(name).name != name or not path.is_file():
                problems.append(f"{name}: in the manifest, but no such file")
            elif path.stat().st_size != entry["bytes"]:
                size = path.stat().st_size
                problems.append(f"{name}: {size} bytes, the manifest says {entry['bytes']}")
        return problems

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def num_frames(self) -> int:
        """How many frames are stored."""
        return int(self.manifest["counts"]["frames"])

    @cached_property
    def shards(self) -> list[Path]:
        """The shard files; column `shard` of the frames counts in this list."""
        return [self.folder / name for name in self.manifest["shards"]]

    def hold(self, name: str) -> Copy:
        """One of its files, to be read from this machine's disk until it is released."""
        return Copy(self.folder / name)

    def hold_shard(self, number: int) -> Copy:
        """A shard; see `hold`."""
        if not self.manifest["shards"]:
            raise ValueError(f"{self.folder}: tables without pictures, which can only be mined")
        return self.hold(self.manifest["shards"][number])

    def shard_copy_bytes(self, number: int) -> int:
        """What holding a shard takes of the disk space for local copies."""
        return 0

    def _table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        entry = self.manifest["files"].get(name)
        if entry is None:
            raise ValueError(f"{self.folder}: its manifest names no {name}; prepare it again")
        # pairs may have been mined anew since, frames never
        own = entry["sha256"] if name == "frames.parquet" else None
        with closing(self.hold(name)) as file:
            table = read_table(file.path, columns, own)
        if table is None:
            raise ValueError(
                f"{self.folder / name}: damaged, or replaced by another collection since this one "
                "was opened; check it with prepare --verify"
            )
        return checked(self.folder / name, table, columns, len(self.manifest["shards"]))

    def columns(self, table: Literal["frames", "pairs"], names: Sequence[str]) -> pa.Table:
        """Some columns of a table, where it has them, texts as dictionaries; nothing is kept."""
        name = f"{table}.parquet"
        if table not in self.__dict__ and name in self.manifest["files"]:
            return self._table(name, names)
        whole: pa.Table = getattr(self, table)
        return whole.select([column for column in names if column in whole.column_names])

    @property
    def sample_id_starts(self) -> list[int]:
        """What the sample ids stored in each shard count from: its rows were written apart."""
        return list(self.manifest.get("sample_id_starts") or [0] * len(self.manifest["shards"]))

    @property
    def fields(self) -> Fields:
        """Name -> (shape, numpy dtype name) of each stored field but image and sample_id."""
        fields = self.manifest.get("fields", {}).items()
        return {name: (tuple(field["shape"]), field["dtype"]) for name, field in fields}

    @property
    def label_fields(self) -> tuple[str, ...]:
        """Names of the stored fields but image and sample_id."""
        return tuple(self.manifest.get("fields", {}))

    @property
    def config(self) -> CollectionConfig:
        """The crop rule it was written with."""
        try:
            values = dict(self.manifest["config"])
            return CollectionConfig(**{**values, "labels": tuple(values["labels"])})
        except (KeyError, TypeError) as error:
            place = self.folder / "manifest.json"
            raise ValueError(f"{place}: config is missing or damaged: {error}") from None

    @property
    def spec(self) -> beton.ShardSpec:
        """What its shards hold."""
        return shard_spec(self.config, self.fields)

    @cached_property
    def frames(self) -> pa.Table:
        """frames.parquet, one row per frame in the order of sample_id."""
        return self._table("frames.parquet")

    @cached_property
    def pairs(self) -> pa.Table:
        """pairs.parquet; empty where no pairs were mined."""
        if "pairs.parquet" not in self.manifest["files"]:
            return PAIR_SCHEMA.empty_table()
        return self._table("pairs.parquet")

    @cached_property
    def rejects(self) -> pa.Table:
        """rejects.parquet: source, reason."""
        return self._table("rejects.parquet")

    def read(self, sample_ids: Sequence[int], fields: Sequence[str]) -> dict[str, np.ndarray]:
        """Stored fields of a few frames, in the order asked: name -> (n, *shape).

        For looking at frames; training reads through `hpse_dist.data.loader`.
        """
        ids = np.asarray(sample_ids, np.int64)
        at = np.searchsorted(self.frames["sample_id"].to_numpy(), ids)
        shard, row = (self.frames[name].to_numpy()[at] for name in ("shard", "row"))
        order = np.argsort(shard, kind="stable")
        parts = [
            self._read_rows(number, row[order][shard[order] == number], fields)
            for number in np.unique(shard).tolist()
        ]
        back = np.argsort(order, kind="stable")
        return {name: np.concatenate([part[name] for part in parts])[back] for name in fields}

    def read_encoded(self, sample_ids: Sequence[int]) -> list[np.ndarray]:
        """The JPEG of a few frames as it is stored, (n,) uint8 each, in the order asked."""
        at = np.searchsorted(self.frames["sample_id"].to_numpy(), np.asarray(sample_ids, np.int64))
        shard, row = (self.frames[name].to_numpy()[at] for name in ("shard", "row"))
        found: dict[int, np.ndarray] = {}
        for number in np.unique(shard):
            places = np.flatnonzero(shard == number)
            with closing(self.hold_shard(int(number))) as file:
                parts = beton.read_encoded(file.path, row[places])
            found.update(zip(places.tolist(), parts, strict=True))
        return [found[place] for place in range(len(sample_ids))]

    def _read_rows(
        self, shard: int, rows: np.ndarray, fields: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Some rows of a shard, sample ids as they are in frames.parquet."""
        with closing(self.hold_shard(shard)) as file:
            stored = beton.read_rows(file.path, rows, fields)
        if "sample_id" in stored:
            stored["sample_id"] = stored["sample_id"] + self.sample_id_starts[shard]
        return stored

    def __getstate__(self) -> dict[str, Any]:
        """Tables stay on disk when a collection is sent to another process."""
        return {"folder": self.folder, "manifest": self.manifest}

    def verify(self, progress: Progress | None = None) -> list[str]:
        """Hash every file and decode every frame; one sentence for each bad file, [] if none."""
        problems = self._missing()
        if not seal_holds((self.folder / "manifest.json").read_text(encoding="utf-8")):
            problems.append("manifest.json: changed, it is not what its own sha256 says")
        bad = {text.partition(":")[0] for text in problems}
        for name, entry in self.manifest["files"].items():
            if name not in bad and file_entry(self.folder / name)["sha256"] != entry["sha256"]:
                problems.append(f"{name}: changed, its sha256 is not the manifest's")
            if progress:
                progress(1)
        for path in sorted(self.folder.glob("*.beton")):
            if path.name not in self.manifest["files"]:
                problems.append(f"{path.name}: not in the manifest")
        return problems or [text for path in self.shards for text in self._undecodable(path)]

    def _undecodable(self, path: Path) -> list[str]:
        """Whether a shard's rows are those that frames.parquet says."""
        shard = self.shards.index(path)
        table = self.frames.select(["sample_id", "shard", "row"])
        table = table.filter(pc.equal(table["shard"], shard)).sort_by("row")
        ids, rows = table["sample_id"].to_numpy(), table["row"].to_numpy()
        for start in range(0, len(ids), 256):
            numbers = rows[start : start + 256]
            which = f"rows {numbers[0]} to {numbers[-1]}"
            try:
                stored = self._read_rows(shard, numbers, ["sample_id", "image"])
            except (OSError, ValueError, RuntimeError) as error:
                return [f"{path.name}: {which} cannot be read: {error}"]
            if not np.array_equal(np.ravel(stored["sample_id"]), ids[start : start + 256]):
                return [f"{path.name}: {which} are not frames.parquet's"]
        return []

    def update_file(self, name: str, write: Callable[[Path], None], **manifest: Any) -> None:
        """Replace one file and keys of the manifest, each by a rename; drops cached tables.

        One process at a time does this, and what others changed in the manifest meanwhile stays.
        ValueError where the collection was replaced by another since it was opened.
        """
        part = self.folder / f".{name}.part"
        with held_folder(self.folder):
            now = Collection.open(self.folder, check=False).manifest
            if now["files"].get("frames.parquet") != self.manifest["files"].get("frames.parquet"):
                raise ValueError(f"{self.folder}: replaced by another collection; open it again")
            try:
                write(part)
                entry = file_entry(part)
                self.manifest = {**now, **manifest, "files": {**now["files"], name: entry}}
                staged = stage_manifest(self.folder, self.manifest)
                os.replace(part, self.folder / name)
                os.replace(staged, self.folder / "manifest.json")
            finally:
                part.unlink(missing_ok=True)
        for cached in ("frames", "pairs", "rejects", "shards"):
            self.__dict__.pop(cached, None)


def find_finished(
    folder: Path | str, recipe_digest: str, overwrite: bool = False
) -> Collection | None:
    """The collection that an earlier run of the same recipe left, or None where there is none.

    ValueError where the folder holds something else, unless `overwrite` and it is a collection.
    """
    folder = Path(folder)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    if not (folder / "manifest.json").is_file():
        raise ValueError(f"{folder}: exists and is not a collection; name another folder")
    if overwrite:
        return None
    collection = Collection.open(folder)
    if collection.manifest["recipe_digest"] != recipe_digest:
        raise ValueError(
            f"{folder}: holds a collection made by another recipe; name another folder, or pass "
            "--overwrite to replace it"
        )
    return collection


def write_collection(
    folder: Path | str,
    records: Iterable[FrameRecord | StoredFrame | Reject],
    config: CollectionConfig,
    provenance: Provenance,
    progress: Progress | None = None,
    *,
    recipe_digest: str = "",
    overwrite: bool = False,
    known_fields: Fields | None = None,
) -> Collection:
    """Crop, store, verify and publish a stream of records; memory holds one shard's frames.

    `recipe_digest` identifies what decides the result (default: config and provenance). A finished
    collection of the same digest is returned untouched and `records` is not read. `progress` is
    called with 1 for each record. Stored frames, cropped before, are taken as they are, and
    `known_fields` are shapes of their labels. ValueError or OSError: nothing is published.
    """
    folder = Path(folder)
    recipe_digest = recipe_digest or digest({**to_dict(config), "by": to_dict(provenance)})
    finished = find_finished(folder, recipe_digest, overwrite)
    if finished is not None:
        return finished
    with partial_folder(folder) as partial:
        finished = find_finished(folder, recipe_digest, overwrite)
        if finished is not None:  # by another process, meanwhile
            return finished
        stored = store(partial, records, config, known_fields=known_fields, progress=progress)
        stored.tally.check()
        manifest = describe(
            config,
            provenance,
            recipe_digest,
            counts=stored.tally.counts(len(stored.shards)),
            reprojection=stored.errors.account(),
            fields=stored.fields,
            shards=stored.shards,
            files={path.name: file_entry(path) for path in sorted(partial.iterdir())},
        )
        write_manifest(partial, manifest)
        publish(partial, folder)
    return Collection.open(folder)


def describe(
    config: CollectionConfig,
    provenance: Provenance,
    recipe_digest: str,
    *,
    counts: dict[str, Any],
    reprojection: dict[str, float] | None,
    fields: Fields,
    shards: Sequence[str],
    files: dict[str, Any],
    starts: Sequence[int] = (),
) -> dict[str, Any]:
    """A new collection's manifest. starts: what each shard's stored sample ids count from."""
    return {
        "schema": SCHEMA_VERSION if any(starts) else 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "software": software(),
        "recipe_digest": recipe_digest,
        **to_dict(provenance),
        "config": to_dict(config),
        "counts": counts,
        "reprojection": reprojection,
        "fields": {
            name: {"shape": list(shape), "dtype": dtype} for name, (shape, dtype) in fields.items()
        },
        "shards": list(shards),
        **({"sample_id_starts": list(starts)} if any(starts) else {}),
        "files": files,
    }


def software() -> dict[str, str]:
    """Versions of what decides the pixels."""
    versions = {name: metadata.version(name) for name in ("ffcv", "numpy", "pillow")}
    return {"hpse_dist": hpse_dist.__version__, **versions}
