"""Reading run folders as they are found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpse_dist.report import write_report
from hpse_dist.report.runs import read_run, read_study
from tests.report.made_study import make_finetuning, make_pretraining, make_study


def test_a_study_is_read_in_the_order_of_its_plan(tmp_path: Path) -> None:
    study = read_study(make_study(tmp_path))
    assert study.name == "demo"
    assert study.baseline == "random"
    assert [run.name for run in study.runs][:2] == ["completion", "random-body_mesh-seed0"]
    assert len(study.of_kind("finetune")) == 6
    assert study.missing() == []


def test_a_run_under_way_has_curves_and_no_final_figures(tmp_path: Path) -> None:
    study = read_study(make_study(tmp_path, done=False))
    assert study.missing() == ["completion-body_mesh-seed2"]
    last = study.runs[-1]
    assert not last.metrics
    assert [row["step"] for row in last.history] == [100, 200, 300, 400]
    assert last.training
    assert (last.kind, last.source, last.seed) == ("finetune", "completion", 2)


def test_a_run_that_has_not_begun_is_missing(tmp_path: Path) -> None:
    make_study(tmp_path)
    plan = json.loads((tmp_path / "plan.json").read_text())
    plan["runs"][0]["folder"] = str(tmp_path / "nowhere")
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    assert read_study(tmp_path).missing() == ["completion"]


def test_a_study_that_was_moved_finds_its_runs(tmp_path: Path) -> None:
    make_study(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    assert read_study(tmp_path / "new").missing() == []


def test_a_single_run_and_a_folder_of_runs(tmp_path: Path) -> None:
    make_pretraining(tmp_path / "a")
    make_finetuning(tmp_path / "b", "random", 0, 70.0)
    assert [run.kind for run in read_study(tmp_path / "a").runs] == ["pretrain"]
    assert [run.kind for run in read_study(tmp_path).runs] == ["pretrain", "finetune"]


def test_the_last_picture_of_each_name_is_taken(tmp_path: Path) -> None:
    panels = make_pretraining(tmp_path / "run") / "panels"
    for step in (20, 9, 100_000):
        (panels / f"step_{step:06d}_other.png").touch()
    (panels / "notes.txt").touch()
    found = read_run(tmp_path / "run").panels
    assert {k: v.name for k, v in found.items()} == {
        "completion": "step_001500_completion.png",
        "other": "step_100000_other.png",
    }


def test_a_torn_line_and_figures_that_are_none_are_left_out(tmp_path: Path) -> None:
    run = make_finetuning(tmp_path / "run", "random", 0, 70.0)
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": null}\n{"step": 2, "loss": 3.0}\n{"st')
    assert [dict(row) for row in read_run(run).training] == [{"step": 1}, {"step": 2, "loss": 3.0}]


@pytest.mark.parametrize("step", ["true", "1e309", "1" + 400 * "0", '"1"', "null"])
def test_a_row_without_a_step_is_left_out(tmp_path: Path, step: str) -> None:
    run = make_finetuning(tmp_path / "run", "random", 0, 70.0)
    row = f'{{"step": {step}, "loss": 1.0, "pa_mpjpe": 70.0}}'
    (run / "metrics.jsonl").write_text(f'{row}\n{{"step": 2, "loss": 3.0}}\n')
    report = json.dumps(json.loads((run / "report.json").read_text()) | {"history": ["ROW"]})
    (run / "report.json").write_text(report.replace('"ROW"', row))
    found = read_run(run)
    assert (len(found.training), found.history) == (1, ())
    assert write_report(run).is_file()


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        read_study(tmp_path / "absent")
    with pytest.raises(ValueError, match="neither a study"):
        read_study(tmp_path)
    run = make_pretraining(tmp_path / "run")
    (run / "report.json").write_text("{")
    with pytest.raises(ValueError, match=r"report\.json: not readable as JSON"):
        read_study(run)
