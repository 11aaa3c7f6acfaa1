"""Rows of shards into the buffers of a micro-batch, on threads, in order."""

from __future__ import annotations

import queue
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from hpse_dist.data import depth_order
from hpse_dist.data.beton import Shard
from hpse_dist.data.collection import Collection
from hpse_dist.data.items import FLAGS, Items
from hpse_dist.data.stage import Copy, NoRoom

Job = TypeVar("Job")
Layout = tuple[tuple[int, ...], np.dtype]  # (shape, dtype)
_FLAGGED = {  # a label a source may lack, since its rows say so themselves
    "joints2d": "its confidence",
    "joints3d": "its confidence",
    "people2d": "its confidence",
    "people3d": "its confidence",
    **dict.fromkeys(("global_orient", "body_pose", "betas", "transl"), "has_body"),
    **dict.fromkeys(("hand_orient", "hand_pose", "hand_betas", "hand_transl"), "has_hand"),
    **dict.fromkeys(("part_map", "uv_map"), "has_parts"),
}
_SHARDS_OPEN = 64  # file maps kept; they cost address space, not memory


@dataclass(frozen=True)
class Rows:
    """What one micro-batch is made from, each array (B,)."""

    source: np.ndarray
    item: np.ndarray
    epoch: np.ndarray
    pair_weight: np.ndarray
    valid: np.ndarray


class Buffer:
    """Host memory for one micro-batch; on CUDA page-locked, and busy until a copy is through."""

    def __init__(self, layouts: dict[str, Layout], pinned: bool) -> None:
        self.tensors: dict[str, Tensor] = {}
        for name, (shape, dtype) in layouts.items():
            kind = torch.from_numpy(np.empty(0, dtype)).dtype
            self.tensors[name] = torch.empty(shape, dtype=kind, pin_memory=pinned)
        self.arrays = {name: tensor.numpy() for name, tensor in self.tensors.items()}
        self.copied: torch.cuda.Event | None = None


class Decoder:
    """Fills buffers with the rows of a run's sources; callable from several threads."""

    def __init__(self, sources: Sequence[Items], labels: Sequence[str]) -> None:
        self.sources = sources
        self._open: OrderedDict[tuple[int, int], Shard] = OrderedDict()
        self._copies: dict[tuple[int, int], Copy] = {}
        weakref.finalize(self, _close_all, self._copies)
        self._lock = threading.Lock()
        self.crop_px = self._one_crop()
        self._labels = {name: self._one_layout(name) for name in labels}
        for number, items in enumerate(sources):  # an unreadable source fails here, not later
            self._shard(number, int(items.shard[items.first[0]]))

    def _one_crop(self) -> int:
        sizes = {items.source.collection.config.crop_px for items in self.sources}
        if len(sizes) > 1:
            raise ValueError(
                f"collections of crops of {' and '.join(map(str, sorted(sizes)))} pixels cannot be "
                "mixed; prepare them with one crop_px"
            )
        return sizes.pop()

    def _one_layout(self, name: str) -> Layout:
        """(shape, dtype) of a label, the same in every source that has it."""
        layouts = {
            (tuple(shape), np.dtype(dtype))
            for items in self.sources
            for shape, dtype in [items.source.collection.fields.get(name, ((-1,), "u1"))]
            if shape != (-1,)
        }
        if len(layouts) > 1:
            raise ValueError(
                f"field {name} has different shapes in these collections: "
                f"{' and '.join(str(shape) for shape, _ in sorted(layouts, key=str))}"
            )
        shape, dtype = layouts.pop()
        if shape == ():  # FFCV keeps numbers in 8 bytes
            dtype = np.dtype(np.float64 if dtype.kind == "f" else np.int64)
        return shape, dtype

    def buffer(self, batch: int, pinned: bool) -> Buffer:
        """Memory for `batch` rows."""
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
        return Buffer(layouts, pinned)

    def fill(self, rows: Rows, buffer: Buffer) -> Buffer:
        """Read a micro-batch. ValueError names a shard that cannot be read."""
        if buffer.copied is not None:
            buffer.copied.synchronize()
        out = buffer.arrays
        out["epoch"][:], out["valid"][:] = rows.epoch, rows.valid
        if "pair_weight" in out:
            out["pair_weight"][:] = rows.pair_weight
        for number, items in enumerate(self.sources):
            places = np.flatnonzero(rows.source == number)
            if len(places) == 0:
                continue
            item = rows.item[places]
            frames = items.first[item]
            out["sample_id"][places] = items.sample_id[frames] + items.offset
            out["subject"][places] = items.subject[frames]
            for name in FLAGS:
                out[name][places] = items.flags[name][frames]
            self._read(
                number, frames, places, {"image": "image", **{k: k for k in self._labels}}, out
            )
            if items.second is not None:
                out["pair_kind"][places] = items.kind[item]
                self._read(number, items.second[item], places, {"image": "image_ref"}, out)
        return buffer

    def _read(
        self,
        number: int,
        frames: np.ndarray,
        places: np.ndarray,
        names: dict[str, str],
        out: dict[str, np.ndarray],
    ) -> None:
        """Stored fields of some frames into out[names[field]][places], shard by shard."""
        items = self.sources[number]
        shards = items.shard[frames]
        for index in np.unique(shards):
            here = shards == index
            shard = self._shard(number, int(index))
            for name, target in names.items():
                if name == "image" or name in items.source.collection.fields:
                    shard.read(name, items.row[frames[here]], out[target], places[here])
                else:
                    out[target][places[here]] = 0

    def _shard(self, number: int, index: int) -> Shard:
        """An open shard, after comparing its sample ids with frames.parquet once."""
        key = (number, index)
        with self._lock:
            if key in self._open:
                self._open.move_to_end(key)
                return self._open[key]
            items = self.sources[number]
            copy = self._hold(items.source.collection, index)
            shard = Shard(copy.path)
            frames = np.flatnonzero(items.shard == index)
            stored: np.ndarray = np.empty(shard.num_rows, np.int64)
            shard.read("sample_id", np.arange(shard.num_rows), stored, np.arange(shard.num_rows))
            stored += items.source.collection.sample_id_starts[index]
            rows = items.row[frames]
            if rows.max() >= len(stored) or np.any(stored[rows] != items.sample_id[frames]):
                raise ValueError(
                    f"{shard.path}: its rows are not those of frames.parquet; "
                    "check the collection with prepare --verify"
                )
            self._open[key], self._copies[key] = shard, copy
            while len(self._open) > _SHARDS_OPEN:
                self._forget()
            return shard

    def _hold(self, collection: Collection, index: int) -> Copy:
        """A shard on this machine's disk; where copies fill their budget, older ones are let go."""
        while True:
            try:
                return collection.hold_shard(index)
            except NoRoom:
                if not self._open:
                    raise
                self._forget()

    def _forget(self) -> None:
        """Close the shard that was not used for longest."""
        key, _ = self._open.popitem(last=False)
        self._copies.pop(key).close()


def _close_all(copies: dict[tuple[int, int], Copy]) -> None:
    for copy in copies.values():
        copy.close()


def provided(sources: Sequence[Items]) -> tuple[str, ...]:
    """Fields that every source has, or that a row can say it lacks."""
    collections = [items.source.collection for items in sources]
    return provided_by(collections, pairs=sources[0].second is not None)


def provided_by(collections: Sequence[Collection], pairs: bool) -> tuple[str, ...]:
    """Fields that batches mixed from these collections have, as single frames or as pairs."""
    names = ["image", "sample_id", "epoch", "subject"]
    if pairs:
        names += ["image_ref", "pair_kind", "pair_weight"]
    having = [{*collection.label_fields} - {*FLAGS} for collection in collections]
    common, some = set.intersection(*having), set.union(*having)
    labels = common | {name for name in some if name in _FLAGGED}
    if any("part_map" in fields and "uv_map" not in fields for fields in having):
        labels -= {"uv_map"}  # has_parts would call its zeros real
    flags = {_FLAGGED[name] for name in labels if name in _FLAGGED} & {*FLAGS}
    if "depth_pairs" not in labels and depth_order.basis(collections):
        labels |= {*depth_order.FIELDS}  # made of the joints, batch by batch
    return (*names, *sorted(labels | flags))


class Prefetcher(Generic[Job]):
    """Fills buffers for a stream of jobs on `threads` threads, a few ahead, results in order.

    The threads hold nothing of this object, so that dropping it ends them; `close` does so at
    once. What a thread raises, its death included, is raised by `take`.
    """

    def __init__(
        self,
        fill: Callable[[Job, Buffer], Buffer],
        jobs: Iterator[Job],
        buffers: Sequence[Buffer],
        threads: int,
    ) -> None:
        self._jobs = jobs
        self._free = list(buffers)
        self._running: OrderedDict[Future[Buffer], Buffer] = OrderedDict()
        self._todo: queue.SimpleQueue[tuple[Future[Buffer], Job, Buffer] | None] = (
            queue.SimpleQueue()
        )
        self._threads = [
            threading.Thread(target=_work, args=(self._todo, fill), name=f"decode-{i}", daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()
        self._stop = weakref.finalize(self, _end, self._todo, self._threads)
        self._submit()

    def _submit(self) -> None:
        while self._free:
            job = next(self._jobs, None)
            if job is None:
                return
            buffer, future = self._free.pop(), Future[Buffer]()
            self._running[future] = buffer
            self._todo.put((future, job, buffer))

    def take(self) -> Buffer | None:
        """The next filled buffer, or None after the last; give it back with `release`."""
        if not self._running:
            return None
        future, _ = self._running.popitem(last=False)
        while True:
            try:
                error = future.exception(timeout=0.5)
                break
            except NotYet:
                if not all(thread.is_alive() for thread in self._threads) and not future.done():
                    self.close()
                    raise RuntimeError("a decoding thread has died; its batch is lost") from None
        if error is None:
            return future.result()
        self.close()
        if isinstance(error, Exception):
            raise error
        raise RuntimeError(f"a decoding thread was ended by {type(error).__name__}") from error

    def release(self, buffer: Buffer) -> None:
        """The contents are no longer needed: the buffer may be filled again."""
        self._free.append(buffer)
        self._submit()

    def close(self) -> None:
        """End the threads; calling this twice is fine."""
        self._stop()


def _work(
    todo: queue.SimpleQueue[tuple[Future[Buffer], Job, Buffer] | None],
    fill: Callable[[Job, Buffer], Buffer],
) -> None:
    """A decoding thread: fill buffers until None comes."""
    while (task := todo.get()) is not None:
        future, job, buffer = task
        try:
            future.set_result(fill(job, buffer))
        except BaseException as error:
            future.set_exception(error)
        del task, future, job, buffer


def _end(todo: queue.SimpleQueue, threads: Sequence[threading.Thread]) -> None:
    while True:  # what is still waiting will not be needed
        try:
            todo.get_nowait()
        except queue.Empty:
            break
    for _ in threads:
        todo.put(None)
    for thread in threads:
        if thread is not threading.current_thread():
            thread.join()
