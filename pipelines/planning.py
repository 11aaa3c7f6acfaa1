"""`--plan` of the training commands: what was measured, as a table, and what follows from it."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import torch

from hpse_dist.config import ConfigError
from hpse_dist.disk import write_text
from hpse_dist.feed import Feed
from hpse_dist.planning.forecast import Forecast, Prices, forecast, readable
from hpse_dist.planning.memory import need
from hpse_dist.planning.plan import PLAN_FILE, Plan, read_plan
from hpse_dist.recipe import TrainingRecipe
from hpse_dist.starting import module_of
from hpse_dist.world import World

FORECAST_FILE = "forecast.json"


def add_arguments(made: argparse.ArgumentParser) -> None:
    """Options of a plan."""
    group = made.add_argument_group("planning")
    group.add_argument(
        "--plan",
        action="store_true",
        help="measure for about a minute and say what the run will take; trains nothing",
    )
    group.add_argument("--nodes", type=int, default=1, help="machines to plan for")
    group.add_argument(
        "--gpus", type=int, help="GPUs on each (on CPUs: trainers); as many as measured if left out"
    )
    group.add_argument("--network", type=float, metavar="GB/S", help="between nodes, one direction")
    group.add_argument("--link", type=float, metavar="GB/S", help="between the GPUs of a node")
    group.add_argument("--price", type=float, help="of a GPU for an hour, in any currency")


def check(recipe: TrainingRecipe, options: argparse.Namespace) -> None:
    """ConfigError for what is wrong with the options, before a minute is spent."""
    for name in ("nodes", "gpus", "network", "link", "price"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise ConfigError(f"--{name} must be above 0, found {value:g}")
    if recipe.machine.offload != "nothing":
        raise ConfigError(
            "a plan measures what fits on the trainers' devices: plan with machine.offload=nothing"
        )
    if options.nodes > 1 and options.network is None:
        raise ConfigError("more than one node: give the network's speed with --network GB/s")
    gpus = options.gpus or recipe.machine.workers
    if gpus > 1 and recipe.machine.workers == 1 and options.link is None:
        raise ConfigError(
            "a plan of one trainer does not see how fast several reach one another: plan with "
            "machine.workers=2 or more, or give --link GB/s"
        )


def show(recipe: TrainingRecipe, folder: Path, options: argparse.Namespace) -> None:
    """Print the plan in a run's folder and what it says of other numbers of machines."""
    plan = read_plan(folder / PLAN_FILE)
    assert plan is not None, "the workers have just written it"
    prices = Prices(options.link, options.network, options.price)
    wanted = [(1, plan.local_size), (options.nodes, options.gpus or plan.local_size)]
    wanted = [counts for counts in dict.fromkeys(wanted) if plan.world_size == plan.local_size]
    if not wanted:
        wanted = [(options.nodes, options.gpus or plan.local_size)]
    ahead = [forecast(plan, recipe, nodes, gpus, prices) for nodes, gpus in wanted]
    memory = [_memory(recipe, plan, one) for one in ahead]
    print(readable(plan, recipe, ahead, memory))
    rows = [asdict(one) | {"memory": held} for one, held in zip(ahead, memory, strict=True)]
    write_text(folder / FORECAST_FILE, json.dumps(rows, indent=1))
    print(f"done: {folder / PLAN_FILE}; machine.engine=auto uses it")


def _memory(recipe: TrainingRecipe, plan: Plan, one: Forecast) -> str:
    """What a trainer's device has to hold, where that can be told."""
    machine = one.setting.applied(recipe.machine)
    here = replace(recipe, machine=replace(recipe.machine, loader="inline"))  # no Ray here
    try:
        module, _ = module_of(recipe)
        example = next(iter(Feed(here, module, World(), torch.device("cpu")).loader()))
        held = need(replace(recipe, machine=machine), one.nodes * one.gpus, example).peak
    except ValueError:
        return "unknown"
    return f"{held / 2**20:,.0f} MiB"
