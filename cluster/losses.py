"""Which workers were lost, and how: Ray's controller writes it into the run's folder at once.

The driver says it aloud, and the run's account counts it when it goes on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.train import UserCallback

from cluster.story import MemoryKills, to_blame, write_loss


class Losses(UserCallback):
    """Writes down who was lost."""

    def __init__(self, folder: Path, launch: str, hang_s: float) -> None:
        self.folder, self.launch, self.hang_s = folder, launch, hang_s
        self._kills = MemoryKills()

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        rank, error = to_blame(worker_exceptions)
        how, said = self._kills.story(error, self.hang_s)
        write_loss(self.folder, self.launch, rank, how, said)
