"""A run whose workers kill themselves, without a word, after given steps."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from hpse_dist import run
from hpse_dist.train import train
from hpse_dist.world import World


def pretrain(order: dict[str, Any], world: World, folder: Path) -> None:
    """`order`: the recipe, and `kills`, steps after which every worker gets SIGKILL, once each."""

    def watched(*positional: Any, on_step: Callable[[int], None], **named: Any) -> int:
        def step_then_die(step: int) -> None:
            on_step(step)
            mark = folder / f"killed-{step}-{world.rank}"
            if step in order["kills"] and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)

        return train(*positional, on_step=step_then_die, **named)

    with mock.patch.object(run, "train", watched):
        run.pretrain(order["recipe"], world, folder)
