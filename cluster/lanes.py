"""The ways between a trainer and a data worker on its machine: no copy, and no call of Ray's.

A lane is two pipes for words; pictures stay in slots, memory that both see. The trainer writes into
a slot what a micro-batch is made from, the worker decodes beside it, and the slot is filled again
when training is done with it. Nothing here has a name, so nothing is left behind by whoever is
killed; and as only processes of the same user find it, what comes out of a pipe may be unpickled.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any

import numpy as np

from hpse_dist.data.decode import Rows
from hpse_dist.data.prefetch import Buffer, Layout
from hpse_dist.data.shared import Place, Shared, arrays_in, opened, size_of

_ASKED = "asked "  # before the names of what a micro-batch is made from


def _slot_layouts(layouts: Mapping[str, Layout], batch: int) -> dict[str, Layout]:
    """Of a micro-batch, and of what it is made from."""
    asked = {_ASKED + name: layout for name, layout in Rows.layouts(batch).items()}
    return {**layouts, **asked}


def _parted(arrays: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], Rows]:
    """A slot's micro-batch, and what it is made from."""
    rows = Rows(**{name: arrays.pop(_ASKED + name) for name in Rows.layouts(0)})
    return arrays, rows


class Slot:
    """The trainer's side of the memory for one micro-batch."""

    def __init__(self, number: int, layouts: Mapping[str, Layout], batch: int) -> None:
        self._number, self._layouts = number, _slot_layouts(layouts, batch)
        self._shared: Shared | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        return size_of(self._layouts)

    def write(self, rows: Rows) -> Asked:
        """Put down what is asked for, and where."""
        if self._shared is None:
            self._shared = Shared("hpse_batch", self.size, reserve=True)
            self.arrays, self._rows = _parted(arrays_in(self._shared.array, self._layouts))
        for name, array in vars(self._rows).items():
            array[...] = getattr(rows, name)
        return Asked(self._number, self._shared.place)

    def renew(self) -> None:
        """Be other memory from now on: a worker that hangs may yet write into this one."""
        self._shared = None


@dataclass(frozen=True)
class Asked:
    """Which slot is to be filled, and where it is."""

    number: int
    place: Place


class Lane:
    """The trainer's side of a way on which one micro-batch at a time is asked for."""

    def __init__(self) -> None:
        asks, self._asks = Pipe(duplex=False)
        self._answers, answers = Pipe(duplex=False)
        self._theirs = (asks, answers)

    @property
    def ends(self) -> tuple[Place, Place]:
        """Where the worker finds its ends."""
        asks, answers = self._theirs
        return Place.of(asks.fileno()), Place.of(answers.fileno())

    def keep_mine(self) -> None:
        """The worker has opened its ends: let go of them here, or its end would go unseen."""
        for end in self._theirs:
            end.close()

    def send(self, asked: Asked) -> None:
        """Ask; OSError where the worker is gone."""
        self._asks.send(asked)

    def poll(self, seconds: float) -> bool:
        """Wait for an answer, or for the worker's end."""
        return self._answers.poll(seconds)

    def receive(self) -> Any:
        """The answer; EOFError or OSError where the worker is gone."""
        return self._answers.recv()


class Server:
    """The worker's side of all its lanes."""

    def __init__(
        self,
        lanes: Sequence[tuple[Place, Place]],
        layouts: Mapping[str, Layout],
        batch: int,
        fill: Callable[[Rows, Buffer], Any],
    ) -> None:
        """OSError where the trainer's memory and pipes are not to be found from here.

        `fill` puts what rows ask for into a buffer; what it returns is the answer.
        """
        self._layouts, self._fill = _slot_layouts(layouts, batch), fill
        self._lanes: dict[Connection, Connection] = {}
        for asks, answers in lanes:
            end = Connection(asks.open(os.O_RDONLY), writable=False)
            self._lanes[end] = Connection(answers.open(os.O_WRONLY), readable=False)
        self._slots: dict[int, tuple[Place, Rows, Buffer]] = {}

    def serve(self) -> None:
        """Answer, until the trainer is gone."""
        try:
            while True:
                for lane in wait(list(self._lanes)):
                    assert isinstance(lane, Connection)
                    self._lanes[lane].send(self._answer(lane.recv()))
        except (EOFError, BrokenPipeError):
            return

    def _answer(self, asked: Asked) -> Any:
        try:
            rows, buffer = self._opened(asked)
        except OSError as error:
            return OSError(f"the trainer's memory: {error}")
        return self._fill(rows, buffer)

    def _opened(self, asked: Asked) -> tuple[Rows, Buffer]:
        """A slot; its memory is opened when it is another than before."""
        place, rows, buffer = self._slots.get(asked.number, (None, None, None))
        if rows is None or buffer is None or place != asked.place:
            arrays, rows = _parted(arrays_in(opened(asked.place), self._layouts))
            buffer = Buffer({}, pinned=False)
            buffer.hold(arrays)
            self._slots[asked.number] = asked.place, rows, buffer
        return rows, buffer
