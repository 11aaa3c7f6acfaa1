"""The average over tasks is as sure as seeds and people allow, and no surer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hpse_dist.report.overview import OverviewRow, headline, overview
from hpse_dist.report.runs import Study, read_study
from hpse_dist.report.statistics import interval
from hpse_dist.report.tables import task_tables
from tests.report.made_study import make_finetuning, plan_row

PEOPLE = np.repeat(np.arange(5), 4)
LIKING = np.array([-9.0, -7.0, -3.0, 1.0, 3.0])  # mm by which a person's pictures suit the source
TASKS = {"body_mesh": "pa_mpjpe", "pose2d": "pck_005"}


def made(folder: Path, kept: Mapping[str, bool], seeds: int = 3) -> Study:
    """Two tasks of the same five people; `good` is ahead by what they happen to like, and its seeds
    agree within 0.1 mm."""
    rows = []
    for source in ("random", "good"):
        for task, name in TASKS.items():
            for seed in range(seeds):
                run = folder / f"{source}-{task}-{seed}"
                errors = 60.0 + 2 * np.sin(np.arange(20)) + 0.1 * seed
                errors = errors + (LIKING[PEOPLE] + 0.1 * (seed == 1) if source == "good" else 0)
                values = errors if name == "pa_mpjpe" else 100 - errors
                make_finetuning(run, source, seed, 1.0)
                report = json.loads((run / "report.json").read_text())
                report |= {"task": task, "protocol": task, "history": []}
                report |= {"metrics": {name: float(values.mean())}}
                (run / "report.json").write_text(json.dumps(report))
                rows.append(plan_row(folder, run.name, "finetune", source, task, seed))
                if kept[task]:
                    table = {"sample_id": np.arange(20), "subject": [f"s{i}" for i in PEOPLE]}
                    pq.write_table(
                        pa.table(table | {f"metric/{name}": values}), run / "examples.parquet"
                    )
    plan = {"study": "s", "baseline": "random", "runs": rows}
    (folder / "plan.json").write_text(json.dumps(plan))
    return read_study(folder)


def best(study: Study) -> tuple[OverviewRow, str]:
    found = overview(study, task_tables(study))
    assert found is not None and found.rows[0].source == "good"
    return found.rows[0], headline(found, 0)[0]


def test_seeds_that_agree_do_not_make_five_people_many(tmp_path: Path) -> None:
    row, told = best(made(tmp_path, dict.fromkeys(TASKS, True)))
    assert (row.seeds, row.people) == (3, 5)
    # the same people in both tasks, so that their chance does not average out: 100 d / 60 in each
    apart = interval(100 * (LIKING - LIKING.mean()) / 60)
    # seeds that agree leave the degrees of freedom to the people
    wide = apart.high - apart.low
    assert row.average.high - row.average.low == pytest.approx(wide, rel=0.02)
    assert not row.sure and "3 seeds and 5 people), which may be chance" in told


def test_without_examples_seeds_alone_are_asked(tmp_path: Path) -> None:
    row, told = best(made(tmp_path, dict.fromkeys(TASKS, False)))
    assert (row.seeds, row.people) == (3, 0) and row.average.n == 3
    assert row.sure and "3 seeds): sure beyond chance" in told


def test_people_of_the_tasks_that_kept_their_examples_are_asked(tmp_path: Path) -> None:
    """Half as wide as where both tasks have them: the other's people are not known."""
    whole, _ = best(made(tmp_path / "both", dict.fromkeys(TASKS, True)))
    half, _ = best(made(tmp_path / "one", {"body_mesh": True, "pose2d": False}))
    assert half.people == 5 and half.average.mean == pytest.approx(whole.average.mean)
    wide, narrow = (r.average.high - r.average.low for r in (whole, half))
    assert narrow == pytest.approx(wide / 2, rel=0.05)


def test_one_seed_proves_nothing_whatever_its_people_say(tmp_path: Path) -> None:
    row, told = best(made(tmp_path, dict.fromkeys(TASKS, True), seeds=1))
    assert row.seeds == 1 and not row.sure and "which one seed cannot prove" in told
