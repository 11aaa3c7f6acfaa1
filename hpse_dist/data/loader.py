"""From collections to micro-batches on the device.

The sequence of global batches depends on the sources, the seed and the batch size alone: not on
the number of processes or threads. A rank takes a contiguous share of each global batch. The state
is a place in that sequence, so resuming in the middle of an epoch is exact.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch

from hpse_dist.data.ahead import Ahead
from hpse_dist.data.augment import AugmentConfig
from hpse_dist.data.budget import check_budget, evaluation_room, training_room
from hpse_dist.data.collection import Collection
from hpse_dist.data.decode import Decoder, Rows
from hpse_dist.data.decoding import NO_CREW, Crew, Hire, Incident, Kind, Reading, Sampling
from hpse_dist.data.depth_order import DepthOrderConfig
from hpse_dist.data.finish import Finish
from hpse_dist.data.items import Items, Source, read_items
from hpse_dist.data.mixing import provided
from hpse_dist.data.order import Order, Stretch, evenly_mixed, share_of_rank
from hpse_dist.data.prefetch import Buffer, Prefetcher
from hpse_dist.data.resident import Resident
from hpse_dist.data.substitutes import BadRecord
from hpse_dist.data.transfer import Moving, Transfer
from hpse_dist.fields import Batch
from hpse_dist.world import World

__all__ = ["Loader", "Source", "evaluation_batches"]

_AHEAD = 2  # micro-batches decoded or waiting, besides one per thread, the consumer's, on the way


class Loader:
    """An endless iterator of micro-batches with a place that can be saved.

    Iterating goes on from the current place; one iterator at a time. `close` ends its threads, and
    so does dropping the iterator; a crew of `workers` stays for the next.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        needs: Sequence[str],
        sampling: Sampling,
        world: World,
        seed: int,
        global_batch: int,
        micro_batch: int,
        augment: AugmentConfig,
        image_px: int,
        patch_px: int,
        device: torch.device | str = "cpu",
        threads: int = 1,
        label_fraction: float = 1.0,
        depth_order: DepthOrderConfig | None = None,
        window: int = 8,
        decode_limit_s: float | None = None,
        kind: Kind = "inline",
        hire: Hire | None = None,
        data_workers: int = 1,
    ) -> None:
        """`window`: about how many shards are open at a time; it decides the order. `depth_order`:
        how relations of depth are made where they are needed. `decode_limit_s`: a thread that is
        at one micro-batch for longer is replaced. `kind`: where pictures are decoded; of `workers`,
        `hire` gets them, `data_workers` for each rank."""
        _check_batches(global_batch, micro_batch, world, threads)
        if not sources:
            raise ValueError("a loader needs at least one source")
        own_threads, decoders = (1, data_workers) if kind == "workers" else (threads, 1)
        check_budget(sources, window, world, own_threads, decoders)
        self._room = training_room(sources, window, own_threads)
        items = [
            read_items(source, sampling, number=number, label_fraction=label_fraction)
            for number, source in enumerate(sources)
        ]
        self.provides = provided(items)
        self._items, self._world, self._threads = items, world, threads
        self._global_batch, self._micro_batch = global_batch, micro_batch
        self._finish = Finish(
            items, needs, augment, seed, True, image_px, patch_px, torch.device(device), depth_order
        )
        self._transfer = Transfer(self._finish.device)
        self._decoder = Decoder(items, self._finish.labels, replaces=True, room=self._room)
        if kind != "inline":
            self._decoder.release()  # others decode
        self._kind, self._hire, self._limit_s = kind, hire, decode_limit_s
        labels = tuple(self._finish.labels)
        self._reading = Reading(
            *(tuple(sources), sampling, label_fraction, labels, micro_batch),
            layouts=self._decoder.layouts(micro_batch),
            room=self._room,
        )
        self._crew: Crew | None = None
        self.bad_records: list[BadRecord] = []
        """What was replaced in the batches handed out; whoever takes note of it empties it."""
        self.incidents: list[Incident] = []
        """The same of decoding that hung or was lost."""
        weights = [source.weight for source in sources]
        curricula = [i.curriculum(global_batch) for i in items]
        self._order = Order([i.by_shard() for i in items], weights, seed, window, curricula)
        self._taken = 0  # micro-batches handed out since the start of the sequence
        self._active: Prefetcher[Rows] | None = None
        self.wait_seconds = 0.0
        """Time spent inside the iterator so far: what training waited for data."""

    @property
    def samples_per_epoch(self) -> int:
        """Items in one epoch, over all ranks."""
        return self._order.items_per_epoch

    @property
    def items(self) -> list[Items]:
        """What each source offers."""
        return self._items

    def rows_at(self, place: int) -> Rows:
        """What the global batch is made of that begins with sample `place` of the sequence."""
        batch = self._global_batch
        rows = _rows_of(self._order, self._items, World(), batch, batch, place // batch)
        return next(rows)

    @property
    def _per_global_batch(self) -> int:
        return self._global_batch // (self._world.size * self._micro_batch)

    @property
    def _place(self) -> int:
        """The first sample of the first global batch that was not handed out whole."""
        return self._taken // self._per_global_batch * self._global_batch

    def state_dict(self) -> dict[str, int]:
        """The place of the first global batch that was not handed out whole."""
        epoch, cursor = divmod(self._place, self.samples_per_epoch)
        return {"epoch": epoch, "cursor": cursor}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a saved place; a running iterator ends."""
        epoch, cursor = int(state["epoch"]), int(state["cursor"])
        batches, rest = divmod(epoch * self.samples_per_epoch + cursor, self._global_batch)
        if epoch < 0 or not 0 <= cursor < self.samples_per_epoch or rest:
            raise ValueError(
                f"the saved place (epoch {epoch}, sample {cursor}) does not fit this data: an "
                f"epoch has {self.samples_per_epoch} samples, a global batch {self._global_batch}; "
                "use the collections and the global_batch of the run that saved it"
            )
        self._end()
        self._taken = batches * self._per_global_batch

    def _rows(self) -> Iterator[Rows]:
        """This rank's micro-batches from the current place on."""
        return _rows_of(
            self._order,
            self._items,
            self._world,
            self._global_batch,
            self._micro_batch,
            self._taken,
        )

    def __iter__(self) -> Iterator[Batch]:
        """Endless micro-batches on the device."""
        return self._run(decoded=False)

    def decoded(self) -> Iterator[Batch]:
        """The same micro-batches before augmentation, valid until the next: for measurements."""
        return self._run(decoded=True)

    def _run(self, decoded: bool) -> Iterator[Batch]:
        start = time.perf_counter()
        self._end()
        active = self._active = self._prefetcher()
        staging = self._items if self._crew is None or not self._crew.apart else []
        ahead = Ahead(self._order, staging, self._place)
        coming: Moving | None = None
        try:
            while (moving := coming or self._sent(active)) is not None:
                # the next one crosses while this one is computed with, if it is there already
                overlaps = self._transfer.overlaps and not decoded
                coming = self._sent(active) if overlaps and active.is_ready() else None
                buffer, batch = moving.buffer, moving.arrived()
                self._note(buffer.bad, active.hung)
                if not decoded:
                    batch = self._finish.augment(batch)
                    active.release(buffer)
                self._taken += 1
                ahead.reach(self._place)
                self.wait_seconds += time.perf_counter() - start
                yield batch
                start = time.perf_counter()
                if self._active is not active:
                    raise RuntimeError("this iterator has ended: the loader was closed or moved")
                if decoded:
                    active.release(buffer)
        finally:
            ahead.close()
            active.close()

    def _sent(self, active: Prefetcher[Rows]) -> Moving | None:
        """The next micro-batch on its way to the device; None after the last."""
        buffer = active.take()
        return None if buffer is None else self._transfer.send(buffer)

    def _prefetcher(self) -> Prefetcher[Rows]:
        """What makes the micro-batches from the current place on."""
        pinned = self._transfer.device.type == "cuda"
        beside = _AHEAD + 1 + self._transfer.overlaps
        if self._kind == "workers":
            crew = self._crew = self._crew or self._hired()
            buffers: Sequence[Buffer] = crew.buffers(pinned, beside)
            return Prefetcher(crew.fill, self._rows(), buffers, crew.threads)
        if self._kind == "resident" and not isinstance(self._decoder, Resident):
            self._decoder = Resident(
                *(self._items, self._finish.labels, self._room, self._world, self._threads)
            )
        reading = self._decoder.reading
        spare = partial(self._decoder.buffer, self._micro_batch, pinned)
        buffers = [spare() for _ in range(self._threads + beside)]
        return Prefetcher(
            *(self._decoder.fill, self._rows(), buffers, self._threads),
            limit_s=self._limit_s,
            spare=spare,
            doing=lambda thread: reading.get(thread, "a micro-batch"),
        )

    def _hired(self) -> Crew:
        if self._hire is None:
            raise ValueError(NO_CREW)
        return self._hire(self._reading, self._limit_s)

    def _note(self, bad: list[BadRecord], hung: list[str]) -> None:
        """Keep what went wrong for whoever takes note of it."""
        self.bad_records += bad
        self.incidents += [Incident("hung_decode", why) for why in hung]
        hung.clear()
        if self._crew is not None:
            self.incidents += self._crew.incidents()

    @property
    def core_seconds(self) -> float:
        """Processor time that other processes have used for it."""
        return self._crew.core_seconds if self._crew is not None else 0.0

    def _end(self) -> None:
        """End a running iterator."""
        if self._active is not None:
            self._active.close()
            self._active = None

    def close(self) -> None:
        """End what decodes, and let its copies go; iterating again starts anew."""
        if self._crew is not None:
            self._crew.close()  # first: threads may wait for it
            self._crew = None
        self._end()
        self._decoder.release()


def _check_batches(global_batch: int, micro_batch: int, world: World, threads: int) -> None:
    if micro_batch < 1 or global_batch < 1 or global_batch % (world.size * micro_batch):
        raise ValueError(
            f"global_batch must be a multiple of {world.size} processes x micro_batch "
            f"{micro_batch}, found {global_batch}"
        )
    if threads < 1:
        raise ValueError(f"threads must be at least 1, found {threads}")


def _rows_of(
    order: Order,
    sources: Sequence[Items],
    world: World,
    global_batch: int,
    micro_batch: int,
    skip: int,
) -> Iterator[Rows]:
    """Endless micro-batches of one rank, the first `skip` left out."""
    batch, skip = divmod(skip, global_batch // (world.size * micro_batch))
    while True:
        total = order.between(batch * global_batch, (batch + 1) * global_batch)
        kind = _gather(sources, total, "kind")
        # global batch / number of this kind in it: see fields.py
        weight = (len(total) / np.bincount(kind, minlength=2).clip(1))[kind]
        epoch = total.repeat * _uses(sources)[total.source] + _gather(sources, total, "use")
        share = len(total) // world.size
        mine = share_of_rank(total, world.rank, world.size)
        offset = world.rank * share
        for start in range(skip * micro_batch, share, micro_batch):
            here = slice(start, start + micro_batch)
            there = slice(offset + start, offset + start + micro_batch)
            yield Rows(
                mine.source[here],
                mine.item[here],
                epoch[there],
                weight[there].astype(np.float32),
                np.ones(micro_batch, bool),
            )
        batch, skip = batch + 1, 0


def _uses(sources: Sequence[Items]) -> np.ndarray:
    return np.array([items.uses for items in sources])


def _gather(sources: Sequence[Items], stretch: Stretch, column: str) -> np.ndarray:
    """A column of the items' tables along a stretch: (n,) int64."""
    values: np.ndarray = np.zeros(len(stretch), np.int64)
    for number, items in enumerate(sources):
        here = stretch.source == number
        values[here] = getattr(items, column)[stretch.item[here]]
    return values


def evaluation_batches(
    source: Source,
    *,
    needs: Sequence[str],
    sampling: Sampling,
    world: World,
    micro_batch: int,
    image_px: int,
    patch_px: int,
    device: torch.device | str = "cpu",
    limit: int | None = None,
    depth_order: DepthOrderConfig | None = None,
    order: np.ndarray | None = None,
    beside: Sequence[Collection] = (),
) -> Iterator[Batch]:
    """Every item of a source once over all ranks, in a fixed order that mixes subjects.

    No random crops or colours: whole stored crops.
    Every rank gets equally many batches of equal size; rows that fill up have valid = False.
    `limit`: at most so many items, spread over the subjects. `order`: these items instead of all,
    by their numbers, in this order. `beside`: collections with labels that this one may lack, as
    those that were trained on: of these every row says that it has none.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, or None for all; found {limit}")
    items = read_items(source, sampling)
    finish = Finish(
        [items],
        needs,
        AugmentConfig(),
        0,
        False,
        image_px,
        patch_px,
        torch.device(device),
        depth_order,
        beside,
    )
    room = evaluation_room(source.collection, world)
    decoder = Decoder([items], finish.labels, room=room, beside=beside)
    if order is None:
        order = evenly_mixed(items.subject[items.first], 0)
    rows = evaluation_rows(items, order[:limit], world, micro_batch)
    return _evaluate(decoder, finish, rows, micro_batch)


def evaluation_rows(items: Items, order: np.ndarray, world: World, micro_batch: int) -> list[Rows]:
    """This rank's batches: round k holds items [k*W*m, (k+1)*W*m), a contiguous share each."""
    together = world.size * micro_batch
    padded: np.ndarray = np.resize(order, -(-len(order) // together) * together)
    valid = np.arange(len(padded)) < len(order)
    counts = np.bincount(items.kind[order], minlength=2).clip(1)
    rows = []
    for start in range(world.rank * micro_batch, len(padded), together):
        here = slice(start, start + micro_batch)
        item = padded[here]
        weight = (len(order) / counts)[items.kind[item]].astype(np.float32)
        zeros: np.ndarray = np.zeros(micro_batch, np.int64)
        use = items.use[item].astype(np.int64)
        rows.append(Rows(zeros, item, use, weight, valid[here]))
    return rows


def _evaluate(
    decoder: Decoder, finish: Finish, rows: list[Rows], micro_batch: int
) -> Iterator[Batch]:
    transfer, pinned = Transfer(finish.device), finish.device.type == "cuda"
    buffers = [decoder.buffer(micro_batch, pinned) for _ in range(_AHEAD + 2)]
    active = Prefetcher(decoder.fill, iter(rows), buffers, threads=1)
    try:
        while (buffer := active.take()) is not None:
            batch = finish.augment(transfer.send(buffer).arrived())
            active.release(buffer)
            yield batch
    finally:
        active.close()
        decoder.release()
