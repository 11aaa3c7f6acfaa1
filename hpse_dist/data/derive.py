"""Collections made of collections: a part of one, several as one, or one with other splits.

Licences, citations and labels are kept; what was left out is in rejects.parquet with its reason; a
subject is in one split. JPEG pictures are copied as they are stored, not encoded once more. Pairs
are mined anew by the rules of the first collection. What the leakage guard found goes along where
no frame is trained on that was not before.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hpse_dist.config import build
from hpse_dist.data.bodies import labelled_parts
from hpse_dist.data.collection import Collection, write_collection
from hpse_dist.data.crops import GROUPS, PARTS, StoredFrame
from hpse_dist.data.leakage import identity, inherit, named_frames
from hpse_dist.data.pairs import PairsConfig, write_pairs
from hpse_dist.data.stratified import COLUMNS, spread
from hpse_dist.geometry.boxes import iou
from hpse_dist.records import Provenance, Reject

ORDER = ("train", "val", "test")  # of a subject's splits in several collections the last counts
_CHUNK = 64
_ONE_PLACE = 0.9  # intersection over union of boxes of one person in one picture, at least
_ONE_PICTURE = 16.0  # grey levels that a picture and its recompression stay far below, on average
Progress = Callable[[int], object]


def subset(
    collection: Collection,
    folder: Path,
    keep: dict[str, tuple[str, ...]],
    progress: Progress | None = None,
    most: int | None = None,
) -> Collection:
    """The frames whose columns are among the given values: {'split': ('train',), ...}; where that
    are more than `most`, the same share of every person and sequence of them."""
    chosen: np.ndarray = np.ones(collection.num_frames, bool)
    for column, values in keep.items():
        if column not in ("subject", "sequence", "camera", "track", "split"):
            raise ValueError(
                f"frames are chosen by subject, sequence, camera, track or split, found {column}"
            )
        present = np.asarray(collection.frames[column].to_pylist())
        absent = sorted(set(values) - set(present.tolist()))
        if absent:
            raise ValueError(f"{collection.folder}: no frame of {column} {', '.join(absent)}")
        chosen &= np.isin(present, values)
    if not chosen.any():
        raise ValueError(f"{collection.folder}: no frame is left by {keep}")
    rows = np.flatnonzero(chosen)
    if most is not None:
        gap_s = math.prod(_rules(collection).time_gap_s) ** 0.5  # gaps are log-uniform there
        rows = rows[spread(collection.frames.select(COLUMNS).take(rows), most, gap_s)]
        if not len(rows):
            raise ValueError(
                f"{most} frames are too few: people are kept at two moments with all that the "
                "cameras see of them; ask for more frames, or fewer cameras (camera=...)"
            )
    how = {"subset_of": collection.name, "frames": identity(collection), "keep": keep}
    limit = {} if most is None else {"most": most}
    provenance = _provenance(collection, {"derived": how | limit})
    splits = {name: split for name, split in zip(*_subjects(collection), strict=True)}
    mode = collection.config.image_mode
    stream = _frames(collection, rows, splits, "", mode)
    return _written(folder, [collection], stream, provenance, progress)


def merge(
    collections: Sequence[Collection], folder: Path, progress: Progress | None = None
) -> Collection:
    """All frames of several collections; those of a held-out subject are not trained on.

    Frames that are in an earlier one already are left out. ValueError where their crops or labels
    differ in kind, or one name stands for two people.
    """
    _check_alike(collections)
    _check_names(collections)
    parts = [part for one in collections for part in _parts(one)]
    importers = sorted({part["importer"] for part in parts})
    licences = dict.fromkeys(f"{part['name']}: {part['licence']}" for part in parts)
    provenance = Provenance(
        importer=importers[0] if len(importers) == 1 else "merged",
        licence="; ".join(licences),
        commercial=all(part["commercial"] is True for part in parts),
        citation="; ".join(dict.fromkeys(part["citation"] for part in parts if part["citation"])),
        joint_set=collections[0].manifest["joint_set"],
        details={"parts": parts},
    )
    splits: dict[str, str] = {}
    for one in collections:
        for name, split in zip(*_subjects(one), strict=True):
            known = splits.setdefault(name, split)
            splits[name] = max(known, split, key=ORDER.index)

    def stream() -> Iterator[StoredFrame | Reject]:
        seen: set[tuple[Any, ...]] = set()
        for one in collections:
            prefix = "/" if len(importers) > 1 else ""
            mode = collections[0].config.image_mode
            for frame in _frames(one, np.arange(one.num_frames), splits, prefix, mode):
                if isinstance(frame, StoredFrame):
                    about = frame.about
                    names = (about[key] for key in ("subject", "sequence", "camera", "source"))
                    mark = (*names, about["time"], *about["box"])
                    if mark in seen:
                        frame = Reject(about["source"], "in an earlier collection already")
                    seen.add(mark)
                yield frame

    return _written(folder, collections, stream(), provenance, progress)


def split(
    collection: Collection,
    folder: Path,
    held_out: dict[str, tuple[str, ...]],
    progress: Progress | None = None,
) -> Collection:
    """The same frames with other splits: {'val': subjects, 'test': subjects}, all others train.

    Subjects are named as frames.parquet has them, or without the importer where only one has the
    name.
    """
    meant = _meant(collection)
    assigned = {name: "train" for names in meant.values() for name in names}
    for where, subjects in held_out.items():
        if where not in ORDER:
            raise ValueError(f"a split is one of {', '.join(ORDER)}, found {where}")
        for subject in subjects:
            if subject not in meant:
                raise ValueError(f"{collection.folder}: no subject {subject}")
            if len(meant[subject]) > 1:
                several = " and ".join(sorted(name.replace("\n", "/") for name in meant[subject]))
                raise ValueError(f"{collection.folder}: {subject} is {several}; name one of them")
            (name,) = meant[subject]
            if assigned[name] not in ("train", where):
                raise ValueError(f"subject {subject} cannot be in two splits")
            assigned[name] = where
    how = {"split_of": collection.name, "frames": identity(collection), "held_out": held_out}
    provenance = _provenance(collection, {"derived": how})
    rows, mode = np.arange(collection.num_frames), collection.config.image_mode
    stream = _frames(collection, rows, assigned, "", mode, resplit=True)
    before = dict(zip(*_subjects(collection), strict=True))
    newly = any(split == "train" != before[name] for name, split in assigned.items())
    return _written(folder, [collection], stream, provenance, progress, stamps=not newly)


def _written(
    folder: Path,
    collections: Sequence[Collection],
    stream: Iterator[StoredFrame | Reject],
    provenance: Provenance,
    progress: Progress | None,
    stamps: bool = True,
) -> Collection:
    """Publish a stream of stored frames and mine its pairs; a folder that is there is an error.

    What the sources had left out stays in rejects.parquet. stamps: whether no frame is trained on
    that was not before.
    """
    if folder.exists():
        raise ValueError(f"{folder}: exists already; name another folder")
    before = (Reject(**row) for one in collections for row in one.rejects.to_pylist())
    stream = itertools.chain(before, stream)
    fields = {name: kind for one in collections for name, kind in one.fields.items()}
    config = replace(collections[0].config, labels=())
    made = write_collection(folder, stream, config, provenance, progress, known_fields=fields)
    if stamps:
        inherit(made, collections)
    return (
        write_pairs(made, _rules(collections[0])) if collections[0].manifest.get("pairs") else made
    )


def _rules(collection: Collection) -> PairsConfig:
    """The rules of a collection's pairs; the usual ones where it has none."""
    return build(PairsConfig, collection.manifest.get("pairs", {}).get("config", {}))


def _provenance(collection: Collection, details: dict[str, Any]) -> Provenance:
    manifest = collection.manifest
    names = ("importer", "licence", "commercial", "citation", "joint_set")
    return Provenance(
        **{name: manifest[name] for name in names}, details={**manifest["details"], **details}
    )


def _parts(collection: Collection) -> list[dict[str, Any]]:
    """What a collection was merged of, or itself."""
    manifest = collection.manifest
    own = {key: manifest[key] for key in ("importer", "licence", "commercial", "citation")}
    whole = {"name": collection.name, **own, "frames": identity(collection)}
    whole["labels"] = list(collection.label_fields)
    return labelled_parts(collection) or [{**whole, "details": manifest["details"]}]


def _subjects(collection: Collection) -> tuple[list[str], list[str]]:
    """(who each frame shows, its split); without a subject's name, the sequence's."""
    subjects, sequences = (named_frames(collection, what) for what in ("subject", "sequence"))
    names = np.where(subjects == "", sequences, subjects)
    return names.tolist(), collection.frames["split"].to_pylist()


def _meant(collection: Collection) -> dict[str, set[str]]:
    """Whom a text can mean: everyone of that name, or the one whom frames.parquet calls so."""
    names, _ = _subjects(collection)
    meant: dict[str, set[str]] = {}
    for name in dict.fromkeys(names):
        meant.setdefault(name.partition("\n")[2], set()).add(name)
    columns = (collection.frames[what].to_pylist() for what in ("subject", "sequence"))
    shown = (subject or sequence for subject, sequence in zip(*columns, strict=True))
    return meant | {text: {name} for text, name in zip(shown, names, strict=True)}


def _check_alike(collections: Sequence[Collection]) -> None:
    """ValueError unless crops, joints and the shapes of labels are the same."""
    if len(collections) < 2:
        raise ValueError("merging needs two collections or more")
    first = collections[0]
    for other in collections[1:]:
        for key in ("crop_px", "box_scale", "label_px"):
            mine, its = getattr(first.config, key), getattr(other.config, key)
            if mine != its:
                raise ValueError(
                    f"{other.folder}: {key} is {its}, of {first.folder} {mine}; prepare one again"
                )
        mine, its = first.manifest["joint_set"], other.manifest["joint_set"]
        if mine != its:
            raise ValueError(
                f"{other.folder}: joints are {its}, of {first.folder} {mine}; they do not mix"
            )
        if sum(name in one.fields for one in (first, other) for name in PARTS) == 3:
            raise ValueError(
                f"{other.folder}: of {first.folder} and it one has part_map without uv_map; they "
                "do not mix, so prepare one again with collection.labels that leave out parts"
            )
        for name in first.fields.keys() & other.fields.keys():
            if first.fields[name] != other.fields[name]:
                raise ValueError(
                    f"{other.folder}: {name} is {other.fields[name]}, of {first.folder} "
                    f"{first.fields[name]}"
                )


def _check_names(collections: Sequence[Collection]) -> None:
    """ValueError where two collections of one importer show different people under one name.

    Own rigs and videos are named by folders and files, synthetic people by numbers, whatever the
    seed: together they would be pairs of strangers. One person before one camera at one moment has
    one place in the picture, and one picture of each sequence is compared.
    """
    seen: dict[tuple[str, str, str, int], tuple[int, int]] = {}
    compared: set[tuple[int, int, str]] = set()
    columns = ("track", "camera", "time", "box")
    tables = [one.frames.select(columns).to_pydict() for one in collections]
    for number, (one, table) in enumerate(zip(collections, tables, strict=True)):
        subjects, sequences = (named_frames(one, what).tolist() for what in ("subject", "sequence"))
        for row, (subject, sequence) in enumerate(zip(subjects, sequences, strict=True)):
            who, time = subject or table["track"][row], table["time"][row]
            if not who or time is None or not math.isfinite(time):
                continue
            key = who, sequence, table["camera"][row], round(1000 * time)
            first, its = seen.setdefault(key, (number, row))
            if first == number:
                continue
            boxes = np.array([tables[first]["box"][its], table["box"][row]])
            strangers = bool(iou(*boxes) < _ONE_PLACE)
            if (boxes[0] == boxes[1]).all() and (first, number, sequence) not in compared:
                compared.add((first, number, sequence))
                apart = _picture(collections[first], its) - _picture(one, row)
                strangers = bool(np.abs(apart).mean() > _ONE_PICTURE)
            if strangers:
                name, where = (text.rpartition("\n")[2] for text in (who, sequence))
                raise ValueError(
                    f"{one.folder}: {name} of {where} is another, or elsewhere, than in "
                    f"{collections[first].folder}; a name must stand for one person, so prepare "
                    "one of them under other names (of its folder or files, or source.subject), or "
                    "do not merge them: a run takes several collections and keeps them apart"
                )


def _picture(collection: Collection, row: int) -> np.ndarray:
    """A frame's picture as numbers."""
    ids = collection.frames["sample_id"][row : row + 1].to_pylist()
    picture: np.ndarray = collection.read(ids, ["image"])["image"][0].astype(np.float32)
    return picture


def _frames(
    collection: Collection,
    rows: np.ndarray,
    splits: dict[str, str],
    prefix: str,
    image_mode: str,
    resplit: bool = False,
) -> Iterator[StoredFrame | Reject]:
    """Frames as they were given to their writer, in the order of their ids."""
    who, _ = _subjects(collection)
    sequences = named_frames(collection, "sequence")
    encoded = collection.config.image_mode == image_mode == "jpg"
    names = [*collection.label_fields] if encoded else ["image", *collection.label_fields]
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        abouts = collection.frames.take(part).to_pylist()
        ids = [about["sample_id"] for about in abouts]
        stored: dict[str, Any] = collection.read(ids, names)
        if encoded:
            stored["image"] = collection.read_encoded(ids)
        for index, (row, about) in enumerate(zip(part.tolist(), abouts, strict=True)):
            wanted = splits[who[row]]
            if about["split"] != wanted and not resplit:
                reason = f"its subject is in split {wanted} of another collection"
                yield Reject(about["source"], f"{reason}, here it is in {about['split']}")
                continue
            if prefix:
                if about["subject"]:
                    about["subject"] = who[row].replace("\n", prefix)
                about["sequence"] = str(sequences[row]).replace("\n", prefix)
            about["split"] = wanted
            for group in GROUPS:  # collections of before know fewer
                about.setdefault(f"has_{group}", False)
            yield StoredFrame(
                _row({n: values[index] for n, values in stored.items()}, about), about
            )


def _row(row: dict[str, np.ndarray], about: dict[str, Any]) -> dict[str, np.ndarray]:
    """Without the labels that this frame lacks, which are stored as zeros."""
    lacking = {
        name for group, names in GROUPS.items() if not about[f"has_{group}"] for name in names
    }
    if about["K"] is None:
        lacking.add("intrinsics")
    return {
        name: value
        for name, value in row.items()
        if name not in lacking and not name.startswith("has_")
    }


def keys_and_values(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """`key=a,b` as {key: (a, b)}."""
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not values:
            raise ValueError(f"needed as key=value,value, found {text!r}")
        found[key] = (*found.get(key, ()), *values.split(","))
    return found
