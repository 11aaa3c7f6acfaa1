"""Trainers with Ray data workers, for processes that import them by name."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import ray

from cluster.data_workers import DataWorkers
from hpse_dist import run
from hpse_dist.data.items import Source
from hpse_dist.data.loader import Loader
from hpse_dist.world import World
from tests.data.made_collection import made_collection
from tests.data.test_loader import joined, loader, take

LABELS = {"sampling": "frames", "needs": ["image", "sample_id", "joints2d", "has_body"]}


class Trainer:
    """A process of Ray's that has a data worker, and goes on from a place in the middle."""

    def begin(self) -> tuple[int, list[int], Any]:
        self.made = mixed(kind="workers", hire=DataWorkers(1))
        found = joined(take(iter(self.made), 3))
        return os.getpid(), processes(self.made), found


def mixed(**settings: Any) -> Loader:
    """Two collections, from the third global batch on."""
    sources = [Source(made_collection()), Source(made_collection(with_labels=False), weight=0.5)]
    made = loader(*sources, **LABELS, **settings)
    made.load_state_dict({"epoch": 0, "cursor": 32})
    return made


def processes(made: Loader) -> list[int]:
    """Of a loader's data workers, once they have started."""
    crew: Any = made._crew
    return [ray.get(worker._begun)[0] for worker in crew._workers]


def pretrain_and_kill(recipe: Any, world: World, folder: Path, hire: DataWorkers) -> None:
    """A run whose first data worker is killed when it has begun its work."""

    def killing(*asked: Any) -> Any:
        crew: Any = hire(*asked)
        fill, left = crew.fill, [3]

        def counted(*values: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(ray.get(crew._workers[0]._begun)[0], signal.SIGKILL)
            return fill(*values)

        crew.fill = counted
        return crew

    run.pretrain(recipe, world, folder, killing)
