"""In which order items come: pure functions of (seed, epoch), whatever the number of processes.

An item is a frame or a pair, a number in its source's table. One endless sequence runs over all
epochs; global batch g is items [g*G, (g+1)*G) of it, so batches straddle epochs and within an
epoch each item comes exactly as often as its source's weight says.

Within an epoch every source's shards are shuffled and cut into windows, a window holds its share
of every source, and items are shuffled inside a window. So few shards are open at a time, and
sources are mixed in proportion everywhere. Memory holds one window's order, never an epoch's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hpse_dist.data.curriculum import Curriculum, replace_hard
from hpse_dist.draws import bits, permutation


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
        self._num_windows = math.ceil(num_shards / window)
        self.items_per_epoch = sum(source.items_per_epoch for source in self._sources)
        if self.items_per_epoch == 0:
            raise ValueError("no frames or pairs to read: every source is empty after its filters")
        self._starts = np.sum([self._share(source) for source in self._sources], axis=0)
        self._cached: tuple[int, int, Stretch] | None = None

    def _share(self, source: _SourceOrder) -> np.ndarray:
        """(windows + 1,) where each window's part of a source begins, and the end of the last."""
        return source.items_per_epoch * np.arange(self._num_windows + 1) // self._num_windows

    @property
    def items_per_window(self) -> int:
        """Items read before the next shards are, about."""
        return self.items_per_epoch // self._num_windows

    def epoch(self, epoch: int) -> Stretch:
        """All items of one epoch, in order."""
        return _join([self._window(epoch, w) for w in range(self._num_windows)])

    def between(self, start: int, stop: int) -> Stretch:
        """Items start..stop-1 of the endless sequence."""
        pieces = []
        while start < stop:
            epoch, cursor = divmod(start, self.items_per_epoch)
            w = int(np.searchsorted(self._starts, cursor, side="right")) - 1
            skip = cursor - int(self._starts[w])
            piece = self._window(epoch, w)[skip : skip + stop - start]
            pieces.append(piece)
            start += len(piece)
        return _join(pieces)

    def _window(self, epoch: int, w: int) -> Stretch:
        """The items of one window, in order: all of an epoch that memory ever holds."""
        kept = self._cached
        if kept is None or kept[:2] != (epoch, w):
            kept = self._cached = (epoch, w, self._make(epoch, w))
        return kept[2]

    def _make(self, epoch: int, w: int) -> Stretch:
        shares = [(source, self._share(source)) for source in self._sources]
        together = _join(
            [source.between(epoch, int(share[w]), int(share[w + 1])) for source, share in shares]
        )
        drawn = _take(together, permutation(self.seed, f"order.window.{w}", epoch, len(together)))
        place = epoch * self.items_per_epoch + int(self._starts[w])
        places = np.arange(place, place + len(drawn))
        keys = (self.seed, epoch, w)
        replace_hard(drawn.item, drawn.repeat, drawn.source, places, self._curricula, keys)
        return drawn


class _SourceOrder:
    """One source's items of an epoch, shard by shard, shards and items shuffled.

    Items are sorted by a draw of their own, so any shard's can be had without those of the others.
    """

    def __init__(self, shards: Sequence[np.ndarray], weight: float, seed: int, number: int) -> None:
        items = np.concatenate([np.empty(0, np.int32), *shards])
        few = len(items) == 0 or items.max() < 2**31
        self._items = items.astype(np.int32 if few else np.int64)
        self._starts = np.cumsum([0, *map(len, shards)])
        self._seed, self._stream, self._number = seed, f"order.source.{number}", number
        self._whole = math.floor(weight)
        self._extra = round((weight - self._whole) * len(items))
        if weight < 1 and len(items):
            self._extra = max(1, self._extra)
        self.items_per_epoch = self._whole * len(items) + self._extra
        self._turn = self._items[:0]
        """(n,) the place of each item in the rotation of those that come once more."""
        if self._extra:
            self._turn = np.empty_like(self._items)
            self._turn[permutation(seed, f"{self._stream}.extra", 0, len(items))] = np.arange(
                len(items)
            )
        self._layout: tuple[int, np.ndarray, np.ndarray] = (-1, self._starts, self._starts)
        self._recent: tuple[int, int, Stretch | None] = (-1, -1, None)

    def between(self, epoch: int, start: int, stop: int) -> Stretch:
        """Items start..stop-1 of the source's epoch."""
        shards, ends = self._shards(epoch)
        first, last = np.searchsorted(ends, start, "right"), np.searchsorted(ends, stop, "left")
        begin = int(ends[first - 1]) if first else 0
        parts = [self._shard(epoch, shard) for shard in shards[first : last + 1].tolist()]
        return _join(parts)[start - begin : stop - begin] if parts else _EMPTY

    def _shards(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The shards in the order of an epoch, and how many items have come after each."""
        layout = self._layout
        if layout[0] != epoch:
            order = permutation(self._seed, f"{self._stream}.shards", epoch, len(self._starts) - 1)
            counts = self._whole * np.diff(self._starts)
            if self._extra:
                counts += [
                    np.count_nonzero(self._places_once_more(epoch, shard) < self._extra)
                    for shard in range(len(counts))
                ]
            layout = self._layout = (epoch, order, np.cumsum(counts[order]))
        return layout[1:]

    def _places_once_more(self, epoch: int, shard: int) -> np.ndarray:
        """Each item's place among those of a shard that come once more, if below their number."""
        turn = self._turn[self._starts[shard] : self._starts[shard + 1]].astype(np.int64)
        return (turn - epoch * self._extra) % len(self._items)

    def _shard(self, epoch: int, shard: int) -> Stretch:
        """All of an epoch that is in one shard, shuffled; the last one is kept, since windows may
        be parts of a shard."""
        recent = self._recent
        if recent[2] is not None and recent[:2] == (epoch, shard):
            return recent[2]
        n = len(self._items)
        at: np.ndarray = np.arange(self._starts[shard], self._starts[shard + 1])
        number = (at + n * np.arange(self._whole)[:, None]).ravel()
        which, copy = np.tile(at, self._whole), np.arange(self._whole).repeat(len(at))
        if self._extra:
            place = self._places_once_more(epoch, shard)
            more = np.argsort(place)[: np.count_nonzero(place < self._extra)]
            number = np.concatenate([number, self._whole * n + place[more]])
            which = np.concatenate([which, at[more]])
            copy = np.concatenate([copy, np.full(len(more), self._whole)])
        keys = bits(self._seed, f"{self._stream}.items", epoch, torch.from_numpy(number))
        shuffled = np.argsort(keys[:, 0].numpy(), kind="stable")
        copies = self._whole + (self._extra > 0)
        made = Stretch(
            np.full(len(which), self._number),
            self._items[which[shuffled]].astype(np.int64),
            epoch * copies + copy[shuffled],
        )
        self._recent = (epoch, shard, made)
        return made


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


_EMPTY = Stretch(*(np.empty(0, np.int64) for _ in range(3)))


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
