"""`python -m pipelines.pretrain <recipe.yaml> [key=value ...]`: from collections to a source."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cluster.launch import launch
from cluster.worker import resolve
from hpse_dist.config import ConfigError
from hpse_dist.data.decoding import NO_CREW
from hpse_dist.recipe import PretrainRecipe, TrainingRecipe
from hpse_dist.recipe_checks import load_checked
from hpse_dist.run_folder import check_folder, is_done
from hpse_dist.world import World
from pipelines import command_parser, planning, run_command

PLAN = "hpse_dist.planning.measure:plan"


def parser() -> argparse.ArgumentParser:
    made = command_parser(
        "pretrain",
        "Pre-train an encoder; run again, it goes on from its last good checkpoint.",
        "python -m pipelines.pretrain configs/pretrain/demo.yaml steps=100 machine.workers=1",
    )
    add_training_arguments(made)
    return made


def add_training_arguments(made: argparse.ArgumentParser) -> None:
    """What pre-training and fine-tuning commands share."""
    made.add_argument("recipe", type=Path, help="a YAML under configs/")
    made.add_argument("overrides", nargs="*", metavar="key=value", help="such as optim.lr=3e-4")
    made.add_argument(
        "--without-ray",
        action="store_true",
        help="run in this process, which then is the recipe's only worker",
    )
    planning.add_arguments(made)


def start(recipe: TrainingRecipe, target: str, options: argparse.Namespace) -> None:
    """Run a training recipe with `module:function` as `carry_out`, and say where the result is;
    RuntimeError where a signal stopped it before its end."""
    folder = recipe.folder()
    check_folder(recipe, folder)
    if options.plan:
        planning.check(recipe, options)
        carry_out(recipe, PLAN, folder, None, options)
        planning.show(recipe, folder, options)
        return
    if is_done(folder):
        print(f"done before: {folder}")
        return
    carry_out(recipe, target, folder, recipe.steps, options)
    if not is_done(folder):
        raise RuntimeError(f"{folder}: stopped before its end; the same command goes on")
    print(f"done: {folder}")


def carry_out(
    recipe: TrainingRecipe,
    target: str,
    folder: Path,
    steps: int | None,
    options: argparse.Namespace,
) -> None:
    """Call `module:function` on all of the recipe's workers, through Ray or here.

    By name: this process has no use for what only they import.
    """
    if options.without_ray:
        if recipe.machine.workers != 1:
            raise ConfigError(
                f"--without-ray runs one worker, machine.workers is {recipe.machine.workers}; "
                "leave --without-ray out, or add machine.workers=1"
            )
        if recipe.machine.loader == "workers":
            raise ConfigError(NO_CREW)
        resolve(target)(recipe, World(), folder)
    else:
        launch(
            target,
            recipe,
            folder,
            workers=recipe.machine.workers,
            fewer=recipe.fewer_workers(),
            loader_threads=recipe.machine.loader_threads,
            data_workers=recipe.machine.crew_size(),
            device=recipe.machine.device,
            steps=steps,
            max_failures=recipe.machine.max_failures,
            hang_limit_s=recipe.machine.hang_limit_s,
            saves=target != PLAN,
            debug=options.debug,
        )


def main(options: argparse.Namespace) -> None:
    recipe = load_checked(PretrainRecipe, options.recipe, options.overrides)
    start(recipe, "hpse_dist.run:pretrain", options)


if __name__ == "__main__":
    sys.exit(run_command(main, parser()))
