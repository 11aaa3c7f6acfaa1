"""The leakage guard: whether what a source is pre-trained on shows what it will be judged on.

The training frames of one collection are compared with the held-out frames of another: by picture
(equal, recompressed, resized, slightly cropped, mirrored), by the subjects' names and by the
sequences'. Names mean something among frames of one importer only; those that frames of different
importers share are told, and are no leak. The result is stamped into the first collection's
manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from hpse_dist.data.collection import Collection
from hpse_dist.data.duplicates import Frames, between
from hpse_dist.data.publish import held_folder, write_manifest
from hpse_dist.stamps import VERSION, counts

KEY = "leakage"  # in a manifest: identity of the judged collection -> what was found
CHECKS = ("pictures", "subjects", "sequences")
_EXAMPLES = 5


@dataclass(frozen=True)
class Leakage:
    """What a collection's training frames share with the held-out frames of another."""

    judged: str
    """Name of the other collection."""
    checked: str
    """When, in UTC."""
    checks: tuple[str, ...]
    """What was compared."""
    training_frames: int
    held_out_frames: int
    pictures: int
    """Held-out frames whose picture is among the training frames."""
    exact: int
    """Those that are equal in every pixel."""
    subjects: int
    """Subjects of the held-out frames that are trained on."""
    sequences: int
    """Sequences likewise."""
    frames: int
    """Held-out frames that any of these touches."""
    alike: int
    """Names that different importers share: no leak, but worth a look."""
    plain: int
    """Held-out frames without contrast, of whose pictures nothing can be told."""
    mirrored: int = 0
    """Held-out frames whose mirrored picture is among the training frames."""
    examples: tuple[str, ...] = ()
    """A few of what was found."""
    version: int = VERSION
    """Of the rule by which pictures were compared."""

    @property
    def leaks(self) -> bool:
        return self.frames > 0

    def sentence(self, name: str) -> str:
        """What was found, of the collection `name`."""
        compared = ", ".join(self.checks)
        if not self.leaks:
            text = (
                f"none of the {self.held_out_frames} held-out frames of {self.judged} leaks into "
                f"{name} ({compared} compared with {self.training_frames} training frames)"
            )
        else:
            found = {"picture": self.pictures, "subject": self.subjects, "sequence": self.sequences}
            told = [f"{n} {what}{'s' if n > 1 else ''}" for what, n in found.items() if n]
            text = (
                f"{name} leaks into {self.judged}: {self.frames} of its {self.held_out_frames} "
                f"held-out frames are touched, by {', '.join(told)} in common"
            )
        if self.alike:
            text += f"; {self.alike} names are shared with another dataset, which may mean nothing"
        return text


def guard(
    collection: Collection,
    judged: Collection,
    checks: tuple[str, ...] = CHECKS,
    progress: Callable[[int], object] | None = None,
) -> Leakage:
    """Compare, and stamp the result into the manifest of `collection`."""
    found = compare(collection, judged, checks, progress)
    _stamp(collection, {identity(judged): asdict(found)})
    return found


def _stamp(collection: Collection, stamps: dict[str, Any]) -> None:
    """Add to the manifest as it is now; others may have changed it since it was read.

    ValueError where the collection was replaced by another meanwhile.
    """
    with held_folder(collection.folder):
        now = Collection.open(collection.folder)
        if identity(now) != identity(collection):
            raise ValueError(
                f"{collection.folder}: replaced by another collection since the comparison began; "
                "run the guard again"
            )
        known = now.manifest.get(KEY, {})
        collection.manifest = {**now.manifest, KEY: {**known, **stamps}}
        write_manifest(collection.folder, collection.manifest)


def inherit(made: Collection, sources: Sequence[Collection]) -> None:
    """Stamp what is known of a collection's sources into it, whose training frames are all theirs.

    A judged collection that every source is clean of stays so; one that a source leaks into is
    taken to be leaked into, until the guard is run anew. What a source was not compared with is
    not known of the whole, nor is what an earlier rule did not find.
    """
    stamps: dict[str, dict[str, Any]] = {}
    known = [
        {judged: stamp for judged, stamp in one.manifest.get(KEY, {}).items() if counts(stamp)}
        for one in sources
    ]
    for judged in dict.fromkeys(key for stamp in known for key in stamp):
        found = [stamp[judged] for stamp in known if judged in stamp]
        worst = max(found, key=lambda stamp: int(stamp["frames"]))
        complete = len(found) == len(sources)
        if worst["frames"] or (complete and len({tuple(one["checks"]) for one in found}) == 1):
            training = sum(int(one["training_frames"]) for one in found)
            names = [one.name for one in sources]
            stamps[judged] = {**worst, "training_frames": training, "inherited_from": names}
    if stamps:
        _stamp(made, stamps)


def identity(collection: Collection) -> str:
    """What tells a collection's frames from all others: the sha256 of frames.parquet."""
    return str(collection.manifest["files"]["frames.parquet"]["sha256"])


def compare(
    collection: Collection,
    judged: Collection,
    checks: tuple[str, ...] = CHECKS,
    progress: Callable[[int], object] | None = None,
) -> Leakage:
    """What the training frames of `collection` share with the held-out frames of `judged`.

    Training frames are those of the split train, held-out frames those of all others; a judged
    collection that is all train is taken as a test set, whole.
    """
    unknown = [name for name in checks if name not in CHECKS]
    if unknown or not checks:
        raise ValueError(f"what to compare must be among {', '.join(CHECKS)}, found {checks}")
    training, held_out = _training(collection), _held_out(judged)
    touched: np.ndarray = np.zeros(judged.num_frames, bool)
    kinds = ("pictures", "exact", "mirrored", "plain", "subjects", "sequences", "alike")
    numbers = dict.fromkeys(kinds, 0)
    examples: list[str] = []
    if "pictures" in checks:
        a, b = Frames.of(collection, training, progress), Frames.of(judged, held_out, progress)
        table = between(a, b)
        ids: np.ndarray = judged.frames["sample_id"].to_numpy()
        found = table["b"].to_numpy()
        rows: np.ndarray = np.asarray(np.searchsorted(ids, found))
        touched[rows] = True
        numbers["pictures"] = len(np.unique(rows))
        for kind in ("exact", "mirrored"):
            numbers[kind] = len(np.unique(rows[table[kind].to_numpy()]))
        numbers["plain"] = int(b.hashes.plain.sum())
        examples += _picture_examples(table)
    for what in ("subject", "sequence"):
        if f"{what}s" in checks:
            shared, alike = _names(collection, training, judged, held_out, what)
            named = named_frames(judged, what)[held_out]
            touched[held_out[np.isin(named, list(shared))]] = True
            numbers[f"{what}s"] = len(shared)
            numbers["alike"] += alike
            shown = sorted(name.partition("\n")[2] for name in shared)[:_EXAMPLES]
            examples += [f"{what} {name}" for name in shown]
    return Leakage(
        judged=judged.name,
        checked=datetime.now(UTC).isoformat(timespec="seconds"),
        checks=checks,
        training_frames=len(training),
        held_out_frames=len(held_out),
        frames=int(touched.sum()),
        examples=tuple(examples),
        **numbers,
    )


def _training(collection: Collection) -> np.ndarray:
    rows = np.flatnonzero(_splits(collection) == "train")
    if len(rows) == 0:
        raise ValueError(f"{collection.folder}: no frame of the split train, nothing to compare")
    return rows


def _held_out(judged: Collection) -> np.ndarray:
    rows = np.flatnonzero(_splits(judged) != "train")
    return rows if len(rows) else np.arange(judged.num_frames)


def _splits(collection: Collection) -> np.ndarray:
    return np.asarray(collection.frames["split"].to_pylist())


def _picture_examples(table: pa.Table) -> list[str]:
    return [
        f"{row['source_b']} is {row['source_a']}"
        + (", mirrored" if row["mirrored"] else "")
        + ("" if row["exact"] else f" (correlation {row['correlation']:.3f})")
        for row in table.slice(0, _EXAMPLES).to_pylist()
    ]


def named_frames(collection: Collection, what: str) -> np.ndarray:
    """Of each frame the importer and the name of its subject or sequence, '' without a name.

    (N,) of 'importer\\nname'. Of a merged collection with frames of several importers, names carry
    their importer already, as 'importer/name'.
    """
    importer = collection.manifest["importer"]
    parts = {part["importer"] for part in collection.manifest["details"].get("parts", ())}
    names = []
    for name in collection.frames[what].to_pylist():
        before, _, after = name.partition("/")
        of = (before, after) if len(parts) > 1 and before in parts else (importer, name)
        names.append("\n".join(of) if name else "")
    return np.asarray(names)


def _names(
    collection: Collection,
    training: np.ndarray,
    judged: Collection,
    held_out: np.ndarray,
    what: str,
) -> tuple[set[str], int]:
    """(names in both, of one importer; how many more are only spelt alike)."""
    here, there = (
        set(named_frames(one, what)[rows].tolist()) - {""}
        for one, rows in ((collection, training), (judged, held_out))
    )
    shared = here & there
    bare = {name.partition("\n")[2] for name in here - shared}
    return shared, sum(name.partition("\n")[2] in bare for name in there - shared)
