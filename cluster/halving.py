"""Stopping the losers of a sweep early: Ray Tune's ASHA, fed from the run folders.

A run writes its evaluations into its folder as ever; beside it, in the same process, a loop tells
Tune of them. What ended runs had to say is read from their folders, so the scheduler of an
interrupted sweep knows what the one before knew.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cluster.worker import run_target
from hpse_dist.disk import write_text
from hpse_dist.log import METRICS_FILE, read_metrics
from hpse_dist.report.runs import STOPPED_FILE
from hpse_dist.world import World

STEP, VALUE = "step", "value"
POLL_S = 0.2
_WORST = 1e30


@dataclass(frozen=True)
class Job:
    """One run of a sweep: `target(recipe, world, folder)` in a process of its own."""

    name: str
    target: str
    recipe: Any
    folder: Path
    steps: int | None = None
    refusal: Callable[[], str | None] | None = None
    """Asked when its turn comes: why it is not to be started after all."""
    hang_limit_s: float = 90.0
    """A process that gives no sign of life for so long is ended and started again."""


@dataclass(frozen=True)
class Halving:
    """Asynchronous successive halving (ASHA, Li et al. 2020)."""

    metric: str
    """Of the evaluations, as in metrics.jsonl, such as val/pa_mpjpe."""
    lower_is_better: bool
    first: int
    """Step of the first look."""
    steps: int
    """Of a whole run."""
    reduction: int = 3
    """At each look one of so many goes on; looks are at first * reduction^k."""

    def scheduler(self, jobs: Sequence[Job], ended: Sequence[Job] = ()) -> Any:
        """Tune's scheduler of some jobs, in the driver, that knows what became of `ended` ones;
        what it stops says so in its folder at once."""
        from ray.tune.schedulers import AsyncHyperBandScheduler

        last = self.steps

        class Marking(AsyncHyperBandScheduler):
            def on_trial_result(self, tune_controller: Any, trial: Any, result: Any) -> str:
                if result.get(STEP, 0) >= last:
                    return self.CONTINUE  # it ends itself, with its export and report
                decision = super().on_trial_result(tune_controller, trial, result)
                job = jobs[trial.config["index"]]
                if decision == self.STOP and not has_ended(job.folder):
                    write_text(job.folder / STOPPED_FILE, json.dumps(last_words(job), indent=1))
                return decision

        made = Marking(
            time_attr=STEP,
            metric=VALUE,
            mode="min" if self.lower_is_better else "max",
            # one beyond the last step: from max_t on ASHA stops a run without noting its result,
            # and what an ended run came to at its last step is to count for those that follow
            max_t=self.steps + 1,
            grace_period=self.first,
            reduction_factor=self.reduction,
        )
        for job in ended:
            past: Any = SimpleNamespace(trial_id=job.name)
            nobody: Any = None  # there is no Tune yet to ask
            made.on_trial_add(nobody, past)
            for step, value in evaluations(job.folder, self.metric):
                result = {STEP: step, VALUE: self.told(value)}
                AsyncHyperBandScheduler.on_trial_result(made, nobody, past, result)
        return made

    def told(self, value: float) -> float:
        """Worse than any run is, for what is no number; finite, since between infinities the
        percentile that ASHA stops below is no number either, and then nobody stops."""
        worst = _WORST if self.lower_is_better else -_WORST
        return value if math.isfinite(value) else worst


def is_done(folder: Path) -> bool:
    """Whether a run folder is complete."""
    return (folder / "DONE").exists()


def has_ended(folder: Path) -> bool:
    """Whether nothing is left to do: complete, or stopped early."""
    return is_done(folder) or (folder / STOPPED_FILE).exists()


def evaluations(folder: Path, metric: str) -> list[tuple[int, float]]:
    """Steps and values of one figure in a run's log."""
    path = folder / METRICS_FILE
    rows = read_metrics(path) if path.is_file() else []
    return [(int(row[STEP]), float(row[metric])) for row in rows if metric in row]


def reported(target: str, recipe: Any, folder: Path, halving: Halving) -> None:
    """Carry out a run and tell Tune of its evaluations; for use inside a trial.

    Where Tune stops the trial, `report` raises SystemExit here and the process ends, and with it
    the run's thread: as after a kill, its folder holds what it had come to.
    """
    from ray import tune

    error: list[BaseException] = []

    def carry_out() -> None:
        try:
            run_target(target, recipe, World(), folder)
        except BaseException as raised:
            error.append(raised)

    thread = threading.Thread(target=carry_out, name="run", daemon=True)
    thread.start()
    told = 0
    while True:
        alive = thread.is_alive()
        for step, value in _after(folder, halving, told):
            tune.report({STEP: step, VALUE: halving.told(value)})
            told = step
        if not alive:
            break
        time.sleep(POLL_S)
    if error:
        raise error[0]


def _after(folder: Path, halving: Halving, step: int) -> Iterator[tuple[int, float]]:
    for found in evaluations(folder, halving.metric):
        if found[0] > step:
            yield found


def last_words(job: Job) -> dict[str, Any]:
    """What report.json would say of a run, had it been planned to end where it was stopped."""
    rows = read_metrics(job.folder / METRICS_FILE)
    history = [
        {STEP: row[STEP]} | {k[4:]: v for k, v in row.items() if k.startswith("val/")}
        for row in rows
        if any(key.startswith("val/") for key in row)
    ]
    finite = [{k: v for k, v in row.items() if math.isfinite(v)} for row in history]
    found: dict[str, Any] = {
        "kind": "finetune",
        "steps": history[-1][STEP] if history else 0,
        "planned_steps": job.steps,
        "metrics": {k: v for k, v in finite[-1].items() if k != STEP} if finite else {},
        "history": finite,
    }
    about = job.recipe
    if hasattr(about, "protocol"):
        found |= {"protocol": about.protocol(), "seed": about.seed, "task": about.task_name()}
        found |= {"source": about.source_name, "recipe_hash": about.hash()}
        found |= {"label_fraction": about.label_fraction, "global_batch": about.global_batch}
    return found
