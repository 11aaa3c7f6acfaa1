"""A run beside its plan: says once, in one line, when it becomes slower than it should be.

Each finding is a line of the log and an incident: `data_bound`, where trainers wait for data;
`straggler`, where they wait for one of them; `throttled`, where they compute more slowly than the
plan's measurement did. What has gone and comes again is said again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from hpse_dist.accounting import STRAGGLER, Clock
from hpse_dist.disk import GrowingFile
from hpse_dist.guard import INCIDENTS_FILE
from hpse_dist.world import World

_log = logging.getLogger(__name__)

WAITING = 0.1  # share of the time spent waiting for data from which a run is data-bound
SLOWER = 1.3  # times the planned time of a sample
READINGS = 3  # lines of the log in a row: one slow one is no news
LASTING_S = 10.0  # nor are three that pass in no time, as in the first steps of a small run


class Pace:
    """Looks at the clock's last rates; only the main process speaks."""

    def __init__(
        self,
        folder: Path,
        world: World,
        clock: Clock,
        planned_s: float | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`planned_s`: seconds per sample and rank without the waiting; None without a plan."""
        self._file, self._world, self._clock = GrowingFile(folder / INCIDENTS_FILE), world, clock
        self._planned_s, self._now = planned_s, now
        self._since: dict[str, float] = {}  # kind -> when the first of its readings in a row was
        self._in_a_row: dict[str, int] = {}
        self._said: set[str] = set()

    def look(self, step: int) -> None:
        """After a line of the log."""
        rates = self._clock.last
        if not self._world.is_main or not rates or not rates["samples_per_s"]:
            return
        self._file.flush()
        waiting = rates["wait_share"]
        what = f"{waiting:.0%} of the time goes into waiting for data; give machine.loader_threads"
        self._note(step, "data_bound", waiting > WAITING, f"{what} more, or more cores", READINGS)
        if self._planned_s:
            now = (1 - waiting) * self._world.size / rates["samples_per_s"]
            times = now / self._planned_s
            what = (
                f"a sample takes {1e3 * now:.3g} ms to compute, {times:.1f} times what the plan "
                "measured: throttled, or others use the machine"
            )
            self._note(step, "throttled", times > SLOWER, what, READINGS)
        rank = self._clock.straggler
        what = f"rank {rank} takes over {STRAGGLER} times as long as the median rank"
        self._note(step, "straggler", rank is not None, what, 1)

    def _note(self, step: int, kind: str, found: bool, what: str, readings: int) -> None:
        """Take note, once, of a finding that has held for so many readings and long enough."""
        if not found:
            self._in_a_row[kind] = 0
            self._said.discard(kind)
            return
        count = self._in_a_row[kind] = self._in_a_row.get(kind, 0) + 1
        if count == 1:
            self._since[kind] = self._now()
        lasting = 0.0 if readings == 1 else LASTING_S
        if kind in self._said or count < readings or self._now() - self._since[kind] < lasting:
            return
        self._said.add(kind)
        if kind != "straggler":  # the loop has said that itself, with the machine's name
            _log.warning("step %d: %s", step, what)
        self._file.line({"kind": kind, "step": step, "why": what})
