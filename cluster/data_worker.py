"""One Ray data worker, from both sides: the actor that decodes, and what its trainer has of it.

One on the trainer's machine decodes into memory that both see (`lanes`); one elsewhere, or where
that memory is out of reach, hands its micro-batches over through Ray's object store.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from cluster.lanes import Asked, Lane, Server, Slot
from cluster.worker import plain_error
from hpse_dist.data.decode import Rows
from hpse_dist.data.decoding import Incident, Reading
from hpse_dist.data.prefetch import Buffer
from hpse_dist.data.shared import Place
from hpse_dist.data.substitutes import BadRecord

_log = logging.getLogger("hpse_dist.data_workers")

UNDER_WAY = 2  # micro-batches at one worker: the next is there when one is done
_START_S = 300.0  # for a worker to find its CPU and to start
_POLL_S = 0.5


Answer = tuple[list[BadRecord], float]
"""What was replaced in a micro-batch, and the processor time that its worker has used."""

Offer = tuple[str, Sequence[tuple[Place, Place]]]
"""A trainer's node, and where a worker on it finds its ends of the lanes."""


class Begun(NamedTuple):
    """What a worker says of itself when it has started."""

    process: int
    machine: str
    near: bool
    """Whether it answers on lanes."""
    why: str
    """What kept it from that on its trainer's machine."""


class DataWorker:
    """Runs in a Ray actor: a decoder for as long as the actor lives.

    An error is an answer, not Ray's affair.
    """

    def begin(self, reading: Reading, offer: Offer) -> Begun | Exception:
        """Make the decoder, and open the lanes on a machine that has them."""
        import ray

        torch.set_num_threads(1)
        node, lanes = offer
        self._server: Server | None = None
        self._buffer: Buffer | None = None
        near, why = ray.get_runtime_context().get_node_id() == node, ""
        try:
            self._decoder, self._layouts = reading.decoder(), reading.layouts
        except Exception as error:
            return _readable(error)
        if near:
            try:
                self._server = Server(lanes, self._layouts, reading.micro_batch, self._fill)
            except OSError as error:
                near, why = False, str(error)
        return Begun(os.getpid(), ray.util.get_node_ip_address(), near, why)

    def serve(self) -> None:
        """Answer on the lanes, if there are any, until the trainer is gone."""
        if self._server is not None:
            self._server.serve()

    def decode(self, rows: Rows) -> tuple[dict[str, np.ndarray], Answer] | Exception:
        """A micro-batch; its memory is used again, Ray has copied it before the next call."""
        self._buffer = self._buffer or Buffer(self._layouts, pinned=False)
        answer = self._fill(rows, self._buffer)
        return answer if isinstance(answer, Exception) else (self._buffer.arrays, answer)

    def _fill(self, rows: Rows, buffer: Buffer) -> Answer | Exception:
        try:
            return self._decoder.fill(rows, buffer).bad, time.process_time()
        except Exception as error:
            return _readable(error)


def _readable(error: Exception) -> Exception:
    """An error that the trainer can read."""
    return error if type(error) in (ValueError, OSError) else plain_error(error)


class Lost(Exception):
    """A worker is dead or hangs: what kind of incident that is, and why."""

    def __init__(self, incident: Incident) -> None:
        super().__init__(incident.why)
        self.incident = incident


class Hired:
    """The trainer's side of one data worker."""

    def __init__(self, actor: Any, reading: Any, node: str, name: str) -> None:
        self._actor, self._name = actor, name
        lanes = [Lane() for _ in range(UNDER_WAY)]
        offer: Offer = node, [lane.ends for lane in lanes]
        self._born, self._begun = time.monotonic(), actor.begin.remote(reading, offer)
        self._serving = actor.serve.remote()
        self._starting, self._lanes = threading.Lock(), lanes
        self._free: queue.SimpleQueue[Lane] | None = None
        """Of a worker that has started, on its trainer's machine."""
        self._started, self._ended = False, False
        self.core_seconds = 0.0

    def ask(
        self, rows: Rows, slot: Slot, patience_s: float | None
    ) -> tuple[dict[str, np.ndarray], list[BadRecord]]:
        """A micro-batch and what was replaced in it; `Lost` where there is no answer."""
        with self._starting:
            if not self._started:
                self._wait_until_started()
        if self._free is not None:
            bad, seconds = _said(self._on_lane(self._free, slot.write(rows), patience_s))
            arrays = slot.arrays
        else:
            call = _Call(self._actor.decode.remote(rows))
            arrays, (bad, seconds) = _said(self._wait(call, patience_s))
        self.core_seconds = max(self.core_seconds, seconds)
        return arrays, bad

    def _wait_until_started(self) -> None:
        import ray

        left = max(_POLL_S, self._born + _START_S - time.monotonic())
        try:
            begun: Begun = _said(self._wait(_Call(self._begun), left))
        except Lost as lost:
            if lost.incident.kind == "lost_data_worker":
                raise
            free = ray.available_resources().get("CPU", 0.0)
            raise TimeoutError(
                f"{self._name} has not started within {_START_S:g} s; the cluster has {free:g} "
                "free CPUs: ask for fewer machine.data_workers, or add machines"
            ) from None
        self._name = f"{self._name} (process {begun.process} on {begun.machine})"
        if begun.why:
            _log.warning(
                "%s does not reach its trainer's memory (%s): its micro-batches go through Ray's "
                "object store, which costs more",
                *(self._name, begun.why),
            )
        if begun.near:
            self._free = queue.SimpleQueue()
            for lane in self._lanes:
                lane.keep_mine()
                self._free.put(lane)
        self._started = True

    def _on_lane(
        self, free: queue.SimpleQueue[Lane], asked: Asked, patience_s: float | None
    ) -> Answer | Exception:
        lane = free.get()
        try:
            lane.send(asked)
        except OSError as error:
            raise self._died(error) from None
        found = self._wait(_OnLane(lane, self._serving), patience_s)
        free.put(lane)  # not one on which an answer may yet come, to what nobody asks any more
        return found

    def _wait(self, answer: _Call | _OnLane, patience_s: float | None) -> Any:
        import ray

        began = time.monotonic()
        try:
            while not answer.there(_POLL_S):
                if self._ended:  # another that asked has given it up
                    raise Lost(Incident("lost_data_worker", f"{self._name} was ended"))
                passed = time.monotonic() - began
                if patience_s is not None and passed > patience_s:
                    why = f"{self._name} has been at a micro-batch for {passed:.0f} s"
                    raise Lost(Incident("hung_decode", why))
            return answer.get()
        except ray.exceptions.RayTaskError:
            raise  # the worker lives: a fault of the program
        except (ray.exceptions.RayError, EOFError, OSError) as error:
            raise self._died(error) from None  # killed, out of memory, machine lost

    def _died(self, error: Exception) -> Lost:
        why = f"{self._name} died ({type(error).__name__})"
        return Lost(Incident("lost_data_worker", why))

    def end(self) -> None:
        """Ray kills one that is stopped too, some seconds later."""
        import ray

        self._ended = True
        if ray.is_initialized():  # else it has ended with Ray
            ray.kill(self._actor)


def _said(answer: Any) -> Any:
    """An answer that is no error."""
    if isinstance(answer, Exception):
        raise answer
    return answer


class _Call:
    """The answer to a call of Ray's."""

    def __init__(self, reference: Any) -> None:
        self._reference = reference

    def there(self, seconds: float) -> bool:
        """Wait for it so long."""
        import ray

        return bool(ray.wait([self._reference], timeout=seconds)[0])

    def get(self) -> Any:
        """It, or the error that Ray has in its place."""
        import ray

        return ray.get(self._reference)


class _OnLane:
    """The answer on a lane of a worker that is `serving`, which is a call of Ray's."""

    def __init__(self, lane: Lane, serving: Any) -> None:
        self._lane, self._serving = lane, _Call(serving)

    def there(self, seconds: float) -> bool:
        """Wait for it so long. A worker's end may stay unseen on its lanes, where a process that
        was forked here has inherited them; so Ray is asked too."""
        return self._lane.poll(seconds) or self._serving.there(0.0)

    def get(self) -> Any:
        """It; EOFError or what Ray says where the worker is gone."""
        if not self._lane.poll(0.0):
            self._serving.get()
            raise EOFError
        return self._lane.receive()
