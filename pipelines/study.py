"""`python -m pipelines.study <study.yaml> [--plan]`: sources x tasks x seeds, and their report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.one_by_one import carry_out_here
from cluster.study import carry_out
from cluster.sweep import Outcome
from hpse_dist.config import load
from hpse_dist.recipe import FinetuneRecipe, PretrainRecipe, located
from hpse_dist.recipe_checks import load_checked
from hpse_dist.report import write_report
from hpse_dist.report.live import LivePage
from hpse_dist.run_folder import check_folder, is_done
from hpse_dist.source import TIMM, WORDS, read_source
from hpse_dist.study import PlannedRun, plan, write_plan
from hpse_dist.study_recipe import StudyRecipe
from hpse_dist.study_state import Budget, check_origins, describe, free_finished
from pipelines import command_parser, run_command


def parser() -> argparse.ArgumentParser:
    made = command_parser(
        "study",
        "Pre-train what a study's sources need, fine-tune every source on every task with every "
        "label fraction, setting and seed, and write the report, which follows the runs while they "
        "go; run again, it goes on where it was.",
        "python -m pipelines.study configs/study/demo.yaml --plan",
    )
    made.add_argument("recipe", type=Path, help="a YAML under configs/study/")
    made.add_argument("overrides", nargs="*", metavar="key=value", help="such as seeds=[0,1]")
    made.add_argument(
        "--plan",
        action="store_true",
        help="print the runs, their order and state, and what they will take; start nothing",
    )
    made.add_argument(
        "--without-ray", action="store_true", help="one run after the other, in this process"
    )
    return made


def check(runs: Sequence[PlannedRun]) -> None:
    """Find out now what would stop a run later: data, folders of other recipes, sources."""
    for run in runs:
        check_folder(run.recipe, run.folder)
        check_origins(run)
        if not is_done(run.folder):
            kind = PretrainRecipe if run.kind == "pretrain" else FinetuneRecipe
            load_checked(kind, run.path, run.overrides)
    places = {run.recipe.source for run in runs if not run.after}
    for place in sorted(places - {*WORDS}):
        if not place.startswith(TIMM):
            read_source(located(place))


def _told(failed: Sequence[Outcome]) -> str:
    """Each reason once, with the runs that it is of."""
    names: dict[str, list[str]] = {}
    for outcome in failed:
        names.setdefault(str(outcome.error), []).append(outcome.name)
    return "; ".join(
        f"{', '.join(found[:3])}{f' and {len(found) - 3} more' if len(found) > 3 else ''}: {reason}"
        for reason, found in names.items()
    )


def main(options: argparse.Namespace) -> None:
    study = load(StudyRecipe, options.recipe, options.overrides)
    runs = plan(study)
    if options.plan:
        print("\n".join(describe(runs)))
        print(f"report: {study.folder() / 'report.html'}")
        return
    done = sum(is_done(run.folder) for run in runs)
    check(runs)
    refusal = Budget(study, runs).refusal
    folder = write_plan(study, runs)

    def free() -> None:
        if study.machine.free_finished:
            free_finished(runs)

    with LivePage(folder, on_change=free):
        if options.without_ray:
            outcomes = carry_out_here(runs, refusal=refusal, debug=options.debug)
        else:
            outcomes = carry_out(
                runs,
                folder,
                at_once=study.machine.concurrent,
                refusal=refusal,
                debug=options.debug,
            )
    free()
    page = write_report(folder)
    failed = [outcome for outcome in outcomes if outcome.error]
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(runs)} runs are not done ({_told(failed)}); the same command "
            f"tries them again, the report of the others is {page}"
        )
    print(f"all {len(runs)} runs done, {done} of them before; report: {page}")


if __name__ == "__main__":
    sys.exit(run_command(main, parser()))
