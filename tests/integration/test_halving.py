"""ASHA over real Ray trials: a planted best is found, losers stop early, and all of it goes on.

One trial at a time, and a loser waits at its first look until it is stopped: nothing hangs on how
fast the machine is.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cluster.connection import Cluster
from cluster.halving import Halving, Job, evaluations, has_ended, is_done
from cluster.sweep import sweep
from hpse_dist.report.runs import STOPPED, STOPPED_FILE, read_run

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
]
STEPS, EVERY, BEST = 12, 4, 1e-3
HALVING = Halving("val/error", True, EVERY, STEPS, reduction=3)


def job(folder: Path, rate: float, **changes: object) -> Job:
    recipe = {"lr": rate, "steps": STEPS, "every": EVERY} | changes
    name = f"lr{rate:g}"
    return Job(name, "tests.cluster.targets:planted", recipe, folder / name, STEPS)


def logged(job: Job) -> list[int]:
    lines = (job.folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def test_nobody_is_stopped_at_the_last_step_and_everybody_diverged_before(tmp_path: Path) -> None:
    """By Tune's own scheduler, without Ray: values at the looks 4 and 12, of 12 steps."""
    nobody: Any = None
    jobs = [job(tmp_path, rate) for rate in (1.0, 2.0, 3.0, 4.0)]
    scheduler = HALVING.scheduler(jobs, ())
    trials = [SimpleNamespace(trial_id=str(i), config={"index": i}) for i in range(4)]
    for one, trial in zip(jobs, trials, strict=True):
        one.folder.mkdir(parents=True)
        (one.folder / "metrics.jsonl").write_text("")
        scheduler.on_trial_add(nobody, cast(Any, trial))

    def said(number: int, step: int, value: float) -> str:
        result = {"step": step, "value": HALVING.told(value)}
        return scheduler.on_trial_result(nobody, cast(Any, trials[number]), result)

    for number in (0, 1):
        said(number, EVERY, math.nan)
    assert said(2, EVERY, 1.0) == scheduler.CONTINUE
    assert said(3, EVERY, math.nan) == scheduler.STOP, "two of three diverged before it"
    said(2, STEPS, 0.5)
    assert said(0, STEPS, 9.0) == scheduler.CONTINUE, "it ends itself, with its export"


def test_a_planted_best_is_found_and_losers_stop_early(cluster: Cluster, tmp_path: Path) -> None:
    first = job(tmp_path, 1e-4)  # nobody came before it, so it goes to its end
    best = job(tmp_path, BEST, die_at=9)  # its process dies there once
    losers = [job(tmp_path, rate, wait_at=EVERY) for rate in (1e-1, 1e-6)]
    tried = [first, best, losers[0]]
    records = tmp_path / "ray"
    outcomes = sweep(tried, records, at_once=1, halving=HALVING, progress=False)
    assert [one.error for one in outcomes] == [None] * 3
    ended = {one.name: evaluations(one.folder, "val/error") for one in tried if is_done(one.folder)}
    assert min(ended, key=lambda name: ended[name][-1][1]) == best.name and len(ended) == 2
    assert logged(best) == list(range(1, STEPS + 1))  # on from where it had died
    run = read_run(losers[0].folder)
    assert run.state == STOPPED and run.done and run.steps == EVERY
    assert run.metrics["error"] > 2

    # interrupted: the best had not ended; what the others had come to is not forgotten
    (best.folder / "DONE").unlink()
    log = best.folder / "metrics.jsonl"
    log.write_text("\n".join(log.read_text().splitlines()[:10]) + "\n")
    again = sweep([*tried, losers[1]], records, at_once=1, halving=HALVING, progress=False)
    assert [one.name for one in again if not one.skipped] == [best.name, losers[1].name]
    assert is_done(best.folder) and logged(best) == list(range(1, STEPS + 1))
    for loser in losers:
        assert (loser.folder / STOPPED_FILE).is_file() and not is_done(loser.folder)
        assert logged(loser) == list(range(1, EVERY + 1))
    assert all(has_ended(one.folder) for one in (*tried, *losers))
    assert all(one.skipped for one in sweep(tried, records, halving=HALVING))
    assert not records.exists()  # Tune's own records are passing ones
