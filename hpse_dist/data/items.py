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
        shard = self.shard[self.first]
        order = np.argsort(shard, kind="stable")
        cuts: np.ndarray = np.flatnonzero(np.diff(shard[order])) + 1
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
    frames = source.collection.frames
    sample_id = _numbers(frames, "sample_id")
    difficulty: np.ndarray | None = None
    split = np.asarray(frames["split"].to_pylist(), dtype=object)
    chosen = np.ones(len(split), bool) if source.split is None else split == source.split
    where = f"{source.collection.folder}, split {source.split or 'any'}"
    labelled = _fraction(np.flatnonzero(chosen), sample_id, label_fraction)
    if sampling == "frames":
        first, second = labelled, None
        kind: np.ndarray = np.zeros(len(first), np.int64)
    else:
        first, second, kind, difficulty = _pairs(source, sample_id, chosen)
    if len(first) == 0:
        what = f"pairs of kind {' or '.join(source.kinds)}" if sampling == "pairs" else "frames"
        raise ValueError(f"{where}: it holds no {what}")
    if sampling == "pairs":
        # a pair's labels are those of its first frame: the same frames as where there are no pairs
        known = np.isin(first, labelled)
        if not known.any():
            raise ValueError(
                f"{where}: label_fraction {label_fraction:g} leaves {len(labelled)} labelled "
                f"frames, and none of the {len(first)} pairs begins with one; take a larger share"
            )
        first, kind = first[known], kind[known]
        second = None if second is None else second[known]
        difficulty = None if difficulty is None else difficulty[known]
    return Items(
        source=source,
        sample_id=sample_id,
        offset=number << _SOURCE_BITS,
        shard=_numbers(frames, "shard"),
        row=_numbers(frames, "row"),
        subject=_subjects(frames, number),
        flags={name: _flag(frames, name) for name in FLAGS},
        first=first,
        second=second,
        kind=kind,
        use=_earlier(first),
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
    if "difficulty" not in source.collection.pairs.column_names:
        raise ValueError(
            f"{where}: its pairs were mined before difficulty was stored, which curriculum needs; "
            "give its pipelines.prepare command again, which mines them anew in seconds"
        )


def has_items(source: Source, sampling: Literal["pairs", "frames"]) -> bool:
    """Whether a source's split holds any item of that sampling."""
    frames = source.collection.frames
    chosen = np.asarray(frames["split"].to_pylist(), dtype=object) == source.split
    if sampling == "frames" or not chosen.any():
        return bool(chosen.any())
    return len(_pairs(source, _numbers(frames, "sample_id"), chosen)[0]) > 0


def _flag(frames: pa.Table, name: str) -> np.ndarray:
    """(N,) bool; False throughout for collections older than that kind of label."""
    if name not in frames.column_names:
        return np.zeros(len(frames), bool)
    return np.asarray(frames[name])


def _numbers(table: pa.Table, column: str) -> np.ndarray:
    return np.asarray(table[column]).astype(np.int64)


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
    pairs = source.collection.pairs
    kind = _numbers(pairs, "kind")
    order = np.argsort(sample_id)
    first, second = (
        order[np.searchsorted(sample_id[order], _numbers(pairs, name))] for name in ("a", "b")
    )
    wanted = np.isin(kind, [KINDS[name] for name in source.kinds])
    keep = wanted & chosen[first] & chosen[second]
    difficulty: np.ndarray | None = None
    if source.curriculum is not None:
        difficulty = np.nan_to_num(pairs["difficulty"].to_numpy()[keep], nan=1.0)
    return first[keep], second[keep], kind[keep], difficulty


def _earlier(first: np.ndarray) -> np.ndarray:
    """(n,) how many earlier entries are equal."""
    order = np.argsort(first, kind="stable")
    ordered = first[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    lengths = np.diff(np.r_[starts, len(ordered)])
    earlier: np.ndarray = np.empty(len(first), np.int64)
    earlier[order] = np.arange(len(first)) - np.repeat(starts, lengths)
    return earlier


def _subjects(frames: pa.Table, number: int) -> np.ndarray:
    """(N,) a 62-bit number for each person; where the subject is unknown, for its track."""
    columns = [frames[name].to_pylist() for name in ("subject", "sequence", "track")]
    names = [
        subject or f"{sequence}/{track}" for subject, sequence, track in zip(*columns, strict=True)
    ]
    hashed = {
        name: int.from_bytes(
            hashlib.blake2b(f"{number}:{name}".encode(), digest_size=8).digest(), "big"
        )
        >> 2
        for name in set(names)
    }
    return np.array([hashed[name] for name in names], np.int64)
