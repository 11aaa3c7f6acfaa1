"""`python -m pipelines.doctor`: does all that training needs work on this machine, or cluster?"""

from __future__ import annotations

import argparse
import functools
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.launch import launch
from hpse_dist.installed import beside_pins
from pipelines import command_parser, describe, run_command

if TYPE_CHECKING:
    from hpse_dist.recipe import PretrainRecipe

TRAINING = ("plain", "deepspeed", "ray")  # the checks that take the pictures of that check
Check = Callable[[Path], str]
"""What a scratch folder is enough for to say what came of it."""


def parser() -> argparse.ArgumentParser:
    made = command_parser(
        "doctor",
        "Try in small all that training needs: packages, GPUs, fused attention, FFCV, DeepSpeed, "
        "Ray. What does not work is named, and what works is tried all the same.",
        "python -m pipelines.doctor --workers 8",
    )
    made.add_argument(
        "--workers",
        type=int,
        default=1,
        help="trainers that Ray starts to train together, such as a cluster's GPUs; one by default",
    )
    made.add_argument("--without-ray", action="store_true", help="leave Ray out")
    return made


def main(options: argparse.Namespace) -> None:
    if options.workers < 1:
        raise ValueError(f"--workers must be at least 1, found {options.workers}")
    _say("packages", beside_pins())
    try:
        from hpse_dist.recipe import located

        checks = _checks(options)
    except Exception as error:  # a broken installation is what a doctor is asked about
        raise RuntimeError(
            f"what is installed cannot be imported ({type(error).__name__}: {error}); "
            "bash cluster/local.sh setup installs what is missing"
        ) from error
    root = located(Path())  # all machines are to see it, as they are to see what runs write
    scratch = Path(tempfile.mkdtemp(prefix=".doctor-", dir=root))
    try:
        failed: list[str] = []
        for name, check in checks.items():
            if name in TRAINING and "pictures" in failed:
                _say(name, "not tried, for want of pictures")
            elif not _works(name, check, scratch, options.debug):
                failed.append(name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if failed:
        raise RuntimeError(f"{', '.join(failed)} failed, as said above")
    print("done: all that training needs works here")


def _checks(options: argparse.Namespace) -> dict[str, Check]:
    """What is tried, in this order."""
    from hpse_dist import checkup

    workers = options.workers
    alone = functools.partial(_trained, trainers=workers, run=checkup.here)
    found: dict[str, Check] = {
        "machine": checkup.machine,
        "attention": checkup.attention,
        "pictures": functools.partial(checkup.pictures, trainers=workers),
        "plain": functools.partial(alone, name="plain", engine="plain"),
        "deepspeed": functools.partial(alone, name="deepspeed", engine="zero"),
    }
    if not options.without_ray:
        found["ray"] = functools.partial(_with_ray, workers=workers, debug=options.debug)
    return found


def _trained(
    scratch: Path,
    name: str,
    trainers: int,
    run: Callable[[PretrainRecipe], object],
    **machine: object,
) -> str:
    from hpse_dist import checkup

    return checkup.trained(checkup.recipe(scratch, name, trainers, **machine), run)


def _with_ray(scratch: Path, workers: int, debug: bool) -> str:
    """Trainers in processes of Ray's, on whatever machines it finds for them."""

    def run(recipe: PretrainRecipe) -> None:
        launch(
            "hpse_dist.run:pretrain",
            recipe,
            recipe.folder(),
            workers=workers,
            device=recipe.machine.device,
            max_failures=0,
            progress=False,
            debug=debug,
        )

    said = _trained(scratch, "ray", workers, run, engine="zero", workers=workers)
    return f"{workers} trainer{'s' if workers > 1 else ''}: {said}"


def _works(name: str, check: Check, scratch: Path, debug: bool) -> bool:
    """Try it and say what came of it."""
    try:
        _say(name, check(scratch))
    except Exception as error:  # whatever a library of the machine's has to say
        if debug:
            traceback.print_exc()
        said = describe(error)
        if isinstance(error, ImportError):
            said = f"{error}; bash cluster/local.sh setup installs what is missing"
        _say(name, f"FAILED: {said}")
        return False
    return True


def _say(name: str, said: str) -> None:
    print(f"{name:<10} {said}", flush=True)


if __name__ == "__main__":
    sys.exit(run_command(main, parser()))
