"""When training goes wrong: which steps are skipped, and when a run goes back.

PaLM's remedy (Chowdhery et al. 2022, section 5.1): after a spike, start again from a checkpoint
before it and skip the batches that were seen since; the same batches elsewhere did no harm.
"""

from __future__ import annotations

import contextlib
import logging
import statistics
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpse_dist.disk import GrowingFile
from hpse_dist.engine import Refusal
from hpse_dist.safety import parsed_json
from hpse_dist.world import World

_log = logging.getLogger(__name__)

INCIDENTS_FILE = "incidents.jsonl"


@dataclass(frozen=True)
class GuardConfig:
    """How much may go wrong before a run goes back, and before it is given up."""

    bad_steps: int = 3
    """So many steps in a row may be skipped for a loss or gradient that is not finite."""
    spike: float = 0.0
    """A loss this many median absolute deviations above the median of the last steps sends the run
    back; 0 looks for none. 20 lets all but disasters pass."""
    window: int = 100
    """The last steps that a spike is measured against; until there are so many, none is one."""
    back: int = 0
    """The run goes back to the newest checkpoint at least so many steps before the trouble."""
    returns: int = 3
    """How often it goes back before it is given up."""

    def __post_init__(self) -> None:
        for name in ("bad_steps", "back", "returns"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, found {getattr(self, name)}")
        if self.spike < 0 or 0 < self.spike < 3:
            raise ValueError(f"spike must be 0, or 3 deviations or more, found {self.spike}")
        if self.window < 10:
            raise ValueError(f"window must be at least 10 steps, found {self.window}")


class Guard:
    """Looks at every step, on every rank with the same numbers and so with the same verdict."""

    def __init__(self, config: GuardConfig, folder: Path, world: World) -> None:
        """Goes on from the incidents in a run's `folder`."""
        self.config = config
        self.path = Path(folder) / INCIDENTS_FILE
        self._file = GrowingFile(self.path) if world.is_main else None
        self._losses: deque[float] = deque(maxlen=config.window)
        self._bad = 0
        self.returns = len([x for x in read_incidents(self.path) if x["kind"] == "return"])

    def state_dict(self) -> dict[str, Any]:
        """What the verdicts to come depend on, for a checkpoint."""
        return {"bad": self._bad, "losses": list(self._losses)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._bad = int(state["bad"])
        self._losses = deque(state["losses"], maxlen=self.config.window)

    @property
    def wants_loss(self) -> bool:
        """Whether `spike` needs the loss of every step."""
        return self.config.spike > 0

    def refused(self, refusal: Refusal) -> str | None:
        """Take note of a step that was not made; a sentence if the run must go back."""
        self._bad += 1
        samples = list(refusal.samples)  # a resumed run meets them again, and says so again
        self._write("skip", refusal.step, why=f"{refusal.what} is not finite", samples=samples)
        if self._bad <= self.config.bad_steps:
            return None
        return f"{refusal}, and of {self._bad} steps in a row none could be made"

    def made(self, step: int, loss: float | None) -> str | None:
        """Take note of a step that was made; a sentence if its loss is a spike."""
        self._bad = 0
        if self._file is not None:
            self._file.flush()
        if loss is None:
            return None
        limit = self._limit()
        if limit is not None and loss > limit:
            return f"step {step}: the loss is {loss:.4g}, a spike above {limit:.4g}"
        self._losses.append(loss)
        return None

    def _limit(self) -> float | None:
        """The loss above which a step is a spike, once enough steps are known."""
        if len(self._losses) < self.config.window:
            return None
        middle = statistics.median(self._losses)
        deviation = statistics.median(abs(loss - middle) for loss in self._losses)
        return middle + self.config.spike * max(deviation, 1e-3 * abs(middle))

    def went_back(self, step: int, to: int, why: str, place: dict[str, Any]) -> None:
        """Take note of a return from `step` to the checkpoint of step `to`, whose state this is."""
        self.returns += 1
        self._write("return", step, to=to, why=why, place=place)

    def _write(self, kind: str, step: int, **facts: Any) -> None:
        if self._file is not None:
            self._file.line({"kind": kind, "step": step, **facts})


class DataGuard:
    """Takes note of records that cannot be decoded, and ends a run that has too many."""

    def __init__(self, most: float, num_records: int, folder: Path, world: World) -> None:
        """`most`: the share of the `num_records` that may be bad."""
        self._most, self._num_records = most, num_records
        path = Path(folder) / INCIDENTS_FILE
        self._file = GrowingFile(path) if world.is_main else None
        named = [x for x in read_incidents(path) if x["kind"] == "bad_record"]
        self._known = {int(x["sample"]) for x in named}

    @property
    def bad_records(self) -> int:
        """How many records are known to be bad."""
        return len(self._known)

    def note(self, step: int, bad: list[tuple[int, str]], incidents: list[tuple[str, str]]) -> None:
        """Take note of the bad records (sample id, where) and of what was mended (kind, why), as
        decoding that hung, on all ranks up to a step; ValueError where bad records are too many."""
        if self._file is not None:
            self._file.flush()
        for kind, why in incidents:
            self._write({"kind": kind, "step": step, "why": why})
        for sample, where in bad:
            if sample not in self._known:
                self._known.add(sample)
                _log.warning("%s cannot be decoded; another record stands for it", where)
                self._write({"kind": "bad_record", "step": step, "sample": sample, "where": where})
        if self.bad_records > self._most * self._num_records:
            where = f", the last of them {bad[-1][1]}" if bad else ""
            raise ValueError(
                f"step {step}: {self.bad_records} of {self._num_records} training records cannot "
                f"be decoded{where}: more than machine.bad_records, {self._most:g}, allows; check "
                "the collection with prepare --verify and prepare it again, or allow more"
            )

    def _write(self, incident: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.line(incident)


def read_incidents(path: Path) -> list[dict[str, Any]]:
    """What went wrong in a run, oldest first; a line torn by a kill is left out."""
    found = []
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            row = parsed_json(line)
            if isinstance(row, dict) and {"kind", "step"} <= row.keys():
                found.append(row)
    return found
