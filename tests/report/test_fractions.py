"""Runs on other shares of the labels are in tables of their own."""

from __future__ import annotations

import json
from pathlib import Path

from hpse_dist.report.runs import read_study
from hpse_dist.report.tables import task_tables
from tests.report.made_study import make_study


def test_fractions_are_kept_apart(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    plan = json.loads((study / "plan.json").read_text())
    for row in plan["runs"]:
        if row["kind"] == "finetune" and row["seed"] == 2:
            row["label_fraction"] = 0.05
            path = Path(row["folder"]) / "report.json"
            report = json.loads(path.read_text()) | {"label_fraction": 0.05}
            path.write_text(json.dumps(report))
    (study / "plan.json").write_text(json.dumps(plan))
    tables = {table.task: table for table in task_tables(read_study(study))}
    assert list(tables) == ["body_mesh", "body_mesh, 5 % of labels"]
    assert {row.seeds for row in tables["body_mesh"].rows} == {(0, 1)}
    assert {row.seeds for row in tables["body_mesh, 5 % of labels"].rows} == {(2,)}
