"""ASHA over real Ray trials: a planted best is found, losers stop early, and all of it goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.halving import Halving, Job, evaluations, has_ended, is_done
from cluster.launch import connected
from cluster.sweep import sweep
from hpse_dist.report.runs import STOPPED, STOPPED_FILE, read_run

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
]
ROOT = Path(__file__).parents[2]
STEPS, EVERY, BEST = 36, 4, 1e-3
RATES = (1e-3, 1e-5, 1e-4, 1e-1, 3e-3, 1e-2)  # the first to come is never stopped: let it be best
HALVING = Halving("val/error", True, EVERY, STEPS, reduction=3)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    before = dict(os.environ)
    os.environ["PYTHONPATH"] = str(ROOT)
    os.environ.pop("RAY_ADDRESS", None)
    try:
        with connected():
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def jobs(folder: Path, **changes: object) -> list[Job]:
    made = []
    for rate in RATES:
        recipe = {"lr": rate, "steps": STEPS, "every": EVERY, "pause_s": 0.1} | changes
        name = f"lr{rate:g}"
        made.append(Job(name, "tests.cluster.targets:planted", recipe, folder / name, STEPS))
    return made


def reached(job: Job) -> int:
    return evaluations(job.folder, "val/error")[-1][0]


def test_a_planted_best_is_found_and_losers_stop_early(cluster: None, tmp_path: Path) -> None:
    tried = jobs(tmp_path, die_at=9)  # each process that comes so far dies there once
    outcomes = sweep(tried, tmp_path / "ray", at_once=2, halving=HALVING, progress=False)
    assert [one.error for one in outcomes] == [None] * len(RATES)
    best = tried[RATES.index(BEST)]
    assert is_done(best.folder)
    stopped = [job for job in tried if (job.folder / STOPPED_FILE).is_file()]
    assert len(stopped) >= 3 and all(not is_done(job.folder) for job in stopped)
    saved = sum(STEPS - reached(job) for job in stopped)
    assert saved >= len(RATES) * STEPS / 4
    run = read_run(stopped[0].folder)
    assert run.state == STOPPED and run.done and run.metrics["error"] > 0.1
    assert run.steps == reached(stopped[0])

    # interrupted: one trial had not ended, the others have; they are not run again
    (best.folder / "DONE").unlink()
    log = best.folder / "metrics.jsonl"
    log.write_text("\n".join(log.read_text().splitlines()[:20]) + "\n")
    again = sweep(tried, tmp_path / "ray", at_once=2, halving=HALVING, progress=False)
    assert all(has_ended(job.folder) for job in tried)
    assert [one.name for one in again if not one.skipped] == [best.name]
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == list(range(1, STEPS + 1))  # it went on after its twentieth
    assert not any(is_done(job.folder) for job in stopped)
    assert all(one.skipped for one in sweep(tried, tmp_path / "ray", halving=HALVING))
