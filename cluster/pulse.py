"""Signs of life of a sweep's trials, and the end of one that gives none.

Nobody asks a trial anything while it trains, so Ray Tune would wait for one that is stopped, or
stuck in the kernel, as long as its machine runs. Its process leaves a sign every few seconds:

    logs/pulse.json    which process it is, on which node; touched again and again

The driver ends one whose signs stay away; Tune starts it again, and it goes on from its folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.guardian import process_of
from cluster.repeating import again_and_again
from cluster.story import HUNG, write_loss
from hpse_dist.disk import write_text
from hpse_dist.safety import parsed_json

EVERY_S = 2.0


@dataclass(frozen=True)
class Pulse:
    """The process that gives signs of life."""

    process: int
    born: int
    """As `Known.started`, which no setting of the clock moves: a later process may have the same
    number."""
    node: str
    """Ray's name of its machine."""

    def end(self) -> bool:
        """SIGKILL, to be called on its machine; whether it was still there."""
        found = process_of(self.process)
        if found is not None and found[0].started == self.born:
            with contextlib.suppress(OSError):  # it has just gone
                os.kill(self.process, signal.SIGKILL)
                return True
        return False


def pulse_file(folder: Path) -> Path:
    """Where the process that works on a run's folder gives its signs of life."""
    return folder / "logs" / "pulse.json"


@contextlib.contextmanager
def beating(folder: Path, node: str, every_s: float = EVERY_S) -> Iterator[None]:
    """Give signs of life in a run's folder, from a thread, for the time of the block."""
    path = pulse_file(folder)
    me = process_of(os.getpid())
    born = me[0].started if me else 0  # a system that does not say: nobody is ended
    mine = json.dumps(asdict(Pulse(os.getpid(), born, node)))
    written = False

    def beat() -> None:
        nonlocal written
        # a full disk, or a store that is away: its folder's next write says so, not this one
        with contextlib.suppress(OSError):
            if written:
                os.utime(path)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_text(path, mine)
                written = True

    try:
        with again_and_again(beat, every_s):
            yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


class Patience:
    """How long a run's process has given no sign of life, by this process's own clock."""

    def __init__(self, folder: Path, limit_s: float) -> None:
        self.folder, self.limit_s = folder, limit_s
        self._last: int | None = None
        self._seen = time.monotonic()

    def out(self) -> Pulse | None:
        """The process that has given none for the limit; again only after another limit."""
        last, now = self._touched(), time.monotonic()
        if last is None or last != self._last:
            self._last, self._seen = last, now
        if now - self._seen <= self.limit_s:
            return None
        self._seen = now
        return self._read()

    def forget(self, pulse: Pulse) -> None:
        """Remove the sign of a process that is gone, as ASHA ends those it stops."""
        if self._read() == pulse:
            with contextlib.suppress(OSError):
                pulse_file(self.folder).unlink()

    def note(self, launch: str) -> str:
        """Write down that it hung, where the run's account counts it; what to say of it."""
        said = f"gave no sign of life for {self.limit_s:g} s: it hung, and is started again"
        write_loss(self.folder, launch, 0, HUNG, said)
        return said

    def _touched(self) -> int | None:
        """When the last sign was given, by the clock of its store; None while nobody is at it."""
        try:
            return pulse_file(self.folder).stat().st_mtime_ns
        except OSError:
            return None

    def _read(self) -> Pulse | None:
        """Who gives the signs; None where that is not written, or only half."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            return Pulse(**parsed_json(pulse_file(self.folder).read_text(encoding="utf-8")))
        return None


class Ends:
    """Hung processes that are being ended, each on its own machine: a Ray task goes there."""

    def __init__(self) -> None:
        self._asked: dict[Any, tuple[Pulse, Patience]] = {}

    def end(self, pulse: Pulse, patience: Patience) -> None:
        """Send SIGKILL where it is; `found` says what came of it."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(pulse.node, soft=False)
        task = ray.remote(Pulse.end).options(num_cpus=0, scheduling_strategy=there)
        self._asked[task.remote(pulse)] = pulse, patience

    def found(self) -> list[Patience]:
        """Those that were there and have been ended since this was last asked."""
        import ray

        ended: list[Patience] = []
        if not self._asked:
            return ended
        done, _ = ray.wait([*self._asked], num_returns=len(self._asked), timeout=0.0)
        for reference in done:
            pulse, patience = self._asked.pop(reference)
            there = False
            with contextlib.suppress(ray.exceptions.RayError):  # its machine is gone, and so is it
                there = ray.get(reference)
            if there:
                ended.append(patience)
            else:
                patience.forget(pulse)
        return ended
