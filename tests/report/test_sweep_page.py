"""A sweep's page: the last round decides, the spread is shown, and what stopping early saved."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from hpse_dist.report import write_report
from hpse_dist.report.accounts import spent, together
from hpse_dist.report.learning import sensitivities, spreads
from hpse_dist.report.overview import overview
from hpse_dist.report.runs import STOPPED, Study, read_study
from hpse_dist.report.tables import task_tables
from tests.report.made_study import make_sweep
from tests.report.test_page import parsed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sweep(tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def study(folder: Path) -> Study:
    return read_study(folder)


def test_the_last_round_comes_first_and_no_stopped_trial_is_the_best(study: Study) -> None:
    tables = task_tables(study)
    assert [table.task for table in tables] == ["end_to_end", "probe, 10 % of labels"]
    assert {table.ranked_by for table in tables} == {"mpjpe"}  # the sweep's, not the protocol's
    best = {row.source: row.settings["optim.lr"] for row in tables[1].rows}
    assert best == {"random": 1e-2, "completion": 1e-3}  # 1e-4 stood lower when it was stopped
    assert overview(study, tables) is None  # rounds are no tasks to average over


def test_the_spread_tells_what_was_stopped_and_where_the_best_lies(study: Study) -> None:
    probe = task_tables(study)[1]
    rows = {row.source: row for row in spreads(study, probe)}
    assert rows["random"].stopped == (True, False, False)
    assert rows["random"].values == pytest.approx((72.5, 87.0, 98.6)) and rows["random"].best == 1
    (over,) = sensitivities(list(rows.values()))
    assert over.key == "optim.lr" and over.logarithmic
    assert over.at_edge(rows["random"]) and not over.at_edge(rows["completion"])


def test_the_page_says_what_was_saved_and_where_time_went(folder: Path) -> None:
    page = write_report(folder)
    text = page.read_text(encoding="utf-8")
    parsed(page)
    assert "Sweep report" in text and "All tasks" not in text
    assert text.index("on end to end") < text.index("Probe, 10 % of labels")
    assert "2 of 6 trials were stopped early, which saved 600 of 2,400 steps (25 %)." in text
    assert "random’s best lr, 0.01, lies at an end of the values tried" in text
    assert "1 restart (killed 1) lost 40 steps, 8 s of training." in text
    with (page.with_name("report-tables") / "costs.csv").open() as file:
        costs = {row["run"]: row for row in csv.DictReader(file)}
    assert costs["random-probe-lr0.01"]["ended_before"] == "killed 1"
    assert costs["random-probe-lr0.0001"]["starts"] == ""


def test_accounts_add_up(study: Study) -> None:
    found = spent(study)
    whole = together(found)
    assert len(found) == 6 == sum(run.state != STOPPED for run in study.runs)
    assert whole.effective == pytest.approx(0.8)
    assert (whole.starts, whole.lost_steps, whole.recover_s) == (7, 40, 9.0)
