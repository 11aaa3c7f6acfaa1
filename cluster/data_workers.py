"""Ray data workers: processes that decode for a trainer, each a `data_worker.Hired`.

What a worker does follows from the rows it is asked for, and these from the trainer's place in the
data: so a worker that dies or hangs is replaced, and its micro-batches are asked for again. At most
two micro-batches are under way at each worker, and a few wait for the trainer. A worker is owned by
its trainer and ends with it, however that ends.
"""

from __future__ import annotations

import logging
import queue
import threading
import warnings
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cluster.data_worker import UNDER_WAY, DataWorker, Hired, Lost
from cluster.lanes import Slot
from cluster.resources import Need, Node, data_apart, data_crowding
from hpse_dist.data.decode import Rows
from hpse_dist.data.decoding import Incident, Reading
from hpse_dist.data.prefetch import Buffer, Layout
from hpse_dist.data.substitutes import BadRecord
from hpse_dist.meter import free_memory

_log = logging.getLogger("hpse_dist.data_workers")

_TRIES = 3  # of a micro-batch, each with twice the patience of the one before


@dataclass(frozen=True)
class DataWorkers:
    """How many data workers each trainer has, and where: `hpse_dist.data.decoding.Hire`."""

    count: int
    apart: bool = False
    """False: on the trainer's machine, within the CPUs that the trainer has reserved there. True:
    with a CPU each, wherever in the cluster there are some."""

    def __call__(self, reading: Reading, limit_s: float | None) -> _Crew:
        return _Crew(self, reading, limit_s)


def hiring(need: Need, count: int, nodes: Sequence[Node]) -> DataWorkers | None:
    """`count` data workers for each worker of a run, and where they are to be."""
    apart = data_apart(need, count, nodes)
    crowded = None if apart else data_crowding(need, count)
    if crowded:
        _log.warning(crowded)
    return DataWorkers(count, apart) if count else None


class _Crew:
    """The data workers of one trainer: `hpse_dist.data.decoding.Crew`."""

    def __init__(self, asked: DataWorkers, reading: Reading, limit_s: float | None) -> None:
        import ray

        self._asked, self._limit_s = asked, limit_s
        self._batch, self._layouts = reading.micro_batch, reading.layouts
        self._buffers: list[Buffer] = []
        self._node = ray.get_runtime_context().get_node_id()
        self._actor = ray.remote(DataWorker).options(**_place(asked), max_restarts=0)
        self._reading = ray.put(reading)
        self._incidents: list[Incident] = []
        self._gone_seconds = 0.0
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._workers = [self._hire(number) for number in range(asked.count)]
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in list(range(asked.count)) * UNDER_WAY:
            self._free.put(number)
        self._stop = weakref.finalize(self, _end, self._workers, self._closed)
        _warn_no_more()

    @property
    def threads(self) -> int:
        return self._asked.count * UNDER_WAY

    @property
    def apart(self) -> bool:
        return self._asked.apart

    @property
    def core_seconds(self) -> float:
        return self._gone_seconds + sum(worker.core_seconds for worker in self._workers)

    def _hire(self, number: int) -> Hired:
        name = f"data worker {number}"
        return Hired(self._actor.remote(), self._reading, self._node, name)

    def buffers(self, pinned: bool, ahead: int) -> Sequence[Buffer]:
        """Each with a slot: no memory yet, and none for workers on other machines."""
        if not self._buffers:
            count = self.threads + ahead
            slots = [Slot(number, self._layouts, self._batch) for number in range(count)]
            if not self.apart:
                _check_room(sum(slot.size for slot in slots))
            layouts = self._layouts if pinned else {}
            self._buffers = [_Landing(slot, layouts, pinned) for slot in slots]
        return self._buffers

    def fill(self, rows: Rows, buffer: Buffer) -> Buffer:
        """A micro-batch; on a GPU's way it is copied into pinned memory, else left where it is."""
        assert isinstance(buffer, _Landing)
        if buffer.copied is not None:
            buffer.copied.synchronize()
        arrays, bad = self._ask(rows, buffer.slot)
        buffer.hold(arrays)
        buffer.bad = bad
        return buffer

    def _ask(self, rows: Rows, slot: Slot) -> tuple[dict[str, np.ndarray], list[BadRecord]]:
        number = self._free.get()
        try:
            for attempt in range(_TRIES):
                worker = self._workers[number]
                patience_s = self._limit_s and self._limit_s * 2**attempt
                try:
                    return worker.ask(rows, slot, patience_s)
                except Lost as lost:
                    if self._closed.is_set():
                        raise RuntimeError("the data workers have been ended") from None
                    slot.renew()
                    self._replace(number, worker, lost.incident)
                    last = lost
        finally:
            self._free.put(number)
        raise ChildProcessError(
            f"{last}, and {_TRIES - 1} others were lost at the same micro-batch before it: memory "
            "may be short, or the disk or the store does not answer; look at it, try fewer "
            "machine.data_workers, or raise machine.decode_limit_s"
        )

    def _replace(self, number: int, worker: Hired, incident: Incident) -> None:
        """Another takes the place of a worker, unless one has already: two may ask the same."""
        with self._lock:
            if self._workers[number] is not worker:
                return
            worker.end()
            self._gone_seconds += worker.core_seconds
            self._workers[number] = self._hire(number)
            self._incidents.append(incident)
            if self._closed.is_set():
                self._workers[number].end()
        _log.warning("%s: another takes its place", incident.why)

    def incidents(self) -> Sequence[Incident]:
        with self._lock:
            found, self._incidents = self._incidents, []
        return found

    def close(self) -> None:
        self._stop()


class _Landing(Buffer):
    """Where a micro-batch lands; with page-locked memory of its own it copies what it is given."""

    def __init__(self, slot: Slot, layouts: Mapping[str, Layout], pinned: bool) -> None:
        super().__init__(dict(layouts), pinned)
        self.slot, self._pinned = slot, pinned

    def hold(self, arrays: dict[str, np.ndarray]) -> None:
        if not self._pinned:
            super().hold(arrays)
            return
        for name, array in arrays.items():
            self.arrays[name][...] = array


def _check_room(size: int) -> None:
    free = free_memory()
    if size > free:
        raise ValueError(
            f"machine.loader is workers, whose micro-batches under way take {size / 1e9:.3g} GB of "
            f"memory, and {free / 1e9:.3g} GB are free here; lower machine.micro_batch or "
            "machine.data_workers"
        )


def _end(workers: Sequence[Hired], closed: threading.Event) -> None:
    closed.set()
    for worker in workers:
        worker.end()


def _place(asked: DataWorkers) -> dict[str, Any]:
    """Ray's options for where a data worker runs."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if asked.apart:
        return {"num_cpus": 1, "scheduling_strategy": "SPREAD"}
    here = ray.get_runtime_context().get_node_id()
    # no CPU of Ray's: the trainer's own reservation covers it
    strategy = NodeAffinitySchedulingStrategy(here, soft=False)
    return {"num_cpus": 0, "scheduling_strategy": strategy}


def _warn_no_more() -> None:
    """Let torch say here, unheard, what it says once: that it cannot protect arrays that are only
    to be read. Nothing writes into a micro-batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.from_numpy(np.frombuffer(b"\0", np.uint8))
