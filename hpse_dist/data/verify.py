"""A finished collection looked through: every file, every frame, every pair, the sheets.

`Collection.verify` says whether the bytes are those that were written and every picture decodes;
here the tables are compared with one another and with the manifest besides, since a collection may
have been changed by hand, or by a program with a fault.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from hpse_dist.data.collection import Collection
from hpse_dist.data.pictures import Unreadable, read_picture
from hpse_dist.safety import as_written

SPLITS = ("train", "val", "test")


@dataclass
class Verification:
    """What was looked at, and what is wrong with it; a sentence each."""

    checked: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """'file: what is wrong'."""


def verify(collection: Collection, progress: Callable[[int], object] | None = None) -> Verification:
    """Look through a collection; `progress` counts files. ValueError for a manifest whose counts
    are not as this program writes them."""
    found = Verification(problems=collection.verify(progress))
    manifest = collection.manifest
    found.checked.append(f"{len(manifest['files'])} files against the manifest's sha256")
    found.checked.append(
        f"{collection.num_frames} frames of {len(collection.shards)} shards decoded, "
        "as frames.parquet has them"
    )
    if found.problems:  # tables that are not what was written are not compared
        return found
    with as_written(collection.folder / "manifest.json"):
        _check_frames(collection, found)
        _check_rejects(collection, found)
        _check_pairs(collection, found)
    _check_sheets(collection, found)
    return found


def _check_frames(collection: Collection, found: Verification) -> None:
    """Ids, splits and counts of frames.parquet."""
    table, counts = collection.frames, collection.manifest["counts"]
    say = found.problems.append
    ids = table["sample_id"].to_numpy()
    if len(ids) != counts["frames"] or (np.diff(ids) <= 0).any():
        say(f"frames.parquet: {len(ids)} rows, the manifest says {counts['frames']}, or ids twice")
    splits: np.ndarray = np.asarray(table["split"].to_pylist())
    tally = {name: int((splits == name).sum()) for name in np.unique(splits)}
    if tally != counts["splits"] or not {*tally} <= {*SPLITS}:
        say(f"frames.parquet: splits are {tally}, the manifest says {counts['splits']}")
    subjects: np.ndarray = np.asarray(table["subject"].to_pylist())
    in_two = {
        name
        for a, b in (("train", "val"), ("train", "test"), ("val", "test"))
        for name in {*subjects[splits == a]} & {*subjects[splits == b]}
        if name
    }
    if in_two:
        say(f"frames.parquet: subjects in two splits: {', '.join(sorted(in_two)[:5])}")
    found.checked.append("frames.parquet: ids, counts, no subject in two splits")


def _check_rejects(collection: Collection, found: Verification) -> None:
    if "rejects.parquet" not in collection.manifest["files"]:
        return
    count = sum(collection.manifest["counts"]["rejects"].values())
    if collection.rejects.num_rows != count:
        found.problems.append(
            f"rejects.parquet: {collection.rejects.num_rows} rows, the manifest says {count}"
        )
    found.checked.append(f"rejects.parquet: {count} reasons")


def _check_pairs(collection: Collection, found: Verification) -> None:
    """Both frames of every pair are there, in one split and one shard; counts by kind."""
    pairs, rules = collection.pairs, collection.manifest.get("pairs")
    if rules is None:
        found.checked.append("no pairs were mined")
        return
    say = found.problems.append
    ids = collection.frames["sample_id"].to_numpy()
    ends = [pairs[side].to_numpy() for side in "ab"]
    if not all(np.isin(end, ids).all() for end in ends):
        say("pairs.parquet: pairs of frames that are not in frames.parquet")
        return
    rows = [np.searchsorted(ids, end) for end in ends]
    for what in ("shard", "split"):
        values = _codes(collection.frames[what])
        apart = int((values[rows[0]] != values[rows[1]]).sum())
        if apart:
            say(f"pairs.parquet: {apart} pairs whose frames are not in one {what}")
    kinds = pairs["kind"].to_numpy()
    for number, name in enumerate(("view", "pose")):
        count = int((kinds == number).sum())
        if count != rules[name]:
            say(f"pairs.parquet: {count} {name} pairs, the manifest says {rules[name]}")
    weights = pairs["weight"].to_numpy()
    if not np.isfinite(weights).all() or (weights < 0).any() or (ends[0] == ends[1]).any():
        say("pairs.parquet: weights that are none, or a frame paired with itself")
    found.checked.append(
        f"pairs.parquet: {pairs.num_rows} pairs, both frames there, in one split and one shard"
    )


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """Whole numbers that are equal where values are."""
    codes: np.ndarray = np.unique(np.asarray(column.to_pylist()), return_inverse=True)[1]
    return codes


def _check_sheets(collection: Collection, found: Verification) -> None:
    """Contact sheets open; they are no part of the manifest, and can be made anew."""
    sheets = sorted((collection.folder / "sheets").glob("*.png"))
    for sheet in sheets:
        try:
            read_picture(sheet)
        except Unreadable as reason:
            found.problems.append(
                f"sheets/{sheet.name}: {reason}; remove the folder sheets and prepare again"
            )
    names = ", ".join(sheet.stem for sheet in sheets)
    found.checked.append(f"sheets: {names} open" if sheets else "there are no sheets")
