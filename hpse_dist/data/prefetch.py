"""Buffers of micro-batches, filled on threads in order; a thread that hangs is replaced."""

from __future__ import annotations

import logging
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from hpse_dist.data.substitutes import BadRecord

_log = logging.getLogger(__name__)

Job = TypeVar("Job")
Layout = tuple[tuple[int, ...], np.dtype]  # (shape, dtype)
_POLL_S = 0.5
_TRIES = 3  # of a micro-batch, each with twice the patience of the one before


class Buffer:
    """Host memory for one micro-batch; on CUDA page-locked, and busy until a copy is through."""

    def __init__(self, layouts: dict[str, Layout], pinned: bool) -> None:
        self.tensors: dict[str, Tensor] = {}
        for name, (shape, dtype) in layouts.items():
            kind = torch.from_numpy(np.empty(0, dtype)).dtype
            self.tensors[name] = torch.empty(shape, dtype=kind, pin_memory=pinned)
        self.arrays = {name: tensor.numpy() for name, tensor in self.tensors.items()}
        self.copied: torch.cuda.Event | None = None
        self.bad: list[BadRecord] = []
        """Records that another stands for, since they cannot be decoded."""

    def hold(self, arrays: dict[str, np.ndarray]) -> None:
        """Be these arrays, which are only read, until it holds others."""
        self.arrays = arrays
        self.tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}


@dataclass(eq=False)
class _Task(Generic[Job]):
    """A micro-batch on its way."""

    job: Job
    buffer: Buffer
    tries: int = 1
    result: Future[Buffer] = field(default_factory=Future)
    thread: threading.Thread | None = None
    began: float = 0.0
    left: bool = False
    """Nobody waits for it any more: its thread hung."""


class Prefetcher(Generic[Job]):
    """Fills buffers for a stream of jobs on `threads` threads, a few ahead, results in order.

    The threads hold nothing of this object, so that dropping it ends them; `close` does so at
    once. What a thread raises, its death included, is raised by `take`. A thread that takes longer
    than `limit_s` is left to itself, and another does its work into memory of its own (`spare`);
    `doing` says by a thread's number what it is at.
    """

    def __init__(
        self,
        fill: Callable[[Job, Buffer], Buffer],
        jobs: Iterator[Job],
        buffers: Sequence[Buffer],
        threads: int,
        limit_s: float | None = None,
        spare: Callable[[], Buffer] | None = None,
        doing: Callable[[int], str] = lambda _: "a micro-batch",
    ) -> None:
        self._jobs, self._fill = jobs, fill
        self._free = list(buffers)
        self._limit_s, self._spare, self._doing = limit_s, spare, doing
        self.hung: list[str] = []
        """What threads that hung were at."""
        self._running: deque[_Task[Job]] = deque()
        self._todo: queue.SimpleQueue[_Task[Job] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        for _ in range(threads):
            self._start()
        self._stop = weakref.finalize(self, _end, self._todo, self._threads)
        self._submit()

    def _start(self) -> None:
        name = f"decode-{len(self._threads)}"
        thread = threading.Thread(
            target=_work, args=(self._todo, self._fill), name=name, daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def _submit(self) -> None:
        while self._free:
            job = next(self._jobs, None)
            if job is None:
                return
            task = _Task(job, self._free.pop())
            self._running.append(task)
            self._todo.put(task)

    def is_ready(self) -> bool:
        """Whether `take` has a buffer at once, and nothing to raise."""
        if not self._running:
            return False
        result = self._running[0].result
        return result.done() and result.exception() is None

    def take(self) -> Buffer | None:
        """The next filled buffer, or None after the last; give it back with `release`."""
        if not self._running:
            return None
        while True:
            task = self._running[0]
            try:
                error = task.result.exception(timeout=_POLL_S)
                break
            except NotYet:
                if not all(thread.is_alive() for thread in self._threads) and (
                    not task.result.done()
                ):
                    self.close()
                    raise RuntimeError("a decoding thread has died; its batch is lost") from None
                for place, one in enumerate(self._running):  # the next may wait for a later one
                    if self._hangs(one):
                        self._running[place] = self._begun_again(one)
        self._running.popleft()
        if error is None:
            return task.result.result()
        self.close()
        if isinstance(error, Exception):
            raise error
        raise RuntimeError(f"a decoding thread was ended by {type(error).__name__}") from error

    def _hangs(self, task: _Task[Job]) -> bool:
        if self._limit_s is None or task.thread is None:
            return False
        patience = self._limit_s * 2 ** (task.tries - 1)
        return time.monotonic() - task.began > patience and not task.result.done()

    def _begun_again(self, task: _Task[Job]) -> _Task[Job]:
        """Leave a thread that hangs to itself, and give its work to a new one."""
        assert task.thread is not None and self._spare is not None
        seconds = time.monotonic() - task.began
        said = f"{task.thread.name} has been at {self._doing(task.thread.ident or 0)}"
        said += f" for {seconds:.0f} s"
        task.left = True
        self._threads.remove(task.thread)
        self.hung.append(said)
        if task.tries == _TRIES:
            self.close()
            raise TimeoutError(
                f"{said}, and so did {_TRIES - 1} others before it: the disk or the store does not "
                "answer; look at it, or raise machine.decode_limit_s"
            )
        _log.warning("%s: another thread does its work", said)
        again = _Task(task.job, self._spare(), task.tries + 1)
        self._start()
        self._todo.put(again)
        return again

    def release(self, buffer: Buffer) -> None:
        """The contents are no longer needed: the buffer may be filled again."""
        self._free.append(buffer)
        self._submit()

    def close(self) -> None:
        """End the threads; calling this twice is fine."""
        self._stop()


def _work(
    todo: queue.SimpleQueue[_Task[Job] | None], fill: Callable[[Job, Buffer], Buffer]
) -> None:
    """A decoding thread: fill buffers until None comes."""
    while (task := todo.get()) is not None:
        task.began, task.thread = time.monotonic(), threading.current_thread()
        try:
            task.result.set_result(fill(task.job, task.buffer))
        except BaseException as error:
            task.result.set_exception(error)
        if task.left:  # it hung, and has been replaced
            return
        del task


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
