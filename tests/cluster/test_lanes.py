"""A trainer and a data worker of its machine: pipes for words, memory that both see."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from cluster.lanes import Asked, Lane, Server, Slot
from hpse_dist.data.decode import Rows
from hpse_dist.data.prefetch import Buffer
from hpse_dist.data.shared import Place

BATCH = 3
LAYOUTS = {
    "image": ((BATCH, 2, 2, 3), np.dtype(np.uint8)),
    "sample_id": ((BATCH,), np.dtype(np.int64)),
}
PATIENCE_S = 20.0


def rows(first: int) -> Rows:
    whole = np.arange(first, first + BATCH)
    share = np.full(BATCH, 0.1, np.float32)
    return Rows(whole, whole + 1, whole + 2, share, whole % 2 == 0)


def doubled(asked: Rows, buffer: Buffer) -> Any:
    buffer.arrays["sample_id"][:] = 2 * asked.item
    buffer.arrays["image"][:] = asked.item[:, None, None, None]
    return float(asked.pair_weight.sum()), asked.valid.tolist()


@contextmanager
def served(fill: Callable[[Rows, Buffer], Any], lanes: list[Lane]) -> Iterator[threading.Thread]:
    """A worker, in a thread: it opens everything through /proc, as a process does."""
    server = Server([lane.ends for lane in lanes], LAYOUTS, BATCH, fill)
    for end in lanes:
        end.keep_mine()
    del end
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    yield thread
    lanes.clear()  # the trainer's ends close with the last that holds them
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def answer(lane: Lane) -> Any:
    assert lane.poll(PATIENCE_S)
    return lane.receive()


def test_what_is_asked_for_is_filled_in_where_the_trainer_sees_it() -> None:
    lanes = [Lane(), Lane()]
    slots = [Slot(number, LAYOUTS, BATCH) for number in range(2)]
    with served(doubled, lanes):
        for first in (0, 10, 20):  # again into the same memory
            for place, (lane, slot) in enumerate(zip(lanes, slots, strict=True)):
                lane.send(slot.write(rows(first + place)))
            for place, (lane, slot) in enumerate(zip(lanes, slots, strict=True)):
                wanted = rows(first + place)
                weight, valid = answer(lane)
                assert weight == float(wanted.pair_weight.sum())
                assert valid == wanted.valid.tolist()
                assert {*slot.arrays} == {*LAYOUTS}
                assert np.array_equal(slot.arrays["sample_id"], 2 * wanted.item)
                assert np.array_equal(slot.arrays["image"][:, 1, 1, 2], wanted.item)
                del lane


def test_who_was_given_up_writes_into_memory_that_nobody_reads() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hanging(asked: Rows, buffer: Buffer) -> None:
        begun.set()
        assert go_on.wait(PATIENCE_S)
        buffer.arrays["sample_id"][:] = -1

    slot, slow, good = Slot(0, LAYOUTS, BATCH), [Lane()], [Lane()]
    with served(hanging, slow):
        slow[0].send(slot.write(rows(0)))
        assert begun.wait(PATIENCE_S)
        slot.renew()
        with served(doubled, good):
            good[0].send(slot.write(rows(0)))
            answer(good[0])
        go_on.set()
        answer(slow[0])
    assert np.array_equal(slot.arrays["sample_id"], 2 * rows(0).item)


def test_an_end_is_seen_and_an_error_is_an_answer() -> None:
    lanes = [Lane()]
    with served(doubled, lanes):
        wrong = Place("/proc/self/fd/0", 0, 0)
        lanes[0].send(Asked(7, wrong))
        assert "another file" in str(answer(lanes[0]))

    def fails(*_: object) -> None:
        raise RuntimeError("a fault of the program")

    lane, slot = Lane(), Slot(0, LAYOUTS, BATCH)
    server = Server([lane.ends], LAYOUTS, BATCH, fails)
    lane.keep_mine()
    lane.send(slot.write(rows(0)))
    with pytest.raises(RuntimeError, match="fault"):
        server.serve()
    del server
    assert lane.poll(PATIENCE_S)
    with pytest.raises(EOFError):
        lane.receive()
    with pytest.raises(BrokenPipeError):
        lane.send(slot.write(rows(0)))


def test_ends_that_cannot_be_found_are_an_error_at_once() -> None:
    reading, writing = os.pipe()
    ends = Place.of(reading), Place.of(writing)
    os.close(reading)
    os.close(writing)
    with pytest.raises(OSError, match="/proc/"):
        Server([ends], LAYOUTS, BATCH, doubled)
