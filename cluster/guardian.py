"""Ends what a killed driver leaves behind of its own Ray cluster.

Ray ends most of it, some seconds later: until then its workers train on, and two agents of the
node never notice. This process knows the driver's descendants, waits for the driver's end, however
it comes, and kills those of Ray that are still there. Linux only, as Ray's clusters are.

    python guardian.py PID      its standard input ends with the driver, or brings a last word
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

_PEACE = b"peace"
_LOOK_S = 2.0
_START_S, _START_LOOK_S = 30.0, 0.5  # while Ray starts, whose agents soon have no parent known here
_ROUNDS, _PAUSE_S = 20, 0.25  # a dying raylet may still start a process


class Known(NamedTuple):
    """A process that its number alone does not tell from a later one."""

    number: int
    started: int
    """Clock ticks since the machine's start."""


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """While inside, a guardian watches over this process; one that leaves in peace needs none."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(os.getpid())],
        stdin=subprocess.PIPE,
        start_new_session=True,  # a Ctrl-C at the terminal is for the driver
    )
    try:
        yield
    finally:
        process.communicate(_PEACE)


def process_of(number: int) -> tuple[Known, int] | None:
    """The process of a number, and its parent's number; None where it has gone."""
    try:
        text = Path(f"/proc/{number}/stat").read_text(errors="replace")
    except OSError:
        return None
    state, parent, *rest = text.rpartition(")")[2].split()
    return None if state == "Z" else (Known(number, int(rest[17])), int(parent))


def processes() -> dict[Known, int]:
    """Every process of the machine, and its parent's number."""
    numbers = (int(path.name) for path in Path("/proc").glob("[0-9]*"))
    return dict(found for number in numbers if (found := process_of(number)))


def command(process: Known) -> bytes:
    """A process's command line; empty where it has just gone."""
    try:
        return Path(f"/proc/{process.number}/cmdline").read_bytes()
    except OSError:
        return b""


def family(known: set[Known], heads: set[int]) -> set[Known]:
    """Who of `known` is still there, and all descendants of these and of the processes `heads`."""
    parents = processes()
    found = known & parents.keys()
    numbers = heads | {one.number for one in found}
    while more := {one for one, parent in parents.items() if parent in numbers} - found:
        found |= more
        numbers |= {one.number for one in more}
    return {one for one in found if one.number != os.getpid()}


def end(known: set[Known], doomed: Callable[[Known], bool]) -> None:
    """Kill those of `known` and of their descendants who are `doomed`, until none is left."""
    for _ in range(_ROUNDS):
        known = family(known, set())
        found = [one for one in known if doomed(one)]
        if not found:
            return
        for one in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one.number, signal.SIGKILL)
        time.sleep(_PAUSE_S)


def main(driver: int) -> None:
    known, began = set[Known](), time.monotonic()
    look_s = _START_LOOK_S
    while not select.select([sys.stdin], [], [], look_s)[0]:
        known = family(known, {driver})
        look_s = _START_LOOK_S if time.monotonic() - began < _START_S else _LOOK_S
    if sys.stdin.buffer.read() == _PEACE:
        return
    end(known, lambda one: b"ray" in command(one))


if __name__ == "__main__":
    main(int(sys.argv[1]))
