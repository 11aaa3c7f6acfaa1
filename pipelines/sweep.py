"""`python -m pipelines.sweep <sweep.yaml> [--plan]`: hyper-parameters tried for every source."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.connection import connected
from cluster.halving import Halving, evaluations, has_ended
from cluster.study import carry_out, job
from cluster.sweep import Outcome, sweep
from hpse_dist.config import ConfigError, load
from hpse_dist.draws import permutation
from hpse_dist.report import write_report
from hpse_dist.report.live import LivePage
from hpse_dist.run_folder import check_folder
from hpse_dist.stopping import told_to_stop
from hpse_dist.study import PlannedRun, write_plan
from hpse_dist.study_state import Budget, check_origins, free_finished
from hpse_dist.sweep import (
    SweepRecipe,
    Trial,
    round_runs,
    steps_saved,
    survivors,
    trial,
    write_trials,
)
from pipelines import command_parser, run_command
from pipelines.study import check


def parser() -> argparse.ArgumentParser:
    made = command_parser(
        "sweep",
        "Try the same hyper-parameters for every source, stop losers early (Ray Tune's ASHA), "
        "let the best go on to the next round, and write the report with the spread; run again, "
        "it goes on where it was.",
        "python -m pipelines.sweep configs/sweep/pose2d.yaml --plan",
    )
    made.add_argument("recipe", type=Path, help="a YAML under configs/sweep/")
    made.add_argument("overrides", nargs="*", metavar="key=value", help="such as samples=8")
    made.add_argument("--plan", action="store_true", help="print the first round; start nothing")
    return made


class _Sweep:
    """A sweep under way: what of it is planned and how its trials stand."""

    def __init__(self, recipe: SweepRecipe, debug: bool) -> None:
        self.recipe, self.debug = recipe, debug
        self.metric = f"val/{recipe.metric}"
        self.runs: list[PlannedRun] = []  # of all rounds so far, pre-trainings among them
        self.failed: list[Outcome] = []
        self.ray = contextlib.ExitStack()
        self.every: dict[str, list[Any]] = {name: recipe.settings() for name in recipe.sources}
        self.planned = [self.plan(name, self.every) for name in recipe.rounds]  # all recipes hold
        self.budget = Budget(
            recipe, [one for both in self.planned for runs in both for one in runs]
        )

    def plan(
        self, name: str, settings: Mapping[str, Sequence[Any]]
    ) -> tuple[list[PlannedRun], list[PlannedRun]]:
        """A round's pre-trainings and trials, with so many evaluations as the round says."""
        looks = self.recipe.rounds[name].looks
        first, trials = round_runs(self.recipe, name, settings)
        planned = []
        for run in trials:
            every = max(1, run.recipe.steps // looks)
            planned.append(replace(run, recipe=replace(run.recipe, evaluate_every=every)))
        return first, planned

    def carry_out(self, name: str, settings: Mapping[str, Sequence[Any]]) -> list[Trial]:
        """One round: what it needs, then each source's trials by themselves, so that every source
        has the same budget and its settings are judged against one another."""
        first, runs = self.plan(name, settings)
        for run in runs:
            check_folder(run.recipe, run.folder)
            check_origins(run)
        known = {run.name for run in self.runs}
        self.runs += [run for run in (*first, *runs) if run.name not in known]
        study = self.recipe.as_study(name, self.recipe.settings()[:1])[0]
        write_plan(study, tuple(self.runs))
        write_trials(self.recipe, self.trials())
        if not all(has_ended(run.folder) for run in (*first, *runs)):
            self.ray.enter_context(connected(debug=self.debug))  # once; until the sweep's end
        with LivePage(study.folder()):
            made = carry_out(first, study.folder(), refusal=self.budget.refusal, debug=self.debug)
            lost = {one.name: one for one in made}
            for source in self.recipe.sources:
                mine = [run for run in runs if run.source == source]
                if missing := [lost[one] for run in mine for one in run.after if lost[one].error]:
                    self.failed += missing[:1]
                elif mine:
                    self._tried(name, mine)
                    write_trials(self.recipe, self.trials())
        return self.trials(name)

    def _tried(self, name: str, runs: Sequence[PlannedRun]) -> None:
        recipe = runs[0].recipe
        # mixed: on a rising learning rate each run would beat all before it, and none would stop
        mixed = permutation(self.recipe.seed, "sweep", 0, len(runs))
        runs = [runs[int(place)] for place in mixed]
        outcomes = sweep(
            [job(run, self.budget.refusal) for run in runs],
            self.recipe.folder() / "ray",
            device=recipe.machine.device,
            at_once=self.recipe.machine.concurrent,
            max_failures=recipe.machine.max_failures,
            halving=Halving(
                self.metric,
                self.recipe.lower_is_better(),
                recipe.evaluate_every,
                recipe.steps,
                self.recipe.reduction,
            ),
            debug=self.debug,
        )
        self.failed += [one for one in outcomes if one.error]
        for one in self.trials(name):
            if one.source == runs[0].source:
                where = " ".join(f"{key}={value}" for key, value in one.settings.items())
                value = f"{one.value:.4g}" if one.history else "not measured"
                print(
                    f"{one.source} {name} {where}: {self.recipe.metric} {value}, "
                    f"{one.state} at step {one.step} of {one.steps}"
                )

    def trials(self, name: str | None = None) -> list[Trial]:
        """How the trials of a round stand, or of all so far."""
        return [
            trial(run, evaluations(run.folder, self.metric))
            for run in self.runs
            if run.kind == "finetune" and name in (None, run.task)
        ]


def main(options: argparse.Namespace) -> None:
    recipe = load(SweepRecipe, options.recipe, options.overrides)
    under_way = _Sweep(recipe, options.debug)
    settings = under_way.every
    if options.plan:
        _say_plan(recipe, under_way.planned[0])
        return
    for first, trials in under_way.planned:
        check([*first, *trials])
    recipe.folder().mkdir(parents=True, exist_ok=True)
    with told_to_stop(), under_way.ray:
        for name in recipe.rounds:
            tried = under_way.carry_out(name, settings)
            settings = survivors(recipe, tried, recipe.rounds[name].keep)
    if recipe.machine.free_finished:
        free_finished(under_way.runs)
    page = write_report(recipe.folder())
    _say_end(recipe, under_way, page)


def _say_plan(recipe: SweepRecipe, first: tuple[list[PlannedRun], list[PlannedRun]]) -> None:
    for run in (*first[0], *first[1]):
        print(f"{run.kind:8s}  {run.name}  {run.recipe.steps} steps")
    later = list(recipe.rounds.items())
    for (_, before), (name, this) in itertools.pairwise(later):
        print(f"then {name}: the best {before.keep} of each source, {this.recipe}")


def _say_end(recipe: SweepRecipe, under_way: _Sweep, page: Path) -> None:
    trials = under_way.trials()
    saved, whole = steps_saved(trials)
    last = list(recipe.rounds)[-1]
    for source, best in survivors(recipe, under_way.trials(last), 1).items():
        if best:
            print(f"{source}: best {' '.join(f'{k}={v}' for k, v in best[0].items())}")
    if under_way.failed:
        one = under_way.failed[0]
        raise ValueError(
            f"{len(under_way.failed)} of {len(under_way.runs)} runs are not done ({one.name}: "
            f"{one.error}); the same command tries them again, the others are in {page}"
        )
    if not any(trial.history for trial in trials):
        raise ConfigError(
            f"metric: no run of the sweep has measured {recipe.metric}; its runs have given "
            f"other names, see metrics in {trials[0].name}/report.json"
        )
    print(
        f"all {len(trials)} trials ended; {saved} of {whole} steps saved by stopping losers early; "
        f"report: {page}"
    )


if __name__ == "__main__":
    sys.exit(run_command(main, parser()))
