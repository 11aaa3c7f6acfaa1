"""Runs made up for tests of the launcher: small, real process groups, errors and deaths on order.

A module of its own on the workers' path, so it imports torch only inside.
"""

from __future__ import annotations

import json
import logging
import math
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpse_dist.world import World


def count(recipe: dict[str, Any], world: World, folder: Path) -> None:
    """Add one per worker and step, keep every step as a checkpoint, go on from the last one.

    recipe: steps; kill_at, stop_at, starve_at: the last rank kills or stops itself there, or wants
    more memory than there is, once; error: {rank or "all": text}; warning: what is said before;
    crash: the main rank raises RuntimeError at the first step; pause_s: after each. Told to stop,
    all do after the same step.
    """
    import torch

    from hpse_dist.engine import join
    from hpse_dist.stopping import told_to_stop

    if world.size > 1:
        join(world, torch.device("cpu"))
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / "state.json"
    step, total = json.loads(state.read_text()) if state.exists() else (0, 0)
    logging.getLogger("hpse_dist.targets").info("going on from step %d", step)
    if "warning" in recipe:
        logging.getLogger("hpse_dist.targets").warning(recipe["warning"])
    errors = recipe.get("error", {})
    if "all" in errors or str(world.rank) in errors:
        raise ValueError(errors.get("all") or errors[str(world.rank)])
    if recipe.get("crash") and world.is_main:
        raise RuntimeError("the engine broke")
    with told_to_stop() as told:
        _count(step, total, recipe, world, folder, told)


def _count(
    step: int,
    total: int,
    recipe: dict[str, Any],
    world: World,
    folder: Path,
    told: Callable[[], bool],
) -> None:
    import torch

    state = folder / "state.json"
    while step < recipe["steps"]:
        step += 1
        if world.rank == world.size - 1:
            _suffer(step, recipe, folder)
        part = torch.tensor([1, told()])
        if world.size > 1:
            torch.distributed.all_reduce(part)
        total += int(part[0])
        if world.is_main:
            _write(state, [step, total])
            with (folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": step, "loss": 1.0 / step}) + "\n")
        if part[1]:  # any rank's
            return
        time.sleep(recipe.get("pause_s", 0.0))
    if world.is_main:
        facts = {"total": total, "cwd": os.getcwd(), "root": os.environ.get("HPSE_ROOT")}
        facts["threads"] = os.environ.get("OMP_NUM_THREADS")
        _write(folder / "facts.json", facts)
        (folder / "DONE").touch()


def _suffer(step: int, recipe: dict[str, Any], folder: Path) -> None:
    """What the recipe has in store for a step, once."""
    for key, fate in FATES.items():
        marker = folder / f"suffered_{key}"
        if step == recipe.get(key) and not marker.exists():
            state = folder / "state.json"
            while step > 1 and (not state.exists() or json.loads(state.read_text())[0] < step - 1):
                time.sleep(0.01)  # the main rank may be slower
            marker.touch()
            fate()


def _starve() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + (1 << 30)  # Ray's own threads have enough
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
    bytearray(8 << 30)


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(3600.0)  # another thread may be the first to get the signal


FATES: dict[str, Callable[[], object]] = {
    "kill_at": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop_at": _stop,
    "starve_at": _starve,
}


def planted(recipe: dict[str, Any], world: World, folder: Path) -> None:
    """Learn towards an error that depends on the learning rate; 1e-3 is best. Goes on from its log.

    recipe: lr, steps, every (steps between evaluations); die_at: SIGKILL there, once; wait_at: wait
    after that step to be stopped, for an hour, then go on.
    """
    log = folder / "metrics.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    for step in range(len(lines) + 1, recipe["steps"] + 1):
        if step == recipe.get("die_at") and not (folder / "died").exists():
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        row: dict[str, Any] = {"step": step, "time": time.time()}
        if step % recipe["every"] == 0:
            row["val/error"] = abs(math.log10(recipe["lr"]) + 3) + 1 / step
        with log.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if step == recipe.get("wait_at"):
            time.sleep(3600.0)
    (folder / "DONE").touch()


def hired(recipe: Any, world: World, folder: Path, hire: Any) -> Any:
    """Give back what it was given to hire data workers with."""
    return hire


def say(recipe: Any, world: World, folder: Path) -> None:
    """Log at two levels, then stop as the recipe says."""
    log = logging.getLogger("hpse_dist.targets")
    log.info("starting")
    log.warning("checkpoint step_00000100 is broken, the one before is used")
    if isinstance(recipe, BaseException):
        raise recipe


def _write(path: Path, value: Any) -> None:
    temporary = path.with_suffix(".partial")
    temporary.write_text(json.dumps(value))
    temporary.replace(path)
