"""Make the parts of a collection with Ray workers, on one machine or many.

A worker is an actor that makes one part after the other; its folder is on a disk that all machines
share. A worker that is killed, or whose machine is lost, costs the part it was at: that is made
again by another, and a new worker takes the place.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from typing import Any

from tqdm import tqdm

from cluster.connection import connected
from cluster.launch import POLL_S, recipe_root
from cluster.resources import Need, Node, describe
from cluster.worker import plain_error, sentence
from hpse_dist.data.parts import Part
from hpse_dist.data.shards import Fields
from hpse_dist.data.work import Todo
from hpse_dist.prepare import CarryOut, Meter, PartMaker, Task, expect, naming

_LEAST_CPUS = 0.01  # Ray counts CPUs in ten-thousandths


def with_workers(workers: int, *, max_failures: int = 3, debug: bool = False) -> CarryOut:
    """For `hpse_dist.prepare`: make the parts with so many Ray workers, which share the CPUs.

    More workers than CPUs are allowed: they then have part of one each.
    """

    def carry_out(task: Task, todo: Todo, meter: Meter | None) -> None:
        if todo.complete:
            return
        with connected(debug=debug) as cluster:
            need = Need(workers, share_of(workers, cluster.nodes))
            crew = _Crew(task, todo, need, max_failures, meter)
            try:
                crew.run()
            finally:
                crew.close()

    return carry_out


def share_of(workers: int, nodes: tuple[Node, ...]) -> float:
    """CPUs of one worker: one, or less where there are more workers than CPUs."""
    cpus = sum(node.cpus for node in nodes)
    if cpus < _LEAST_CPUS * workers:
        raise ValueError(f"{describe(nodes)} has no CPUs for {workers} workers; add machines")
    if cpus >= workers:
        return 1.0
    # what each machine holds is a whole number of workers
    return max(_LEAST_CPUS, int(100 * cpus / (workers + len(nodes) - 1)) / 100)


class _Worker:
    """Runs in a Ray actor: a part maker for as long as the actor lives."""

    def __init__(self, task: Task, root: str) -> None:
        import cv2
        import torch

        os.environ["HPSE_ROOT"] = root
        torch.set_num_threads(1)  # the workers share the cores already
        cv2.setNumThreads(1)
        self._task = task
        self._maker: PartMaker | None = None

    def ready(self) -> int:
        """Its process id, once it has started."""
        return os.getpid()

    def make(self, number: int, fields: Fields | None) -> Part | Exception | None:
        """A part; None where the source ends before it; an error is an answer, not Ray's affair."""
        try:
            self._maker = self._maker or PartMaker(self._task, processes=1)
            return self._maker.make(number, fields)
        except Exception as error:
            return error if isinstance(error, (ValueError, OSError)) else plain_error(error)


class _Crew:
    """The driver's side: who makes which part, and what to do when that ends."""

    def __init__(
        self, task: Task, todo: Todo, need: Need, max_failures: int, meter: Meter | None
    ) -> None:
        import ray

        self._ray: Any = ray
        self._actor = ray.remote(num_cpus=need.cpus, max_restarts=0)(_Worker)
        self._task, self._todo, self._meter = task, todo, meter
        self._max_failures = max_failures
        self._deaths: Counter[int | None] = Counter()
        self._doing: dict[Any, tuple[Any, int | None, bool]] = {}  # answer -> worker, part, known
        self._idle: list[Any] = []
        for _ in range(need.workers):
            self._hire()

    def run(self) -> None:
        """Until every part is finished. ValueError or OSError names the part that cannot be."""
        while not self._todo.complete:
            self._hand_out()
            if not self._doing:
                continue  # what was given back is handed out in the next turn
            ready, _ = self._ray.wait(list(self._doing), timeout=POLL_S)
            for answer in ready:
                self._hear(answer)
            if self._meter is not None:
                self._meter.refresh()

    def _hire(self) -> None:
        worker: Any = self._actor.remote(self._task, recipe_root())
        self._doing[worker.ready.remote()] = (worker, None, False)

    def _hand_out(self) -> None:
        while self._idle and (number := self._todo.take()) is not None:
            worker, known = self._idle.pop(), self._todo.known_fields
            answer = worker.make.remote(number, known)
            self._doing[answer] = (worker, number, known is not None)

    def _hear(self, answer: Any) -> None:
        worker, number, knowing = self._doing.pop(answer)
        try:
            part = self._ray.get(answer)
        except self._ray.exceptions.RayTaskError:
            raise  # the worker lives: a fault of the program
        except self._ray.exceptions.RayError as error:  # killed, out of memory, machine lost
            self._bury(worker, number, error)
            return
        self._idle.append(worker)
        if number is None:
            self._deaths[None] = 0  # workers do start
            return
        if isinstance(part, Exception):
            if isinstance(part, ValueError) and self._todo.failed(number, knowing):
                return
            raise naming(part, number, self._todo)
        self._todo.done(number, part)
        if self._meter is not None:
            if part is not None:
                self._meter.update(part.records)
            expect(self._meter, self._todo)

    def _bury(self, worker: Any, number: int | None, error: Exception) -> None:
        """A worker is gone: its part goes back, and another takes its place."""
        self._ray.kill(worker)
        self._deaths[number] += 1
        what = "a worker" if number is None else f"the worker that made part {number}"
        if self._deaths[number] > self._max_failures:
            how = "before it began" if number is None else f"at part {number}"
            raise ChildProcessError(
                f"workers died {self._deaths[number]} times {how} ({sentence(error)}): memory may "
                "be short, so try fewer machine.workers or a smaller collection.frames_per_shard; "
                "finished parts are kept, and the same command goes on"
            )
        if number is not None:
            self._todo.lost(number)
        if self._meter is not None:
            tqdm.write(f"{what} died; another goes on", file=sys.stderr)
        self._hire()

    def close(self) -> None:
        """End the workers."""
        workers = [worker for worker, _, _ in self._doing.values()] + self._idle
        for worker in workers:
            self._ray.kill(worker)
