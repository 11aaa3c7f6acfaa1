"""Ray data workers: processes that decode for a trainer, through Ray's shared-memory object store.

What a worker does follows from the rows it is asked for, and these from the trainer's place in the
data: so a worker that dies or hangs is replaced, and its micro-batches are asked for again. At most
two micro-batches are under way at each worker, and a few wait for the trainer. A worker is owned by
its trainer and ends with it, however that ends.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
import warnings
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cluster.resources import Need, Node, data_apart, data_crowding
from cluster.worker import plain_error
from hpse_dist.data.decode import Rows
from hpse_dist.data.decoding import Incident, Reading
from hpse_dist.data.prefetch import Buffer
from hpse_dist.data.substitutes import BadRecord

_log = logging.getLogger("hpse_dist.data_workers")

_TRIES = 3  # of a micro-batch, each with twice the patience of the one before
_UNDER_WAY = 2  # micro-batches at one worker: the next is there when one is done
_START_S = 300.0  # for a worker to find its CPU and to start
_POLL_S = 0.5


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


Answer = tuple[dict[str, np.ndarray], list[BadRecord], float]
"""A micro-batch, what was replaced in it, and the processor time that its worker has used."""


class DataWorker:
    """Runs in a Ray actor: a decoder for as long as the actor lives.

    An error is an answer, not Ray's affair.
    """

    def begin(self, reading: Reading) -> tuple[int, str] | Exception:
        """Make the decoder; its process and machine."""
        import ray

        torch.set_num_threads(1)
        try:
            self._decoder = reading.decoder()
            self._buffer = self._decoder.buffer(reading.micro_batch, pinned=False)
            return os.getpid(), ray.util.get_node_ip_address()
        except Exception as error:
            return _readable(error)

    def decode(self, rows: Rows) -> Answer | Exception:
        """A micro-batch; its memory is used again, Ray has copied it before the next call."""
        try:
            filled = self._decoder.fill(rows, self._buffer)
            return filled.arrays, filled.bad, time.process_time()
        except Exception as error:
            return _readable(error)


def _readable(error: Exception) -> Exception:
    """An error that the trainer can read."""
    return error if type(error) in (ValueError, OSError) else plain_error(error)


class _Lost(Exception):
    """A worker is dead or hangs: what kind of incident that is, and why."""

    def __init__(self, incident: Incident) -> None:
        super().__init__(incident.why)
        self.incident = incident


class _Worker:
    """The trainer's side of one data worker."""

    def __init__(self, actor: Any, reading: Any, name: str) -> None:
        self._actor, self._name = actor, name
        self._born, self._begun = time.monotonic(), actor.begin.remote(reading)
        self.core_seconds = 0.0
        self._ended = False

    def ask(self, rows: Rows, patience_s: float | None) -> tuple[dict[str, np.ndarray], Any]:
        """A micro-batch and what was replaced in it; `_Lost` where there is no answer."""
        self._wait_until_started()
        arrays, bad, seconds = self._wait(self._actor.decode.remote(rows), patience_s)
        self.core_seconds = max(self.core_seconds, seconds)
        return arrays, bad

    def _wait_until_started(self) -> None:
        import ray

        left = max(_POLL_S, self._born + _START_S - time.monotonic())
        try:
            process, machine = self._wait(self._begun, left)
        except _Lost as lost:
            if lost.incident.kind == "lost_data_worker":
                raise
            free = ray.available_resources().get("CPU", 0.0)
            raise TimeoutError(
                f"{self._name} has not started within {_START_S:g} s; the cluster has {free:g} "
                "free CPUs: ask for fewer machine.data_workers, or add machines"
            ) from None
        self._name = f"{self._name.partition(' (')[0]} (process {process} on {machine})"

    def _wait(self, answer: Any, patience_s: float | None) -> Any:
        import ray

        began = time.monotonic()
        try:
            while not ray.wait([answer], timeout=_POLL_S)[0]:
                if self._ended:  # another that asked has given it up
                    raise _Lost(Incident("lost_data_worker", f"{self._name} was ended"))
                passed = time.monotonic() - began
                if patience_s is not None and passed > patience_s:
                    why = f"{self._name} has been at a micro-batch for {passed:.0f} s"
                    raise _Lost(Incident("hung_decode", why))
            found = ray.get(answer)
        except ray.exceptions.RayTaskError:
            raise  # the worker lives: a fault of the program
        except ray.exceptions.RayError as error:  # killed, out of memory, machine lost
            why = f"{self._name} died ({type(error).__name__})"
            raise _Lost(Incident("lost_data_worker", why)) from None
        if isinstance(found, Exception):
            raise found
        return found

    def end(self) -> None:
        """Ray kills one that is stopped too, some seconds later."""
        import ray

        self._ended = True
        if ray.is_initialized():  # else it has ended with Ray
            ray.kill(self._actor)


class _Crew:
    """The data workers of one trainer: `hpse_dist.data.decoding.Crew`."""

    def __init__(self, asked: DataWorkers, reading: Reading, limit_s: float | None) -> None:
        import ray

        self._asked, self._limit_s = asked, limit_s
        self._actor = ray.remote(DataWorker).options(**_place(asked), max_restarts=0)
        self._reading = ray.put(reading)
        self._incidents: list[Incident] = []
        self._gone_seconds = 0.0
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._workers = [self._hire(number) for number in range(asked.count)]
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in list(range(asked.count)) * _UNDER_WAY:
            self._free.put(number)
        self._stop = weakref.finalize(self, _end, self._workers, self._closed)
        _warn_no_more()

    @property
    def threads(self) -> int:
        return self._asked.count * _UNDER_WAY

    @property
    def apart(self) -> bool:
        return self._asked.apart

    @property
    def core_seconds(self) -> float:
        return self._gone_seconds + sum(worker.core_seconds for worker in self._workers)

    def _hire(self, number: int) -> _Worker:
        return _Worker(self._actor.remote(), self._reading, f"data worker {number}")

    def buffer(self, batch: int, pinned: bool) -> Buffer:
        """Pinned memory is made as large as the first micro-batch it gets."""
        return _Pinned() if pinned else Buffer({}, pinned=False)

    def fill(self, rows: Rows, buffer: Buffer) -> Buffer:
        """A micro-batch; on a GPU's way it is copied into pinned memory, else left where it is."""
        if buffer.copied is not None:
            buffer.copied.synchronize()
        arrays, bad = self._ask(rows)
        buffer.hold(arrays)
        buffer.bad = bad
        return buffer

    def _ask(self, rows: Rows) -> tuple[dict[str, np.ndarray], list[BadRecord]]:
        number = self._free.get()
        try:
            for attempt in range(_TRIES):
                worker = self._workers[number]
                patience_s = self._limit_s and self._limit_s * 2**attempt
                try:
                    return worker.ask(rows, patience_s)
                except _Lost as lost:
                    if self._closed.is_set():
                        raise RuntimeError("the data workers have been ended") from None
                    self._replace(number, worker, lost.incident)
                    last = lost
        finally:
            self._free.put(number)
        raise ChildProcessError(
            f"{last}, and {_TRIES - 1} others were lost at the same micro-batch before it: memory "
            "may be short, or the disk or the store does not answer; look at it, try fewer "
            "machine.data_workers, or raise machine.decode_limit_s"
        )

    def _replace(self, number: int, worker: _Worker, incident: Incident) -> None:
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


class _Pinned(Buffer):
    """Page-locked memory of its own, which copies what it is given."""

    def __init__(self) -> None:
        super().__init__({}, pinned=True)

    def hold(self, arrays: dict[str, np.ndarray]) -> None:
        if not self.tensors:
            layouts = {name: (array.shape, array.dtype) for name, array in arrays.items()}
            super().__init__(layouts, pinned=True)
        for name, array in arrays.items():
            self.arrays[name][...] = array


def _end(workers: Sequence[_Worker], closed: threading.Event) -> None:
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
