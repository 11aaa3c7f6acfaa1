"""What a collection offers to a loader, as plain arrays: which frames, which items, in which shard.

An item is what one row of a batch is made from: a frame, or a pair of frames.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import torch

from hpse_dist.data.collection import Collection
from hpse_dist.data.curriculum import Curriculum, CurriculumConfig
from hpse_dist.draws import uniform

FLAGS = ("has_body", "has_hand", "has_parts")
KINDS = {"view": 0, "pose": 1}
_COLUMNS = ("sample_id", "shard", "row", "split", "subject", "sequence", "track", *FLAGS)
_PIECE = 1 << 20  # pairs looked at together
_SOURCE_BITS = 40  # sample ids of the k-th source of a run start at k * 2^40


@dataclass(frozen=True)
class Source:
    """One collection in a loader's mix."""

    collection: Collection
    weight: float = 1.0
    """How often each item comes in one epoch; 0.5 takes a rotating half."""
    split: str | None = "train"
    """Frames of this split only; None takes all."""
    kinds: tuple[str, ...] = ("view", "pose")
    """Pairs of these kinds only."""
    curriculum: CurriculumConfig | None = None
    """Easy pairs first; null takes all of them all the time."""


@dataclass(frozen=True)
class Items:
    """A source's frames and items. Arrays over all its frames (N,), or over its items (n,)."""

    source: Source
    sample_id: np.ndarray
    """(N,) int64 as stored; unique in the collection."""
    offset: int
    """Added to sample_id to make it unique in the run."""
    shard: np.ndarray
    row: np.ndarray
    subject: np.ndarray
    """(N,) int64 number of the person, equal for equal subjects of this source."""
    flags: dict[str, np.ndarray]
    """has_body, has_hand and has_parts, (N,) bool."""
    first: np.ndarray
    """(n,) frame number of each item's first image."""
    second: np.ndarray | None
    """(n,) of its second image, for pairs."""
    kind: np.ndarray
    """(n,) 0 view, 1 pose; 0 for frames."""
    use: np.ndarray
    """(n,) how many earlier items have the same first frame: 0 for frames."""
    difficulty: np.ndarray | None = None
    """(n,) 0 easy .. 1 hard, where the source has a curriculum."""

    @property
    def uses(self) -> int:
        """Most items that one frame begins."""
        return int(self.use.max()) + 1 if len(self.use) else 1

    def curriculum(self, global_batch: int) -> Curriculum | None:
        """The source's, in samples."""
        config = self.source.curriculum
        if config is None or self.difficulty is None:
            return None
        samples = config.steps * global_batch
        return Curriculum(self.difficulty, self.kind, config.start, config.end, samples)

    def by_shard(self) -> list[np.ndarray]:
        """Item numbers of each shard that has any."""
        return _by_shard(self.first, self.shard)


def _by_shard(first: np.ndarray, shard: np.ndarray) -> list[np.ndarray]:
    """Item numbers of each shard that has any; shard: of each frame."""
    shards = shard[first]
    order: np.ndarray = np.arange(len(first), dtype=np.int32)
    if np.any(shards[1:] < shards[:-1]):  # else they lie shard after shard, as mining leaves them
        order = np.argsort(shards, kind="stable").astype(np.int32)
        shards = shards[order]
    cuts: np.ndarray = np.flatnonzero(shards[1:] != shards[:-1]) + 1
    return [part for part in np.split(order, cuts) if len(part)]


def read_items(
    source: Source,
    sampling: Literal["pairs", "frames"],
    *,
    number: int = 0,
    label_fraction: float = 1.0,
) -> Items:
    """The items of the `number`-th source of a run. ValueError where there are none."""
    check_curriculum(source, sampling)
    frames = source.collection.columns("frames", _COLUMNS)
    sample_id = _numbers(frames, "sample_id")
    difficulty: np.ndarray | None = None
    chosen = _in_split(frames, source.split)
    where = f"{source.collection.folder}, split {source.split or 'any'}"
    labelled = _fraction(np.flatnonzero(chosen), sample_id, label_fraction)
    if sampling == "frames":
        first, second = labelled, None
        kind: np.ndarray = np.zeros(len(first), np.int8)
    else:
        first, second, kind, difficulty = _pairs(source, sample_id, chosen)
    if len(first) == 0:
        what = f"pairs of kind {' or '.join(source.kinds)}" if sampling == "pairs" else "frames"
        raise ValueError(f"{where}: it holds no {what}")
    if sampling == "pairs":
        # a pair's labels are those of its first frame: the same frames as where there are no pairs
        has_labels: np.ndarray = np.zeros(len(sample_id), bool)
        has_labels[labelled] = True
        known = has_labels[first]
        if not known.any():
            raise ValueError(
                f"{where}: label_fraction {label_fraction:g} leaves {len(labelled)} labelled "
                f"frames, and none of the {len(first)} pairs begins with one; take a larger share"
            )
        if not known.all():
            first, kind = first[known], kind[known]
            second = None if second is None else second[known]
            difficulty = None if difficulty is None else difficulty[known]
    shard = _numbers(frames, "shard", np.int32)
    return Items(
        source=source,
        sample_id=sample_id,
        offset=number << _SOURCE_BITS,
        shard=shard,
        row=_numbers(frames, "row", np.int32),
        subject=_subjects(frames, number),
        flags={name: _flag(frames, name) for name in FLAGS},
        first=first,
        second=second,
        kind=kind,
        use=_earlier(first, shard),
        difficulty=difficulty,
    )


def check_curriculum(source: Source, sampling: Literal["pairs", "frames"]) -> None:
    """ValueError where a source's pairs cannot be graded, or there are none to grade."""
    if source.curriculum is None:
        return
    where = source.collection.folder
    if sampling == "frames":
        raise ValueError(
            f"{where}: curriculum is of pairs, and single frames are what is trained on; remove it"
        )
    if "difficulty" not in source.collection.columns("pairs", ["difficulty"]).column_names:
        raise ValueError(
            f"{where}: its pairs were mined before difficulty was stored, which curriculum needs; "
            "give its pipelines.prepare command again, which mines them anew in seconds"
        )


def has_items(source: Source, sampling: Literal["pairs", "frames"]) -> bool:
    """Whether a source's split holds any item of that sampling."""
    frames = source.collection.columns("frames", ["sample_id", "split"])
    chosen = _in_split(frames, source.split)
    if sampling == "frames" or not chosen.any():
        return bool(chosen.any())
    return len(_pairs(source, _numbers(frames, "sample_id"), chosen)[0]) > 0


def _flag(frames: pa.Table, name: str) -> np.ndarray:
    """(N,) bool; False throughout for collections older than that kind of label."""
    if name not in frames.column_names:
        return np.zeros(len(frames), bool)
    return np.asarray(frames[name])


def _numbers(table: pa.Table, column: str, kind: type = np.int64) -> np.ndarray:
    return np.asarray(table[column]).astype(kind, copy=False)


def _in_split(frames: pa.Table, split: str | None) -> np.ndarray:
    """(N,) bool."""
    if split is None:
        return np.ones(len(frames), bool)
    codes, names = _coded(frames["split"])
    return codes == (names.index(split) if split in names else -2)


def _coded(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Text as (N,) numbers in a list of the different texts; -1 where there is none."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    whole = column.unify_dictionaries().combine_chunks()
    if isinstance(whole, pa.ChunkedArray):  # of an empty table
        return np.empty(0, np.int64), []
    return whole.indices.fill_null(-1).to_numpy(), whole.dictionary.to_pylist()


def _fraction(frames: np.ndarray, sample_id: np.ndarray, fraction: float) -> np.ndarray:
    """Some of the frame numbers `frames`: a fixed part, rounded, never empty; a smaller fraction's
    part lies within a larger's."""
    if not 0 < fraction <= 1:
        raise ValueError(f"label_fraction must be in (0, 1], found {fraction}")
    count = max(1, round(fraction * len(frames))) if len(frames) else 0
    return np.sort(frames[label_order(sample_id[frames])[:count]])


def label_order(sample_id: np.ndarray) -> np.ndarray:
    """The order in which shares of the labels take frames (n,): each share takes the first ones.

    Frames are drawn, not subjects: few labels of all people, as when annotation was cut short. The
    draw is keyed by sample id alone: the same on every machine, for every source, seed and task.
    """
    draw = uniform(0, "label_fraction", 0, torch.from_numpy(sample_id))[:, 0].numpy()
    return np.argsort(draw, kind="stable")


def _pairs(
    source: Source, sample_id: np.ndarray, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """(first, second, kind, difficulty) of a source's pairs, both frames among the chosen."""
    unknown = set(source.kinds) - set(KINDS)
    if unknown or not source.kinds:
        raise ValueError(f"kinds must be among {', '.join(KINDS)}, found {list(source.kinds)}")
    wanted, place = [KINDS[name] for name in source.kinds], _Places(sample_id, source)
    kept: list[tuple[np.ndarray, ...]] = [(*np.empty((2, 0), np.int32), np.empty(0, np.int8))]
    graded: list[np.ndarray] = [np.empty(0, np.float32)]
    names = ["a", "b", "kind", *(["difficulty"] if source.curriculum else [])]
    for pairs in source.collection.columns("pairs", names).to_batches(_PIECE):
        first, second = (place.of(np.asarray(pairs[name])) for name in ("a", "b"))
        kind = np.asarray(pairs["kind"])
        keep = np.isin(kind, wanted) & chosen[first] & chosen[second]
        kept.append((first[keep], second[keep], kind[keep]))
        if source.curriculum is not None:
            grades = pairs["difficulty"].to_numpy(zero_copy_only=False)[keep]
            graded.append(np.nan_to_num(grades, nan=1.0))
    columns = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    return *columns, np.concatenate(graded) if source.curriculum is not None else None


class _Places:
    """Where frames stand in their table, by their sample ids."""

    def __init__(self, sample_id: np.ndarray, source: Source) -> None:
        self._source, self._count = source, len(sample_id)
        self._first = int(sample_id[0]) if len(sample_id) else 0
        self._order: np.ndarray | None = None
        if np.any(np.diff(sample_id) != 1):
            self._order = np.argsort(sample_id).astype(np.int32)
            self._sorted = sample_id[self._order]

    def of(self, ids: np.ndarray) -> np.ndarray:
        """(n,) int32; ValueError for ids that are not in the table."""
        if self._order is None:
            places: np.ndarray = ids - self._first
            known = not len(ids) or bool(places.min() >= 0 and places.max() < self._count)
        else:
            found: np.ndarray = np.minimum(np.searchsorted(self._sorted, ids), self._count - 1)
            known = bool((self._sorted[found] == ids).all())
            places = self._order[found]
        if not known:
            raise ValueError(
                f"{self._source.collection.folder}: pairs.parquet has pairs of frames that are not "
                "in frames.parquet; mine its pairs again"
            )
        return places.astype(np.int32)


def _earlier(first: np.ndarray, shard: np.ndarray) -> np.ndarray:
    """(n,) how many earlier entries are equal; shard by shard, since equal frames are in one."""
    earlier: np.ndarray = np.empty(len(first), np.int32)
    for part in _by_shard(first, shard):
        here = first[part]
        order = np.argsort(here, kind="stable")
        ordered = here[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        lengths = np.diff(np.r_[starts, len(ordered)])
        earlier[part[order]] = np.arange(len(here)) - np.repeat(starts, lengths)
    return earlier


def _subjects(frames: pa.Table, number: int) -> np.ndarray:
    """(N,) a 62-bit number for each person; where the subject is unknown, for its track."""
    columns = [_coded(frames[name]) for name in ("subject", "sequence", "track")]
    (person, people), (sequence, sequences), (track, tracks) = columns
    known = np.array([bool(name) for name in people] + [False])[person]  # -1 is the last
    numbers: np.ndarray = np.empty(len(frames), np.int64)
    hashes = np.array([_hashed(f"{number}:{name}") for name in people] + [0], np.int64)
    numbers[known] = hashes[person[known]]
    pairs, which = np.unique(
        np.stack([sequence[~known], track[~known]]), axis=1, return_inverse=True
    )
    named = [f"{[*sequences, None][s]}/{[*tracks, None][t]}" for s, t in pairs.T.tolist()]
    hashes = np.array([_hashed(f"{number}:{name}") for name in named], np.int64)
    numbers[~known] = hashes[which.ravel()]
    return numbers


def _hashed(text: str) -> int:
    """A 62-bit number."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 2
