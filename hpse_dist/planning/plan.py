"""A plan: what was measured of a recipe on a machine, and which of its settings is the quickest.

Kept as plan.json in the run's folder, and in the cache for other runs of the same kind on the same
kind of machine.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from hpse_dist.body.free_body import cache_folder
from hpse_dist.config import build, digest, to_dict
from hpse_dist.disk import write_text
from hpse_dist.machine import Machine
from hpse_dist.recipe import TrainingRecipe
from hpse_dist.safety import parsed_json
from hpse_dist.world import World

PLAN_FILE = "plan.json"
WAITING = 0.02  # share of the time spent waiting for data from which another loader is looked at
SPEED_IGNORES = ("name", "seed", "steps", "optim", "guard", "machine", "source_name")


@dataclass(frozen=True)
class Setting:
    """What may be chosen without changing what a run computes."""

    engine: str
    zero_stage: int
    micro_batch: int
    recompute: bool = False
    compile: bool = False

    def __str__(self) -> str:
        stage = f" {self.zero_stage}" if self.engine == "zero" else ""
        more = ", recompute" * self.recompute + ", compiled" * self.compile
        return f"{self.engine}{stage}, micro-batch {self.micro_batch}{more}"

    def applied(self, machine: Machine) -> Machine:
        """The section `machine` of a recipe with this setting."""
        return replace(machine, **asdict(self))


@dataclass(frozen=True)
class Trial:
    """One setting, measured; the slowest rank's seconds, medians."""

    setting: Setting
    micro_s: float = 0.0
    """A micro-step that ends no update: forward, backward, and what the engine sends meanwhile."""
    update_s: float = 0.0
    """What the last micro-step of an update takes longer: exchange, optimizer."""
    peak_bytes: int = 0
    """The most that torch's allocator gave out on a GPU; 0 on a CPU."""
    compile_s: float = 0.0
    """What the first updates took longer than others, of a compiled setting: no part of the rest,
    and less where the machine's cache has the compiled code already."""
    failed: str = ""
    """Why there are no figures."""

    def step_s(self, accumulation: int) -> float:
        """One optimizer step of so many micro-steps."""
        return accumulation * self.micro_s + self.update_s


@dataclass(frozen=True)
class Link:
    """How trainers reach one another."""

    bytes_per_s: float
    """A ring's own: bytes that pass between two neighbours."""
    latency_s: float
    """Of the smallest all-reduce."""

    def all_reduce_s(self, size: int, world_size: int) -> float:
        """2 (W - 1) / W of the bytes pass each neighbour (Patarasu and Yuan 2009)."""
        if world_size == 1:
            return 0.0
        return self.latency_s + 2 * (world_size - 1) / world_size * size / self.bytes_per_s


@dataclass(frozen=True)
class Loading:
    """The loader alone, by itself at full speed on all ranks at once."""

    threads: int
    samples_per_s: float
    """Of one rank, the slowest."""


@dataclass(frozen=True)
class Together:
    """Training as it will be, for a short time: the loader and the chosen setting."""

    samples_per_s: float
    """Over all ranks."""
    wait_share: float
    """Share of the time spent waiting for data, the worst rank's."""
    compute_s: float
    """Seconds per sample and rank without the waiting."""
    core_s: float
    """Core seconds per sample: trainer, decoding and all, mean of the ranks."""
    spread: float
    """Half the range of the updates' times over their median."""
    loader: str = "inline"
    """machine.loader: where the data came from."""


@dataclass(frozen=True)
class Plan:
    """What was measured, and what is to be used."""

    name: str
    key: str
    """Digest of what decides speed: recipe, world and machine."""
    made: str
    seconds: float
    world_size: int
    local_size: int
    global_batch: int
    device: str
    machine: str
    cores: int
    parameter_bytes: int
    """Of what learns: the size of the gradient that is exchanged."""
    trials: tuple[Trial, ...]
    loading: tuple[Loading, ...]
    link: Link | None
    """None where one process was measured."""
    together: Together
    chosen: Setting
    loader_threads: int
    evaluation_s: float
    """One batch of the evaluation, on all ranks at once."""
    evaluation_rows: int
    """Held-out samples of one evaluation."""
    test_rows: int = 0
    """Samples of the sets that a fine-tuned model is measured on in the end."""
    other_loaders: tuple[Together, ...] = ()
    """The same with another loader, where waiting for data made that worth a look."""

    def trial(self, setting: Setting) -> Trial:
        """The measurement of a setting."""
        return next(trial for trial in self.trials if trial.setting == setting)

    def applied(self, recipe: TrainingRecipe) -> TrainingRecipe:
        """The recipe with what the plan has chosen."""
        machine = replace(
            self.chosen.applied(recipe.machine),
            loader=self.together.loader,  # type: ignore[arg-type]
            loader_threads=self.loader_threads,
        )
        return replace(recipe, machine=machine)


def best(trials: Iterable[Trial], global_batch: int, world_size: int) -> Setting:
    """The quickest setting; ValueError where none could be measured."""
    fine = [trial for trial in trials if not trial.failed]
    if not fine:
        reasons = "; ".join(f"{trial.setting}: {trial.failed}" for trial in trials)
        raise ValueError(f"no setting of this recipe could be measured here ({reasons})")

    def seconds(trial: Trial) -> float:
        return trial.step_s(global_batch // (world_size * trial.setting.micro_batch))

    return min(fine, key=seconds).setting


def machine_name(device: torch.device) -> str:
    """The kind of machine: processor, cores and the trainer's GPU."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {os.cpu_count()} cores"
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.is_file() else None
    processor = found[1].strip() if found else platform.machine()
    return f"{processor}, {os.cpu_count()} cores"


def key_of(recipe: TrainingRecipe, world: World, device: torch.device) -> str:
    """What a plan is good for: runs of the same work by as many trainers on the same machines."""
    return digest(
        {
            "work": digest(recipe, ignore=SPEED_IGNORES),
            "micro_batch": recipe.machine.micro_batch,
            "asked": [recipe.machine.recompute, recipe.machine.compile],
            "loader": [recipe.machine.loader, recipe.machine.crew_size()],
            "world": [world.size, world.local_size],
            "machine": machine_name(device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
    )


def stored(folder: Path, key: str) -> Plan | None:
    """The plan in a run's folder, else the cache's, where it is of this key."""
    for path in (Path(folder) / PLAN_FILE, cache_folder() / "plans" / f"{key}.json"):
        plan = read_plan(path)
        if plan is not None and plan.key == key:
            return plan
    return None


def read_plan(path: Path) -> Plan | None:
    """A plan from its file; None where there is none, or one that another version wrote."""
    try:
        return build(Plan, parsed_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def store(plan: Plan, folder: Path) -> Path:
    """Write a plan into a run's folder and into the cache; returns the first."""
    text = json.dumps(to_dict(plan), indent=1)
    path = Path(folder) / PLAN_FILE
    for place in (path, cache_folder() / "plans" / f"{plan.key}.json"):
        place.parent.mkdir(parents=True, exist_ok=True)
        write_text(place, text)
    return path
