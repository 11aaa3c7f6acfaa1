"""Rows of shards into the buffers of a micro-batch."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hpse_dist.data.beton import Damaged, Shard
from hpse_dist.data.collection import Collection
from hpse_dist.data.items import FLAGS, Items
from hpse_dist.data.mixing import check_crops, check_joint_sets, one_layout
from hpse_dist.data.prefetch import Buffer, Layout
from hpse_dist.data.publish import check_sampled
from hpse_dist.data.stage import Copy, NoRoom
from hpse_dist.data.substitutes import TRIES, BadRecord, substitutes

_SHARDS_OPEN = 64  # file maps kept; they cost address space, not memory


@dataclass(frozen=True)
class Rows:
    """What one micro-batch is made from, each array (B,)."""

    source: np.ndarray
    item: np.ndarray
    epoch: np.ndarray
    pair_weight: np.ndarray
    valid: np.ndarray

    @staticmethod
    def layouts(batch: int) -> dict[str, Layout]:
        """Of the arrays for a micro-batch of this size."""
        whole, share, flag = np.dtype(np.int64), np.dtype(np.float32), np.dtype(np.bool_)
        kinds = {"source": whole, "item": whole, "epoch": whole}
        kinds |= {"pair_weight": share, "valid": flag}
        return {name: ((batch,), kind) for name, kind in kinds.items()}


class Readable(Protocol):
    """What rows are read from: an open shard, or what was decoded of it before."""

    def read(self, name: str, rows: np.ndarray, out: np.ndarray, places: np.ndarray) -> None:
        """As `Shard.read`."""


class Decoder:
    """Fills buffers with the rows of a run's sources; callable from several threads.

    With `replaces`, others stand for records that cannot be decoded; else they are an error.
    `room`: bytes of local copies that it holds at most, one copy in any case; see `budget`.
    `beside`: collections that say the shape of labels which no source has: rows lack them.
    """

    def __init__(
        self,
        sources: Sequence[Items],
        labels: Sequence[str],
        replaces: bool = False,
        room: int = 0,
        beside: Sequence[Collection] = (),
    ) -> None:
        self.sources = sources
        self._room, self._replaces = room, replaces
        self.reading: dict[int, str] = {}
        """What each thread, by its number, was last at."""
        self._open: OrderedDict[tuple[int, int], Shard] = OrderedDict()
        self._copies: dict[tuple[int, int], Copy] = {}
        self._coming = 0  # bytes of the copies that threads are about to hold
        weakref.finalize(self, _close_all, self._copies)
        self._lock = threading.Lock()
        collections = [items.source.collection for items in sources]
        check_crops(collections)
        self.crop_px = collections[0].config.crop_px
        check_joint_sets(collections, labels)
        self._labels = {name: one_layout(name, [*collections, *beside]) for name in labels}
        for number, items in enumerate(sources):  # an unreadable source fails here, not later
            self._shard(number, int(items.shard[items.first[0]]))

    def layouts(self, batch: int) -> dict[str, Layout]:
        """What `batch` rows are filled into."""
        picture = ((batch, self.crop_px, self.crop_px, 3), np.dtype(np.uint8))
        layouts: dict[str, Layout] = {"image": picture}
        if self.sources[0].second is not None:
            layouts |= {"image_ref": picture, "pair_kind": ((batch,), np.dtype(np.int64))}
            layouts["pair_weight"] = ((batch,), np.dtype(np.float32))
        for name in ("sample_id", "epoch", "subject"):
            layouts[name] = ((batch,), np.dtype(np.int64))
        for name in (*FLAGS, "valid"):
            layouts[name] = ((batch,), np.dtype(np.bool_))
        for name, (shape, dtype) in self._labels.items():
            layouts[name] = ((batch, *shape), dtype)
        return layouts

    def buffer(self, batch: int, pinned: bool) -> Buffer:
        """Memory for `batch` rows."""
        return Buffer(self.layouts(batch), pinned)

    def fill(self, rows: Rows, buffer: Buffer) -> Buffer:
        """Read a micro-batch; `buffer.bad` says what was replaced. ValueError names a shard that
        cannot be read."""
        if buffer.copied is not None:
            buffer.copied.synchronize()
        out, buffer.bad = buffer.arrays, []
        out["epoch"][:], out["valid"][:] = rows.epoch, rows.valid
        if "pair_weight" in out:
            out["pair_weight"][:] = rows.pair_weight
        for number, items in enumerate(self.sources):
            places = np.flatnonzero(rows.source == number)
            if len(places) == 0:
                continue
            item = rows.item[places].copy()
            buffer.bad += self._pictures(number, item, rows.epoch[places], places, out)
            frames = items.first[item]
            out["sample_id"][places] = items.sample_id[frames] + items.offset
            out["subject"][places] = items.subject[frames]
            for name in FLAGS:
                out[name][places] = items.flags[name][frames]
            self._read_labels(number, frames, places, out)
            if items.second is not None:
                out["pair_kind"][places] = items.kind[item]
        return buffer

    def _pictures(
        self,
        number: int,
        item: np.ndarray,
        epoch: np.ndarray,
        places: np.ndarray,
        out: dict[str, np.ndarray],
    ) -> list[BadRecord]:
        """Read the pictures of items (n,), of which those that cannot be are exchanged."""
        items, found = self.sources[number], list[BadRecord]()
        wanted, todo = item.copy(), np.arange(len(item))
        for attempt in itertools.count():
            frames = {"image": items.first[item[todo]]}
            if items.second is not None:
                frames["image_ref"] = items.second[item[todo]]
            damaged = self._decode_once(number, frames, places[todo], out)
            for name in frames:
                found += self._named(number, frames[name][damaged[name]])
            todo = todo[np.logical_or.reduce([*damaged.values()])]
            if len(todo) == 0:
                break
            if attempt == TRIES:
                raise ValueError(
                    f"{found[0]}: the picture is damaged, and so are the {TRIES} tried in its "
                    "place; prepare the collection again"
                )
            item[todo] = substitutes(items, wanted[todo], epoch[todo], attempt)
        return list(dict.fromkeys(found))

    def _named(self, number: int, frames: np.ndarray) -> list[BadRecord]:
        items = self.sources[number]
        shards = items.source.collection.shards
        return [
            BadRecord(
                int(items.sample_id[k] + items.offset), shards[items.shard[k]], int(items.row[k])
            )
            for k in frames.tolist()
        ]

    def _decode_once(
        self,
        number: int,
        frames: dict[str, np.ndarray],
        places: np.ndarray,
        out: dict[str, np.ndarray],
    ) -> dict[str, np.ndarray]:
        """Pictures of frames, (n,) each, into out[name][places]; (n,) bool each: those damaged.

        What is wanted more than once, as when (a, b) meets (b, a), is decoded once.
        """
        every, batch = np.concatenate([*frames.values()]), len(places)
        pictures = [out[name][place] for name in frames for place in places]
        _, first, same = np.unique(every, return_index=True, return_inverse=True)
        damaged: np.ndarray = np.zeros(len(every), bool)
        for k, name in enumerate(frames):
            here = first[first // batch == k]
            damaged[here] = self._decode(number, every[here], places[here % batch], out[name])
        once = first[same]  # where each is decoded
        for again in np.flatnonzero(once != np.arange(len(every))):
            pictures[again][:] = pictures[once[again]]
        damaged = damaged[once]
        return dict(zip(frames, np.split(damaged, len(frames)), strict=True))

    def _decode(
        self, number: int, frames: np.ndarray, places: np.ndarray, out: np.ndarray
    ) -> np.ndarray:
        """Pictures of frames (n,) into out[places]; (n,) bool: those that are damaged."""
        damaged: np.ndarray = np.zeros(len(frames), bool)
        for here, shard in self._by_shard(number, frames):
            rows = self.sources[number].row[frames[here]]
            try:
                shard.read("image", rows, out, places[here])
            except Damaged as error:
                if not self._replaces:
                    raise
                damaged[here[error.which]] = True
        return damaged

    def _read_labels(
        self, number: int, frames: np.ndarray, places: np.ndarray, out: dict[str, np.ndarray]
    ) -> None:
        """Stored labels of frames (n,) into out[name][places]; zeros where a source has none."""
        items = self.sources[number]
        for here, shard in self._by_shard(number, frames):
            for name in self._labels:
                if name in items.source.collection.fields:
                    shard.read(name, items.row[frames[here]], out[name], places[here])
                else:
                    out[name][places[here]] = 0

    def _by_shard(self, number: int, frames: np.ndarray) -> Iterator[tuple[np.ndarray, Readable]]:
        """(places among the frames, shard) for each shard that some of the frames are in."""
        items, thread = self.sources[number], threading.get_ident()
        shards = items.shard[frames]
        for index in np.unique(shards).tolist():
            self.reading[thread] = str(items.source.collection.shards[index])
            yield np.flatnonzero(shards == index), self._shard(number, index)

    def _shard(self, number: int, index: int) -> Readable:
        """An open shard."""
        key, size = (number, index), self._copy_bytes((number, index))
        with self._lock:
            if key in self._open:
                self._open.move_to_end(key)
                return self._open[key]
            self._coming += size
            self._keep_within_room()
        try:
            # without the lock: a disk that does not answer must not hold up all other threads
            shard, copy = self._opened(number, index)
        except BaseException:
            with self._lock:
                self._coming -= size
            raise
        with self._lock:
            self._coming -= size
            if key in self._open:  # another thread was faster
                copy.close()
                return self._open[key]
            self._open[key], self._copies[key] = shard, copy
            while len(self._open) > _SHARDS_OPEN:
                self._forget()
            return shard

    def _opened(self, number: int, index: int) -> tuple[Shard, Copy]:
        """A shard, after comparing samples of it with its hash, and its sample ids with
        frames.parquet."""
        items = self.sources[number]
        collection = items.source.collection
        copy = self._hold(collection, index)
        check_sampled(copy.path, collection.manifest["files"][collection.manifest["shards"][index]])
        shard = Shard(copy.path)
        frames = np.flatnonzero(items.shard == index)
        stored: np.ndarray = np.empty(shard.num_rows, np.int64)
        shard.read("sample_id", np.arange(shard.num_rows), stored, np.arange(shard.num_rows))
        stored += collection.sample_id_starts[index]
        rows = items.row[frames]
        if rows.max() >= len(stored) or np.any(stored[rows] != items.sample_id[frames]):
            raise ValueError(
                f"{shard.path}: its rows are not those of frames.parquet; "
                "check the collection with prepare --verify"
            )
        return shard, copy

    def _hold(self, collection: Collection, index: int) -> Copy:
        """A shard on this machine's disk; where copies fill their budget, as when other runs are on
        this machine, older ones are let go."""
        while True:
            try:
                return collection.hold_shard(index)
            except NoRoom:
                with self._lock:
                    if not self._open:
                        raise
                    self._forget()

    def _copy_bytes(self, key: tuple[int, int]) -> int:
        return self.sources[key[0]].source.collection.shard_copy_bytes(key[1])

    def _keep_within_room(self) -> None:
        """Close the longest unused copies that leave no room for those to come."""
        sizes = {key: self._copy_bytes(key) for key in self._open}
        held = self._coming + sum(sizes.values())
        for key, size in sizes.items():
            if held <= self._room:
                return
            if size:
                self._forget(key)
                held -= size

    def _forget(self, key: tuple[int, int] | None = None) -> None:
        """Close a shard, or the one that was not used for longest."""
        key = key or next(iter(self._open))
        del self._open[key]
        self._copies.pop(key).close()

    def release(self) -> None:
        """Close all shards, so that their copies may go; reading on opens them anew."""
        with self._lock:
            while self._open:
                self._forget()


def _close_all(copies: dict[tuple[int, int], Copy]) -> None:
    for copy in copies.values():
        copy.close()
