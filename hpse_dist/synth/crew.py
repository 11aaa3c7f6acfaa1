"""Sequences rendered in parts, in order, on one process or several.

A process that dies ends the stream with an error; nothing waits for it.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import cv2
import torch

from hpse_dist.records import FrameRecord, Reject

Records = list[FrameRecord | Reject]


def in_order(
    studio_of: Callable[[Any], Any], config: Any, jobs: list[tuple[int, int]], processes: int
) -> Iterator[FrameRecord | Reject]:
    """`studio_of(config).sequence(*job)` of every job, in order, on so many processes (0: all)."""
    with closing(Sequences(studio_of, config, jobs, len(jobs), processes)) as parts:
        yield from parts.frames(0) or ()


class Sequences:
    """Sequences to render, `together` of them in each part, on so many processes (0: all).

    Asked for in order, parts are rendered without a pause between them.
    """

    def __init__(
        self,
        studio_of: Callable[[Any], Any],
        config: Any,
        jobs: list[tuple[int, int]],
        together: int,
        processes: int,
    ) -> None:
        if processes < 0:
            raise ValueError(f"processes must be 0 (all cores) or more, found {processes}")
        self._studio_of, self._config, self._jobs = studio_of, config, jobs
        self.count = -(-len(jobs) // together)
        self._starts = [len(jobs) * number // self.count for number in range(self.count + 1)]
        self._processes = min(processes or len(os.sched_getaffinity(0)), len(jobs))
        self._studio: Any = None
        self._stream: Generator[Iterable[FrameRecord | Reject], None, None] | None = None
        self._next = -1  # part that the stream stands before

    def frames(self, number: int) -> Iterator[FrameRecord | Reject] | None:
        """A part's records; None after the last part."""
        if number >= self.count:
            return None
        if self._studio is None:  # makes the free body once, before several processes ask for it
            self._studio = self._studio_of(self._config)
        if number != self._next:
            self.close()
            self._stream = self._render(self._jobs[self._starts[number] :])
        self._next = -1
        return self._part(number)

    def _part(self, number: int) -> Iterator[FrameRecord | Reject]:
        assert self._stream is not None
        for _ in range(self._starts[number], self._starts[number + 1]):
            yield from next(self._stream)
        self._next = number + 1

    def _render(
        self, jobs: list[tuple[int, int]]
    ) -> Generator[Iterable[FrameRecord | Reject], None, None]:
        if self._processes == 1:
            for job in jobs:
                yield self._studio.sequence(*job)
            return
        with _Crew(self._studio_of, self._config, self._processes) as crew:
            yield from crew.in_order(jobs)

    def close(self) -> None:
        """End the processes; another part may still be asked for."""
        if self._stream is not None:
            self._stream.close()
        self._stream, self._next = None, -1


class _Crew:
    """Processes that render sequences; results come in the order of the jobs."""

    def __init__(self, studio_of: Callable[[Any], Any], config: Any, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._links: dict[Connection, BaseProcess] = {}
        for number in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_work,
                args=(studio_of, config, theirs),
                name=f"synth-{number}",
                daemon=True,
            )
            process.start()
            theirs.close()  # so that a dead process reads as end of file here
            self._links[ours] = process

    def __enter__(self) -> _Crew:
        return self

    def __exit__(self, *error: object) -> None:
        for link, process in self._links.items():
            link.close()
            process.terminate()
        for process in self._links.values():
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()

    def in_order(self, jobs: list[tuple[int, int]]) -> Iterator[Records]:
        """One list of records per job, in order; RuntimeError if a process dies or fails."""
        done: dict[int, Records] = {}
        doing: dict[Connection, int] = {}
        idle = list(self._links)
        given = wanted = 0
        while wanted < len(jobs):
            # run ahead of the consumer by two jobs per process, no further
            while idle and given < min(len(jobs), wanted + 2 * len(self._links)):
                link = idle.pop()
                self._send(link, jobs[given])
                doing[link] = given
                given += 1
            if wanted in done:
                yield done.pop(wanted)
                wanted += 1
                continue
            for ready in wait(list(doing)):
                assert isinstance(ready, Connection)
                number = doing.pop(ready)
                done[number] = self._receive(ready, jobs[number])
                idle.append(ready)

    def _send(self, link: Connection, job: tuple[int, int]) -> None:
        try:
            link.send(job)
        except OSError:
            raise self._died(link, job) from None

    def _receive(self, link: Connection, job: tuple[int, int]) -> Records:
        try:
            answer: Any = link.recv()
        except (EOFError, OSError):
            raise self._died(link, job) from None
        if isinstance(answer, str):
            raise RuntimeError(f"rendering subject {job[0]}, sequence {job[1]} failed:\n{answer}")
        records: Records = answer
        return records

    def _died(self, link: Connection, job: tuple[int, int]) -> RuntimeError:
        process = self._links[link]
        process.join(5)
        return RuntimeError(
            f"a rendering process died (exit code {process.exitcode}) at subject {job[0]}, "
            f"sequence {job[1]}; if memory is short, use fewer processes or a smaller crop_px"
        )


def _work(studio_of: Callable[[Any], Any], config: Any, link: Connection) -> None:
    """A process of the crew: jobs in, lists of records out, until the other end closes."""
    torch.set_num_threads(1)  # the processes share the cores already
    cv2.setNumThreads(1)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        studio: Any = None
        while True:
            job = link.recv()
            try:
                studio = studio or studio_of(config)
                answer: object = list(studio.sequence(*job))
            except Exception:  # told to the parent, which raises it
                answer = traceback.format_exc()
            link.send(answer)
