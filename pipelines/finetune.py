"""`python -m pipelines.finetune <recipe.yaml> source=<...> [key=value ...]`: source to task."""

from __future__ import annotations

import argparse
import sys

from hpse_dist.recipe import FinetuneRecipe, load_checked
from hpse_dist.run import finetune
from pipelines import command_parser, run_command
from pipelines.pretrain import add_training_arguments, start


def parser() -> argparse.ArgumentParser:
    made = command_parser(
        "finetune",
        "Fine-tune a source on a task. A source is a pre-training run's folder, an "
        "encoder.safetensors, or random.",
        "python -m pipelines.finetune configs/finetune/demo.yaml source=runs/demo/completion",
    )
    add_training_arguments(made)
    return made


def main(options: argparse.Namespace) -> None:
    start(load_checked(FinetuneRecipe, options.recipe, options.overrides), finetune, options)


if __name__ == "__main__":
    sys.exit(run_command(main, parser()))
