"""`python -m pipelines.finetune <recipe.yaml> source=<...> [key=value ...]`: source to task.

With `--predict` also files of predictions for the held-out frames, and what they score.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import get_args, get_type_hints

from cluster.launch import launch
from hpse_dist.config import ConfigError
from hpse_dist.predict import Wanted, predict
from hpse_dist.protocols import PROTOCOLS, named
from hpse_dist.recipe import FinetuneRecipe, HeldOut
from hpse_dist.recipe_checks import check_recipe, load_checked
from hpse_dist.run_folder import is_done, kept_scores
from hpse_dist.whole_set import judged
from hpse_dist.world import World
from pipelines import command_parser, place, run_command
from pipelines.pretrain import add_training_arguments, start

SPLITS = get_args(get_type_hints(HeldOut)["split"])


def parser() -> argparse.ArgumentParser:
    made = command_parser(
        "finetune",
        "Fine-tune a source on a task. A source is a run's folder, an encoder.safetensors, other "
        "people's checkpoint, timm:<name>, random, or blind (a random one that sees no picture).",
        "python -m pipelines.finetune configs/finetune/demo.yaml source=runs/demo_completion",
    )
    add_training_arguments(made)
    made.add_argument(
        "--predict",
        action="store_true",
        help="when the run is done, write and score predictions for the held-out frames",
    )
    made.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        metavar="NAME",
        help=f"for --predict, instead of the task's own: {', '.join(PROTOCOLS)}",
    )
    made.add_argument(
        "--on",
        type=place,
        metavar="COLLECTION",
        help="for --predict, instead of the frames that the run holds out",
    )
    made.add_argument("--split", choices=SPLITS, help="which frames of --on; default val")
    return made


def main(options: argparse.Namespace) -> None:
    recipe = load_checked(FinetuneRecipe, options.recipe, options.overrides)
    if options.protocol and not options.predict:
        raise ConfigError("--protocol is what --predict writes predictions for; add --predict")
    if (options.on or options.split) and not (options.predict and options.on):
        raise ConfigError("--on, and --split of it, is what --predict predicts; add what lacks")
    on = None
    if options.on:
        there = options.on.absolute() if options.on.exists() else options.on
        on = HeldOut(there, options.split or "val")
        check_recipe(replace(recipe, held_out=on), "--on")
    if options.predict:  # before it is trained, not after
        own, wanted = named(recipe.protocol()), named(options.protocol or recipe.protocol())
        if lacks := {*judged(wanted)} - {*judged(own)}:
            raise ConfigError(
                f"--protocol {wanted.name} judges {', '.join(sorted(lacks))}, which task "
                f"{recipe.task_name()} does not predict; choose another protocol"
            )
    start(recipe, "hpse_dist.run:finetune", options)
    if options.predict and not options.plan and is_done(recipe.folder()):
        predictions(Wanted(recipe, options.protocol or "", on), options)


def predictions(wanted: Wanted, options: argparse.Namespace) -> None:
    """Predict with the finished run, by as many workers as trained it; say what they score."""
    recipe, folder = wanted.recipe, wanted.recipe.folder()
    if options.without_ray:
        predict(wanted, World(), folder)
    else:
        launch(
            f"{predict.__module__}:{predict.__name__}",
            wanted,
            folder,
            workers=recipe.machine.workers,
            fewer=recipe.fewer_workers(),
            device=recipe.machine.device,
            max_failures=recipe.machine.max_failures,
            hang_limit_s=recipe.machine.hang_limit_s,
            saves=False,
            debug=options.debug,
        )
    print(f"predictions for protocol {wanted.name()}: {folder / wanted.folder()}")
    score = kept_scores(folder).get(wanted.name())  # none where it needs a regressor
    if score:
        told = [f"{name} {value:.4g}" for name, value in score["figures"].items()]
        print(f"{', '.join(told)} ({score['examples']} examples)")


if __name__ == "__main__":
    sys.exit(run_command(main, parser()))
