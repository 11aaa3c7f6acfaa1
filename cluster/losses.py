"""Which workers were lost, and how: Ray's controller writes it into the run's folder at once.

The driver says it aloud, and the run's account counts it when it goes on.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

from ray.train import UserCallback

from cluster.story import KILLED, MEMORY, how_lost, starved, story, to_blame, write_loss

_EVENTS = Path("/sys/fs/cgroup/memory.events")  # of this container


class Losses(UserCallback):
    """Writes down who was lost."""

    def __init__(self, folder: Path, launch: str, hang_s: float) -> None:
        self.folder, self.launch, self.hang_s = folder, launch, hang_s
        self._killed = _killed_for_memory()

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        rank, error = to_blame(worker_exceptions)
        how, said = how_lost(error), story(error, self.hang_s)
        if how == KILLED and (count := _killed_for_memory()) > self._killed:
            self._killed = count
            how, said = MEMORY, starved(count)
        write_loss(self.folder, self.launch, rank, how, said)


def _killed_for_memory() -> int:
    """How many processes here the system has killed for want of memory; 0 where it does not say."""
    with contextlib.suppress(OSError):
        found = re.search(r"^oom_kill (\d+)", _EVENTS.read_text(encoding="utf-8"), re.MULTILINE)
        return int(found[1]) if found else 0
    return 0
