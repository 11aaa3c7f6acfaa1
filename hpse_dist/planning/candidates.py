"""What a plan tries: micro-batches, engines, threads; and how its ranks agree on what they saw."""

from __future__ import annotations

from typing import Any

import torch

from hpse_dist.collectives import gather_objects
from hpse_dist.fields import Batch
from hpse_dist.objectives import OBJECTIVES
from hpse_dist.planning.plan import Loading, Trial
from hpse_dist.recipe import PretrainRecipe, TrainingRecipe


def from_main(value: Any) -> Any:
    """The main rank's value, on every rank. Collective."""
    return gather_objects(value)[0]


def slowest(seconds: float) -> float:
    """The most that any rank needed. Collective."""
    return max(gather_objects(seconds))


def enough_threads(loading: list[Loading], trial: Trial) -> int:
    """The fewest threads that decode half as fast again as the trainer computes: more would take
    cores from it; else those that decode the most."""
    needed = 1.5 * trial.setting.micro_batch / trial.micro_s
    enough = [one.threads for one in loading if one.samples_per_s >= needed]
    return min(enough) if enough else max(loading, key=lambda one: one.samples_per_s).threads


def resized(batch: Batch, rows: int) -> Batch:
    """A batch of as many rows, the given ones over and over, each with an id of its own."""
    have = len(next(iter(batch.values())))
    index = torch.arange(rows, device=next(iter(batch.values())).device) % have
    made = {name: value[index] for name, value in batch.items()}
    if "sample_id" in made:
        made["sample_id"] = torch.arange(rows, device=index.device)
    return made


def micro_batches(recipe: TrainingRecipe, world_size: int) -> list[int]:
    """The recipe's, twice and half as many samples, and so on, of those that fill the global batch;
    where the objective compares a step's samples with one another, the one that has them all."""
    share, rest = divmod(recipe.global_batch, world_size)
    if rest:
        return [recipe.machine.micro_batch]
    kind = OBJECTIVES.get(recipe.objective_name()) if isinstance(recipe, PretrainRecipe) else None
    if kind is not None and not kind.splits:
        return [share]
    given = recipe.machine.micro_batch
    wanted = sorted({given // 4, given // 2, given, 2 * given, 4 * given, 8 * given})
    return [m for m in wanted if m >= 1 and share % m == 0]


def engines(recipe: TrainingRecipe, world_size: int) -> list[tuple[str, int]]:
    """Engine and ZeRO stage of what may be quicker, or smaller, than the simplest."""
    if world_size == 1:
        return [("zero", 1)]
    kind = OBJECTIVES.get(recipe.objective_name()) if isinstance(recipe, PretrainRecipe) else None
    stages = (1, 2) if kind is not None and not kind.shardable else (1, 2, 3)
    return [("zero", stage) for stage in stages]
