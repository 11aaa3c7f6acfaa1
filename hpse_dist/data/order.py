"""In which order items come: pure functions of (seed, epoch), whatever the number of processes.

An item is a frame or a pair, a number in its source's table. One endless sequence runs over all
epochs; global batch g is items [g*G, (g+1)*G) of it, so batches straddle epochs and within an
epoch each item comes exactly as often as its source's weight says.

Within an epoch every source's shards are shuffled and cut into windows, a window holds its share
of every source, and items are shuffled inside a window. So few shards are open at a time, and
sources are mixed in proportion everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpse_dist.data.curriculum import Curriculum, replace_hard
from hpse_dist.draws import permutation


@dataclass(frozen=True)
class Stretch:
    """Part of the sequence, each array (n,) int64."""

    source: np.ndarray
    item: np.ndarray
    repeat: np.ndarray
    """How often the item came before in the whole sequence, counted so that it grows with the
    epoch; not without gaps if the weight is no whole number. Of an item in the place of a harder
    one it is another number that never comes twice."""

    def __len__(self) -> int:
        return len(self.item)

    def __getitem__(self, part: slice) -> Stretch:
        return Stretch(self.source[part], self.item[part], self.repeat[part])


class Order:
    """The sequence over weighted sources of items grouped by shard.

    shards[s][k] holds the item numbers of shard k of source s. weights[s] w: each item comes w
    times per epoch; the fraction of w is a part that rotates, so that 0.5 takes every item once
    in two epochs. `window` is about how many shards are open at a time. curricula[s], where there
    is one, puts easier items of source s in the place of hard ones.
    """

    def __init__(
        self,
        shards: Sequence[Sequence[np.ndarray]],
        weights: Sequence[float],
        seed: int,
        window: int = 8,
        curricula: Sequence[Curriculum | None] = (),
    ) -> None:
        for weight in weights:
            if not (math.isfinite(weight) and weight > 0):
                raise ValueError(f"the weight of a source must be above 0, found {weight}")
        if window < 1:
            raise ValueError(f"window must be at least 1 shard, found {window}")
        self.seed = seed
        self._curricula = tuple(curricula)
        self._sources = [
            _SourceOrder(parts, weight, seed, number)
            for number, (parts, weight) in enumerate(zip(shards, weights, strict=True))
        ]
        num_shards = sum(len(parts) for parts in shards)
        self._num_windows = max(1, math.ceil(num_shards / window))
        self.items_per_epoch = sum(source.items_per_epoch for source in self._sources)
        if self.items_per_epoch == 0:
            raise ValueError("no frames or pairs to read: every source is empty after its filters")
        self._cached: tuple[int, Stretch] | None = None

    @property
    def items_per_window(self) -> int:
        """Items read before the next shards are, about."""
        return self.items_per_epoch // self._num_windows

    def epoch(self, epoch: int) -> Stretch:
        """All items of one epoch, in order."""
        if self._cached is None or self._cached[0] != epoch:
            self._cached = (epoch, self._make(epoch))
        return self._cached[1]

    def _make(self, epoch: int) -> Stretch:
        parts = [source.epoch(epoch) for source in self._sources]
        windows = []
        place = epoch * self.items_per_epoch
        for w in range(self._num_windows):
            slices = []
            for part in parts:
                start = len(part) * w // self._num_windows
                slices.append(part[start : len(part) * (w + 1) // self._num_windows])
            together = _join(slices)
            shuffled = permutation(self.seed, f"order.window.{w}", epoch, len(together))
            drawn = _take(together, shuffled)  # copies
            places = np.arange(place, place + len(drawn))
            keys = (self.seed, epoch, w)
            replace_hard(drawn.item, drawn.repeat, drawn.source, places, self._curricula, keys)
            windows.append(drawn)
            place += len(drawn)
        return _join(windows)

    def between(self, start: int, stop: int) -> Stretch:
        """Items start..stop-1 of the endless sequence."""
        pieces = []
        while start < stop:
            epoch, cursor = divmod(start, self.items_per_epoch)
            piece = self.epoch(epoch)[cursor : cursor + stop - start]
            pieces.append(piece)
            start += len(piece)
        return _join(pieces)


class _SourceOrder:
    """One source's items of an epoch, shard by shard, shards and items shuffled."""

    def __init__(self, shards: Sequence[np.ndarray], weight: float, seed: int, number: int) -> None:
        self._items = np.concatenate([np.empty(0, np.int64), *shards]).astype(np.int64)
        self._shard: np.ndarray = np.repeat(np.arange(len(shards)), [len(part) for part in shards])
        self._num_shards = len(shards)
        self._seed, self._stream = seed, f"order.source.{number}"
        self._whole = math.floor(weight)
        self._extra = round((weight - self._whole) * len(self._items))
        if weight < 1 and len(self._items):
            self._extra = max(1, self._extra)
        self.items_per_epoch = self._whole * len(self._items) + self._extra

    def epoch(self, epoch: int) -> Stretch:
        n = len(self._items)
        index = np.tile(np.arange(n), self._whole)
        copy: np.ndarray = np.repeat(np.arange(self._whole), n)
        if self._extra:
            fixed = permutation(self._seed, f"{self._stream}.extra", 0, n)
            turn: np.ndarray = (epoch * self._extra + np.arange(self._extra)) % n
            index = np.concatenate([index, fixed[turn]])
            copy = np.concatenate([copy, np.full(self._extra, self._whole)])
        shuffled = permutation(self._seed, f"{self._stream}.items", epoch, len(index))
        rank: np.ndarray = np.empty(self._num_shards, np.int64)
        rank[permutation(self._seed, f"{self._stream}.shards", epoch, self._num_shards)] = (
            np.arange(self._num_shards)
        )
        by_shard = np.argsort(rank[self._shard[index[shuffled]]], kind="stable")
        chosen = shuffled[by_shard]
        copies = self._whole + (self._extra > 0)
        number = int(self._stream.rsplit(".", 1)[1])
        return Stretch(
            np.full(len(chosen), number), self._items[index[chosen]], epoch * copies + copy[chosen]
        )


def _join(parts: Sequence[Stretch]) -> Stretch:
    if len(parts) == 1:
        return parts[0]
    return Stretch(
        np.concatenate([part.source for part in parts]),
        np.concatenate([part.item for part in parts]),
        np.concatenate([part.repeat for part in parts]),
    )


def _take(part: Stretch, index: np.ndarray) -> Stretch:
    return Stretch(part.source[index], part.item[index], part.repeat[index])


def share_of_rank(total: Stretch, rank: int, size: int) -> Stretch:
    """A rank's contiguous share of a global batch; its length must divide by `size`."""
    assert len(total) % size == 0
    share = len(total) // size
    return total[rank * share : (rank + 1) * share]


def evenly_mixed(groups: np.ndarray, seed: int) -> np.ndarray:
    """A fixed order of 0..n-1 in which neighbours differ in `groups` (n,) as far as can be.

    Each group's members are spread evenly over the whole, from a random start; for evaluation,
    where a batch should hold many subjects.
    """
    n = len(groups)
    shuffled = permutation(seed, "order.mixed", 0, n)
    _, group, counts = np.unique(groups[shuffled], return_inverse=True, return_counts=True)
    by_group = np.argsort(group, kind="stable")
    within: np.ndarray = np.empty(n, np.int64)
    within[by_group] = np.arange(n) - np.repeat(np.cumsum(counts) - counts, counts)
    start = permutation(seed, "order.groups", 0, len(counts)) / max(1, len(counts))
    position = (within + start[group]) / counts[group]
    return shuffled[np.argsort(position, kind="stable")]
