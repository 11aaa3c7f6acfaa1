"""Carry out a study's plan in this process, one run after the other, without Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from cluster.notice import STOPPED
from cluster.sweep import Outcome, is_done
from cluster.worker import Final, forget_final, read_final, run_target, sentence, write_final
from hpse_dist.stopping import told_to_stop
from hpse_dist.study import PlannedRun
from hpse_dist.world import World


def carry_out_here(
    runs: Sequence[PlannedRun],
    *,
    refusal: Callable[[], str | None] = lambda: None,
    debug: bool = False,
) -> list[Outcome]:
    """Run what is not done yet, in the plan's order; says how every run ended.

    A run that fails is reported and those that need it are given up; the others go on. `refusal` is
    asked before each run, as by `cluster.study.carry_out`; after it has said why, or a signal has
    come, within a run or between two, nothing more is started.
    """
    with told_to_stop() as told:
        return _carry_out(runs, lambda: STOPPED if told() else refusal(), debug)


def _carry_out(
    runs: Sequence[PlannedRun], refusal: Callable[[], str | None], debug: bool
) -> list[Outcome]:
    outcomes: dict[str, Outcome] = {}
    stop: str | None = None
    for run in runs:
        lost = next((name for name in run.after if outcomes[name].error), None)
        if is_done(run.folder):
            outcomes[run.name] = Outcome(run.name, run.folder, skipped=True)
            continue
        stop = stop or refusal()
        reason = stop or (f"its source {lost} is not done" if lost else None)
        if reason is None:
            reason = _run(run, debug)
            if reason is None and not is_done(run.folder):
                reason = stop = STOPPED
        outcomes[run.name] = Outcome(run.name, run.folder, reason)
    return [outcomes[run.name] for run in runs]


def _run(run: PlannedRun, debug: bool) -> str | None:
    """Carry out one run; the sentence of its error is kept in its folder, as a worker's is."""
    forget_final(run.folder)
    said = None
    try:
        run_target(run.target, _alone(run.recipe), World(), run.folder)
    except Exception as error:
        if debug:
            raise
        said = sentence(error)
        if read_final(run.folder) is None:
            write_final(run.folder, 0, Final(type(error).__name__, said))
    final = read_final(run.folder)
    return final.sentence if final else said


def _alone(recipe: Any) -> Any:
    """The recipe for one worker, with the micro-batches of all: the same steps of the same data."""
    machine = recipe.machine
    together = machine.workers * machine.micro_batch
    return replace(recipe, machine=replace(machine, workers=1, micro_batch=together))
