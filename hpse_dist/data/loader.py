"""From collections to micro-batches on the device.

The sequence of global batches depends on the sources, the seed and the batch size alone: not on
the number of processes or threads. A rank takes a contiguous share of each global batch. The state
is a place in that sequence, so resuming in the middle of an epoch is exact.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hpse_dist.data.ahead import Ahead, check_budget
from hpse_dist.data.augment import AugmentConfig, augment
from hpse_dist.data.decode import Decoder, Rows, provided
from hpse_dist.data.depth_order import FIELDS as DEPTH_FIELDS
from hpse_dist.data.depth_order import DepthOrder, DepthOrderConfig, basis
from hpse_dist.data.items import FLAGS, Items, Source, read_items
from hpse_dist.data.mirror import Mirror, chosen, mirror_of, mirrored
from hpse_dist.data.order import Order, Stretch, evenly_mixed, share_of_rank
from hpse_dist.data.prefetch import Buffer, Prefetcher
from hpse_dist.data.substitutes import BadRecord
from hpse_dist.draws import uniform
from hpse_dist.fields import FIELDS, Batch, missing
from hpse_dist.world import World

__all__ = ["Loader", "Source", "evaluation_batches"]

Sampling = Literal["pairs", "frames"]
_AHEAD = 2  # micro-batches decoded or waiting, besides one per thread and the consumer's


class Loader:
    """An endless iterator of micro-batches with a place that can be saved.

    Iterating goes on from the current place; one iterator at a time. `close` ends its threads, and
    so does dropping the iterator.
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
    ) -> None:
        """`window`: about how many shards are open at a time; it decides the order. `depth_order`:
        how relations of depth are made where they are needed. `decode_limit_s`: a thread that is
        at one micro-batch for longer is replaced."""
        _check_batches(global_batch, micro_batch, world, threads)
        if not sources:
            raise ValueError("a loader needs at least one source")
        items = [
            read_items(source, sampling, number=number, label_fraction=label_fraction)
            for number, source in enumerate(sources)
        ]
        self.provides = provided(items)
        self._items, self._world, self._threads = items, world, threads
        self._global_batch, self._micro_batch = global_batch, micro_batch
        self._finish = _Finish(
            items, needs, augment, seed, True, image_px, patch_px, torch.device(device), depth_order
        )
        self._decoder = Decoder(items, self._finish.labels, replaces=True)
        self._limit_s = decode_limit_s
        self.bad_records: list[BadRecord] = []
        """What was replaced in the batches handed out; whoever takes note of it empties it."""
        self.hung: list[str] = []
        """The same of threads that hung."""
        weights = [source.weight for source in sources]
        check_budget(sources, window)
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
        self.close()
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
        self.close()
        pinned = self._finish.device.type == "cuda"
        reading = self._decoder.reading
        spare = partial(self._decoder.buffer, self._micro_batch, pinned)
        buffers = [spare() for _ in range(self._threads + _AHEAD + 1)]
        active = Prefetcher(
            *(self._decoder.fill, self._rows(), buffers, self._threads),
            limit_s=self._limit_s,
            spare=spare,
            doing=lambda thread: reading.get(thread, "a micro-batch"),
        )
        self._active = active
        ahead = Ahead(self._order, self._items, self._place)
        try:
            while (buffer := active.take()) is not None:
                self.bad_records += buffer.bad
                self.hung += active.hung
                active.hung.clear()
                batch = self._finish.move(buffer)
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

    def close(self) -> None:
        """End the decoding threads; iterating again starts new ones."""
        if self._active is not None:
            self._active.close()
            self._active = None


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


class _Finish:
    """What happens to a filled buffer: to the device, augmented, only what is needed."""

    def __init__(
        self,
        sources: Sequence[Items],
        needs: Sequence[str],
        config: AugmentConfig,
        seed: int,
        train: bool,
        image_px: int,
        patch_px: int,
        device: torch.device,
        depth_order: DepthOrderConfig | None = None,
    ) -> None:
        provides = provided(sources)
        lacking = missing([name for name in needs if name != "valid"], provides)
        if lacking:
            folders = ", ".join(str(items.source.collection.folder) for items in sources)
            raise ValueError(
                f"{folders}: no field {', '.join(lacking)}; there are {', '.join(provides)}"
            )
        self._needs, self._config, self._seed, self._train = tuple(needs), config, seed, train
        self._px, self._patch_px, self.device = image_px, patch_px, device
        made = {"image", "image_ref", "sample_id", "epoch", "subject", "pair_kind"}
        made |= {"pair_weight", *FLAGS, "valid"}
        self.labels = [name for name in FIELDS if name in needs and name not in made]
        self._depth_order: DepthOrder | None = None
        if {*needs} & {*DEPTH_FIELDS}:
            self._make_depth_order(sources, depth_order)
        if train and config.rotation_deg > 0:
            self._read_for_rotation(provides)
        self._mirror: Mirror | None = None
        if train and config.flip > 0:
            self._read_for_flip(sources, provides)

    def _make_depth_order(self, sources: Sequence[Items], config: DepthOrderConfig | None) -> None:
        """Where relations of depth are not stored they are made of the stored joints."""
        collections = [items.source.collection for items in sources]
        if all("depth_pairs" in collection.fields for collection in collections):
            return
        found = basis(collections)
        assert found is not None  # since they are provided
        self._joints, joint_set = found
        self._depth_order = DepthOrder(joint_set, config)
        self.labels = [name for name in self.labels if name not in DEPTH_FIELDS]
        self.labels += [self._joints] if self._joints not in self.labels else []

    def _relations(self, raw: Batch) -> Batch:
        """Relations of depth, of the joints as they are stored: whole and upright."""
        assert self._depth_order is not None
        people = raw[self._joints]
        people = people if people.ndim == 4 else people[:, None]
        if not self._train:
            return self._depth_order(people)
        couples = people.shape[1] * (people.shape[1] - 1) // 2
        draw = uniform(self._seed, "depth_order", raw["epoch"], raw["sample_id"], couples)
        return self._depth_order(people, (draw * people.shape[2]).long())

    def _read_for_rotation(self, provides: Sequence[str]) -> None:
        """Turning the camera needs its matrix, and turning a body its pelvis."""
        placed = bool({"transl", "hand_transl"} & {*self.labels})
        if placed and "joints3d" not in provides:
            raise ValueError(
                "rotation_deg above 0 with a field transl needs joints3d (its first joint is the "
                "root), which these collections do not hold; set rotation_deg to 0"
            )
        extra = ["intrinsics", *(["joints3d"] if placed else [])]
        self.labels += [n for n in extra if n in provides and n not in self.labels]

    def _read_for_flip(self, sources: Sequence[Items], provides: Sequence[str]) -> None:
        """Mirroring a body needs its pelvis, where that is known."""
        if "transl" in self.labels and "joints3d" in provides and "joints3d" not in self.labels:
            self.labels.append("joints3d")
        names = [*self._needs, *self.labels]
        self._mirror = mirror_of([items.source.collection for items in sources], names)

    def move(self, buffer: Buffer) -> Batch:
        """A buffer's contents on the device; on the CPU the buffer itself."""
        if self.device.type != "cuda":
            return dict(buffer.tensors)
        batch = {
            name: tensor.to(self.device, non_blocking=True)
            for name, tensor in buffer.tensors.items()
        }
        buffer.copied = torch.cuda.Event()
        buffer.copied.record()
        return batch

    def augment(self, raw: Batch) -> Batch:
        """The needed fields of a batch; nothing of it shares memory with `raw`."""
        if self._mirror is not None:
            rows = chosen(raw, self._config.flip, self._seed)
            raw = mirrored(raw, rows, self._mirror)
        fields = augment(
            raw,
            self._config,
            seed=self._seed,
            train=self._train,
            image_px=self._px,
            patch_px=self._patch_px,
        )
        if self._depth_order is not None:
            fields |= self._relations(raw)
        wanted = [*self._needs, *([] if self._train else ["valid"])]
        return {name: _own(fields[name], raw.get(name)) for name in dict.fromkeys(wanted)}


def _own(value: Tensor, source: Tensor | None) -> Tensor:
    """`value`, copied where it is still the buffer's memory."""
    if source is not None and value.data_ptr() == source.data_ptr():
        return value.clone()
    return value


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
    augment: AugmentConfig | None = None,
    depth_order: DepthOrderConfig | None = None,
    order: np.ndarray | None = None,
) -> Iterator[Batch]:
    """Every item of a source once over all ranks, in a fixed order that mixes subjects.

    No random crops or colours: the middle of what `augment` would draw, or the whole stored crop.
    Every rank gets equally many batches of equal size; rows that fill up have valid = False.
    `limit`: at most so many items, spread over the subjects. `order`: these items instead of all,
    by their numbers, in this order.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, or None for all; found {limit}")
    items = read_items(source, sampling)
    config = augment or AugmentConfig(crop_scale=(1.0, 1.0))
    finish = _Finish(
        [items], needs, config, 0, False, image_px, patch_px, torch.device(device), depth_order
    )
    decoder = Decoder([items], finish.labels)
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
        rows.append(Rows(zeros, item, items.use[item], weight, valid[here]))
    return rows


def _evaluate(
    decoder: Decoder, finish: _Finish, rows: list[Rows], micro_batch: int
) -> Iterator[Batch]:
    pinned = finish.device.type == "cuda"
    buffers = [decoder.buffer(micro_batch, pinned) for _ in range(_AHEAD + 2)]
    active = Prefetcher(decoder.fill, iter(rows), buffers, threads=1)
    try:
        while (buffer := active.take()) is not None:
            batch = finish.augment(finish.move(buffer))
            active.release(buffer)
            yield batch
    finally:
        active.close()
