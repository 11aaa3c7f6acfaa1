"""Where a run's time goes: steps that count, waiting, checkpoints, and what kills have cost.

    starts.json    one entry per start of the run: when it began, from which step it went on, its
                   first new step, when it was last seen, and how it ended
    losses.jsonl   workers that were lost, and how, where Ray has seen it

A start that ended without a word was killed; what it had done since its checkpoint is lost work.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpse_dist.disk import write_text
from hpse_dist.safety import parsed_json
from hpse_dist.world import World

if TYPE_CHECKING:  # Ray's controller, which imports this for its names, needs no torch
    from hpse_dist.fields import Batch

log = logging.getLogger(__name__)

STARTS_FILE = "starts.json"
LOSSES_FILE = "losses.jsonl"
_IN_PEACE = ("done", "told to stop")
LAUNCH = "HPSE_LAUNCH"
"""Environment variable that names one command's doing: between its starts nobody is away."""
STRAGGLER = 1.5  # times the median rank's time


class Clock:
    """Wall time of the updates since the last reading, and what was spent waiting.

    Its state is the time of all updates that count: those before the checkpoint it is saved with.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self.useful = 0.0
        """Seconds of all updates that count, of earlier starts too."""
        self.straggler: int | None = None
        """The rank that the others waited for at the last reading."""
        self.last: dict[str, float] = {}
        """The rates of the last reading."""
        self._updates = self._waiting = self._saving = self._own = 0.0
        self._samples = 0

    def state_dict(self) -> dict[str, float]:
        return {"useful": self.useful}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.useful = float(state["useful"])

    @contextlib.contextmanager
    def updating(self) -> Iterator[None]:
        """Around one update; what happens outside, such as a checkpoint, is not counted."""
        begun = self._now()
        yield
        seconds = self._now() - begun
        self._updates += seconds
        self.useful += seconds

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Around what training waits for when a checkpoint is made."""
        begun = self._now()
        yield
        self._saving += self._now() - begun

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Around what a rank does alone, without waiting for others."""
        begun = self._now()
        yield
        self._own += self._now() - begun

    def next(self, batches: Iterator[Batch]) -> Batch:
        """The next micro-batch."""
        begun = self._now()
        batch = next(batches)
        self._waiting += self._now() - begun
        self._samples += len(next(iter(batch.values())))
        return batch

    def own(self) -> float:
        """Seconds of this rank's own work since the last reading."""
        return self._own

    def rates(self, world_size: int) -> dict[str, float]:
        """Samples per second over all ranks, and the shares of time spent waiting for data and for
        checkpoints; starts anew."""
        seconds = max(self._updates, 1e-9)
        rates = {
            "samples_per_s": self._samples * world_size / seconds,
            "wait_share": self._waiting / seconds,
            "save_share": self._saving / (seconds + self._saving),
        }
        self._updates = self._waiting = self._saving = self._own = 0.0
        self._samples = 0
        self.last = rates
        return rates


def straggler(seconds: Sequence[float]) -> tuple[int, float] | None:
    """The slowest rank and how many times the median it takes, where that is too much."""
    middle = statistics.median(seconds)
    slowest = max(range(len(seconds)), key=seconds.__getitem__)
    if len(seconds) < 2 or middle <= 0 or seconds[slowest] <= STRAGGLER * middle:
        return None
    return slowest, seconds[slowest] / middle


@dataclass
class Start:
    """One start of a run; times in seconds since 1970."""

    launch: str
    began: float
    resumed: int
    """The step whose checkpoint it went on from."""
    seen: float
    """When it last gave a sign of life."""
    step: int
    """The step it had reached by then."""
    first: float | None = None
    """When its first new step was made."""
    ended: str | None = None
    """done, told to stop, or the error; None: without a word, so killed, or still at it."""
    used: dict[str, float] = field(default_factory=dict)
    """What the meters of its processes had read by then."""


class Account:
    """A run's starts; only the main process writes them down."""

    def __init__(
        self,
        folder: Path,
        world: World,
        clock: Clock,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.path, self.clock, self._now = Path(folder) / STARTS_FILE, clock, now
        self._writes = world.is_main
        self._before = read_starts(self.path) if self._writes else []
        explain(self._before, Path(folder) / LOSSES_FILE)
        began = now()
        self._start = Start(os.environ.get(LAUNCH, str(began)), began, 0, began, 0)
        self._written = 0.0
        self._silent = False  # it is said once that the file could not be written

    def resumed(self, step: int) -> None:
        """The checkpoint is read: training is about to go on from `step`."""
        self._start.resumed = self._start.step = step
        self.write()

    def made(self, step: int) -> None:
        """A step was made."""
        self._start.step, self._start.seen = step, self._now()
        if self._start.first is None:
            self._start.first = self._start.seen
        if self._start.seen > self._written + 1.0:
            self.write()

    def used(self, readings: Sequence[dict[str, float]]) -> None:
        """What the meters of all ranks read now."""
        self._start.used = together(readings)

    def cost(self) -> dict[str, float]:
        """Wall time in `seconds` and what the meters read, over all starts."""
        return {"seconds": round(self.seconds(), 1)} | together([s.used for s in self.starts()])

    def ended(self, how: str) -> None:
        """The last word of this start."""
        self._start.ended = how
        self.write()

    def write(self) -> None:
        if not self._writes:
            return
        self._written = self._start.seen = self._now()
        text = json.dumps([asdict(start) for start in self.starts()], indent=1)
        try:
            write_text(self.path, text)
        except OSError as error:  # a full disk, a store that is away: no reason to stop training
            if not self._silent:
                log.warning("%s could not be written (%s); tried again", self.path, error.strerror)
            self._silent = True
        else:
            self._silent = False

    def starts(self) -> list[Start]:
        return [*self._before, self._start]

    def seconds(self) -> float:
        """Wall time that the run has cost over all its starts, lost work included."""
        self._start.seen = self._now()
        return sum(start.seen - start.began for start in self.starts())

    def figures(self) -> dict[str, Any]:
        """The account of the run so far, for report.json."""
        self._start.seen = self._now()
        return account_of(self.starts(), self.clock.useful)


def read_starts(path: Path) -> list[Start]:
    """The starts in a file; none where there is no file, or it is not readable."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return [Start(**row) for row in parsed_json(path.read_text(encoding="utf-8"))]
    return []


def explain(starts: Sequence[Start], losses: Path) -> None:
    """Say how a start lost its worker, where that was seen: itself it knows nothing, or only that
    its peer is gone."""
    lines = losses.read_text(encoding="utf-8").splitlines() if losses.is_file() else []
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, KeyError):
            row = parsed_json(line)
            before = [one for one in starts if one.launch == row["launch"]]
            before = [one for one in before if one.began < float(row["time"])]
            if before and before[-1].ended not in _IN_PEACE and row["how"] != "error":
                before[-1].ended = str(row["how"])


def together(readings: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Readings of several processes or starts as one: sums, and of memory the largest."""
    names = dict.fromkeys(name for reading in readings for name in reading)
    joined = {}
    for name in names:
        values = [reading[name] for reading in readings if name in reading]
        joined[name] = round(max(values) if name.endswith("_mb") else sum(values), 3)
    return joined


def account_of(starts: Sequence[Start], useful: float) -> dict[str, Any]:
    """What a run's starts have cost.

    effective: share of the wall time that went into steps that count; wall_s: from each command's
    first start to its last sign of life, the time between its starts included, the time between
    commands not. recover_s: from the last sign of life to the first new step, within a command.
    """
    commands: dict[str, list[Start]] = {}
    for start in starts:
        commands.setdefault(start.launch, []).append(start)
    wall = sum(group[-1].seen - group[0].began for group in commands.values())
    recoveries = [
        after.first - before.seen
        for group in commands.values()
        for before, after in itertools.pairwise(group)
        if after.first is not None
    ]
    causes: dict[str, int] = {}
    for start in starts[:-1]:
        cause = start.ended or "killed"
        causes[cause] = causes.get(cause, 0) + 1
    pairs = itertools.pairwise(starts)
    return {
        "effective": round(useful / wall, 4) if wall > 0 else None,
        "useful_s": round(useful, 1),
        "wall_s": round(wall, 1),
        "starts": len(starts),
        "ended": causes,
        "lost_steps": sum(max(0, before.step - after.resumed) for before, after in pairs),
        "recover_s": {
            "median": round(statistics.median(recoveries), 2) if recoveries else None,
            "worst": round(max(recoveries), 2) if recoveries else None,
        },
    }
