"""`python -m pipelines.study <study.yaml> [--plan]`: sources x tasks x seeds, and their report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.study import carry_out
from hpse_dist.config import load
from hpse_dist.recipe import FinetuneRecipe, PretrainRecipe, load_checked, located
from hpse_dist.report import write_report
from hpse_dist.run_folder import check_folder, is_done
from hpse_dist.source import TIMM, read_source
from hpse_dist.study import PlannedRun, describe, plan, write_plan
from hpse_dist.study_recipe import StudyRecipe
from pipelines import command_parser, run_command


def parser() -> argparse.ArgumentParser:
    made = command_parser(
        "study",
        "Pre-train what a study's sources need, fine-tune every source on every task with every "
        "seed, and write the report; run again, it goes on where it was.",
        "python -m pipelines.study configs/study/demo.yaml --plan",
    )
    made.add_argument("recipe", type=Path, help="a YAML under configs/study/")
    made.add_argument("overrides", nargs="*", metavar="key=value", help="such as seeds=[0,1]")
    made.add_argument("--plan", action="store_true", help="print the runs, and start nothing")
    return made


def check(runs: Sequence[PlannedRun]) -> None:
    """Find out now what would stop a run later: data, folders of other recipes, sources."""
    for run in runs:
        if is_done(run.folder):
            check_folder(run.recipe, run.folder)
            continue
        kind = PretrainRecipe if run.kind == "pretrain" else FinetuneRecipe
        load_checked(kind, run.path, run.overrides)
        check_folder(run.recipe, run.folder)
    places = {
        run.recipe.source
        for run in runs
        if isinstance(run.recipe, FinetuneRecipe) and not run.after
    }
    for place in sorted(places - {"random"}):
        if not place.startswith(TIMM):
            read_source(located(place))


def main(options: argparse.Namespace) -> None:
    study = load(StudyRecipe, options.recipe, options.overrides)
    runs = plan(study)
    done = sum(is_done(run.folder) for run in runs)
    steps = sum(run.recipe.steps for run in runs if not is_done(run.folder))
    if options.plan:
        print("\n".join(describe(runs)))
        print(f"{len(runs)} runs, {done} done, {steps} steps to go; report: {study.folder()}")
        return
    check(runs)
    folder = write_plan(study, runs)
    outcomes = carry_out(runs, folder, at_once=study.machine.concurrent, debug=options.debug)
    page = write_report(folder)
    failed = [outcome for outcome in outcomes if outcome.error]
    if failed:
        told = "; ".join(f"{outcome.name}: {outcome.error}" for outcome in failed)
        raise ValueError(
            f"{len(failed)} of {len(runs)} runs failed ({told}); the report of the others is {page}"
        )
    print(f"all {len(runs)} runs done, {done} of them before; report: {page}")


if __name__ == "__main__":
    sys.exit(run_command(main, parser()))
