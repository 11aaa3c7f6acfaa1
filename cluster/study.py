"""Carry out a study's plan: shared pre-trainings one by one, then the arms side by side."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from cluster.connection import connected
from cluster.launch import launch
from cluster.notice import STOPPED
from cluster.sweep import Job, Outcome, is_done, sweep
from hpse_dist.stopping import told_to_stop
from hpse_dist.study import PlannedRun


def carry_out(
    runs: Sequence[PlannedRun],
    folder: Path,
    *,
    at_once: int | None = None,
    refusal: Callable[[], str | None] = lambda: None,
    progress: bool = True,
    debug: bool = False,
) -> list[Outcome]:
    """Run what is not done yet, in the plan's order; says how every run ended.

    A run that fails is reported and those that need it are given up; the others go on. Crashed
    workers are started again as often as the run's own recipe allows. `refusal` is asked before
    each run: a sentence why nothing more is to be started, such as a budget's, or None. After
    SIGTERM nothing more is started, and what runs ends with a checkpoint.
    """
    if all(is_done(run.folder) for run in runs):
        return [Outcome(run.name, run.folder, skipped=True) for run in runs]
    outcomes: dict[str, Outcome] = {}
    with told_to_stop() as told, connected(debug=debug):
        for run in runs:
            if run.kind == "pretrain":
                given_up = None
                if not is_done(run.folder):
                    given_up = _lost(run, outcomes) or (STOPPED if told() else refusal())
                if given_up:
                    outcomes[run.name] = Outcome(run.name, run.folder, given_up)
                else:
                    outcomes[run.name] = _pretrain(run, progress=progress, debug=debug)
                _say(outcomes[run.name], progress)
        ready = []
        for run in runs:
            if run.kind == "finetune" and (lost := _lost(run, outcomes)):
                outcomes[run.name] = Outcome(run.name, run.folder, lost)
            elif run.kind == "finetune":
                ready.append(run)
        for device, group in itertools.groupby(ready, key=lambda run: run.recipe.machine.device):
            for outcome in sweep(
                [job(run, refusal) for run in group],
                folder / "ray",
                device=device,
                at_once=at_once,
                max_failures=min(run.recipe.machine.max_failures for run in ready),
                progress=progress,
                debug=debug,
            ):
                outcomes[outcome.name] = outcome
    return [outcomes[run.name] for run in runs]


def _pretrain(run: PlannedRun, *, progress: bool, debug: bool) -> Outcome:
    """One pre-training over all the workers that its recipe asks for."""
    done = Outcome(run.name, run.folder)
    if is_done(run.folder):
        return replace(done, skipped=True)
    try:
        launch(
            run.target,
            run.recipe,
            run.folder,
            workers=run.recipe.machine.workers,
            fewer=run.recipe.fewer_workers(),
            loader_threads=run.recipe.machine.loader_threads,
            data_workers=run.recipe.machine.crew_size(),
            device=run.recipe.machine.device,
            steps=run.recipe.steps,
            max_failures=run.recipe.machine.max_failures,
            hang_limit_s=run.recipe.machine.hang_limit_s,
            progress=progress,
            debug=debug,
        )
    except (ValueError, OSError) as error:
        if debug:
            raise
        return replace(done, error=str(error))
    return done if is_done(run.folder) else replace(done, error=STOPPED)


def _lost(run: PlannedRun, outcomes: Mapping[str, Outcome]) -> str | None:
    """Why a run cannot be carried out: a run that must come before it is not done."""
    lost = next((name for name in run.after if outcomes[name].error), None)
    return f"its source {lost} is not done" if lost else None


def job(run: PlannedRun, refusal: Callable[[], str | None]) -> Job:
    """A planned run for a sweep of them."""
    limit_s = run.recipe.machine.hang_limit_s
    return Job(run.name, run.target, run.recipe, run.folder, run.recipe.steps, refusal, limit_s)


def _say(outcome: Outcome, progress: bool) -> None:
    if progress:
        how = f"failed: {outcome.error}" if outcome.error else "done"
        tqdm.write(f"{outcome.name} {how}", file=sys.stderr)
