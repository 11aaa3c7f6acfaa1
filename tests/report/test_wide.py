"""Several tasks, shares of labels, settings, examples: what is made of them, by formula."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hpse_dist.report import write_report
from hpse_dist.report.breakdown import breakdowns
from hpse_dist.report.evidence import _needed
from hpse_dist.report.examples import read_examples
from hpse_dist.report.export import csv_rows, latex, markdown, printed
from hpse_dist.report.learning import LabelCurve, convergence, label_studies, spreads
from hpse_dist.report.overview import headline, overview
from hpse_dist.report.results import overview_table
from hpse_dist.report.runs import Study, read_run, read_study
from hpse_dist.report.statistics import Interval, LabelsNeeded
from hpse_dist.report.tables import answer, task_tables
from tests.report.made_study import (
    make_examples,
    make_finetuning,
    make_wide_study,
    plan_row,
    wide_error,
)
from tests.report.test_page import parsed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_wide_study(tmp_path_factory.mktemp("wide"))


@pytest.fixture(scope="module")
def study(folder: Path) -> Study:
    return read_study(folder)


def test_the_average_gap_is_the_mean_of_all_cells(study: Study) -> None:
    found = overview(study, task_tables(study))
    assert found is not None and found.cells == 6
    assert [row.source for row in found.rows] == ["good", "random", "bad"]
    by_seed = [
        sum(100 * -10 / wide_error("random", share, seed) for share in (0.01, 0.1, 1.0)) / 3
        for seed in range(2)
    ]  # the same for both tasks: a score counts by what it lacks of 100
    assert found.rows[0].average.mean == pytest.approx(sum(by_seed) / 2)
    assert found.rows[0].average.n == 2 and found.rows[0].sure
    first, second = headline(found, 0)
    assert first.startswith("good wins over 6 combinations of task and label share: on average")
    assert "sure beyond chance" in first and second == "good has the lowest error in 6 of these 6."


def test_the_best_of_every_cell_is_marked(study: Study) -> None:
    whole = overview(study, task_tables(study))
    table = overview_table(whole, dict.fromkeys(("random", "good", "bad"), ""))
    assert table is not None and len(table["rows"]) == 6
    for row in table["rows"]:
        marked = [cell["best"] for cell in row["cells"]]
        assert [name for (name, _), best in zip(table["columns"], marked, strict=True) if best] == [
            "good"
        ]


def test_sources_are_compared_on_the_same_people(study: Study) -> None:
    for table in task_tables(study):
        row = table.rows[0]
        assert row.source == "good" and row.against is not None
        assert (row.against.seeds, row.against.people) == (2, 10)
        sign = -1 if table.ranked_by == "pa_mpjpe" else 1
        assert row.against.difference.mean == pytest.approx(sign * 10.0, abs=1e-4)
        # the same noise by seed: what is left of chance is nothing, and Holm leaves it so
        assert row.sure and "2 seeds and 10 people" in answer(table)


def test_runs_that_measured_other_people_are_compared_by_seed(tmp_path: Path) -> None:
    study = read_study(make_wide_study(tmp_path, examples=False))
    row = task_tables(study)[0].rows[0]
    assert row.against is not None and (row.against.seeds, row.against.people) == (2, 0)
    assert breakdowns(study, task_tables(study)[0]) == []


def test_people_without_a_name_are_each_somebody_else(tmp_path: Path) -> None:
    """Whatever the length of the names that are known."""
    for name in ("s1", "a longer name"):
        who = pa.array([name] * 3 + [""] * 120)
        folder = tmp_path / name
        folder.mkdir()
        table = pa.table({"sample_id": range(123), "subject": who})
        pq.write_table(table, folder / "examples.parquet")
        found = read_examples(read_run(folder))
        assert found is not None
        assert found.people[0] == name and found.people[-1] == "example 122"
        assert len(set(found.people)) == 121


def test_by_another_protocol_a_run_has_final_figures_alone(tmp_path: Path) -> None:
    """Examples and history are of its own protocol, also where the metric has the same name."""
    rows, file = [], "examples_emdb_test.parquet"
    for source, own, scored in (("random", 70.0, 90.0), ("good", 60.0, 95.0)):
        for seed in range(2):
            name = f"{source}-{seed}"
            folder = make_finetuning(tmp_path / name, source, seed, own + seed)
            make_examples(folder, "pa_mpjpe", own + seed, seed)
            make_examples(folder, "pa_mpjpe", scored + seed, seed, file=file)
            score = {"figures": {"pa_mpjpe": scored + seed}, "regressor": ""}
            on = {
                "synthetic-24 on emdb, split test": score | {"each": file},
                "synthetic-24 on rich, split test": score | {"each": f"../{name}/examples.parquet"},
            }
            (folder / "scores.json").write_text(json.dumps({"3dpw-14": score} | on))
            rows.append(plan_row(tmp_path, name, "finetune", source, "body_mesh", seed))
    plan = {"study": "s", "baseline": "random", "runs": rows}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    study = read_study(tmp_path)
    mine, other, tested, elsewhere = task_tables(study)
    assert (mine.protocol, other.protocol) == ("synthetic-24", "3dpw-14")
    better, worse = mine.rows[0].against, other.rows[1].against
    assert better is not None and (better.seeds, better.people) == (2, 10)
    assert worse is not None and (worse.seeds, worse.people) == (2, 0)
    assert worse.difference.mean == pytest.approx(5.0)
    assert breakdowns(study, mine) and convergence(study, mine)
    assert (breakdowns(study, other), convergence(study, other)) == ([], [])
    # other frames have examples of their own
    paired = tested.rows[1].against
    assert paired is not None and (paired.seeds, paired.people) == (2, 10)
    assert paired.difference.mean == pytest.approx(5.0)
    assert breakdowns(study, tested) and not convergence(study, tested)
    whole = overview(study, task_tables(study))
    assert whole is not None and whole.counted == "4 combinations of task and protocol"
    unpaired = elsewhere.rows[1].against
    assert unpaired is not None and unpaired.people == 0, "no file outside the run's folder is read"


def test_labels_to_match_the_baseline_with_all(study: Study) -> None:
    """good is 10 better and ten times the labels are worth 10: it needs a tenth."""
    found = {each.task: each for each in label_studies(study, task_tables(study))}
    assert set(found) == {"body_mesh", "pose2d"}
    for each in found.values():
        curves = {curve.source: curve for curve in each.curves}
        assert curves["random"].needed is None
        needed = curves["good"].needed
        assert needed is not None and needed.share == pytest.approx(0.1)
        never = curves["bad"].needed
        assert never is not None and math.isnan(never.share)


def test_how_fast_they_arrive(study: Study) -> None:
    table = task_tables(study)[2]
    rows = {row.source: row for row in convergence(study, table)}
    assert rows["good"].met == 2 and rows["good"].baseline_met.mean < 400
    assert rows["random"].baseline_met.mean == pytest.approx(400)
    assert rows["bad"].met == 0 and rows["bad"].area.mean > rows["good"].area.mean


def test_errors_by_condition_are_means_of_their_examples(study: Study) -> None:
    by_view, by_pose = breakdowns(study, task_tables(study)[0])
    assert (by_view.condition, by_pose.condition) == ("Viewpoint", "Pose")  # all were in sight
    assert [each.name for each in by_view.bins] == [
        "from the front",
        "from the side",
        "from behind",
    ]
    assert [each.examples for each in by_view.bins] == [20, 20, 20]
    front, _, behind = (each.values[0].mean for each in by_view.bins)
    assert behind - front == pytest.approx(8.0, abs=1.0)
    whole = sum(each.values[0].mean for each in by_view.bins) / 3
    assert whole == pytest.approx(task_tables(study)[0].rows[0].metrics["pa_mpjpe"].mean, abs=1e-3)


def test_the_best_settings_stand_in_the_table_and_the_spread_is_told(tmp_path: Path) -> None:
    study = read_study(make_wide_study(tmp_path, settings=True))
    table = task_tables(study)[0]
    assert dict(table.rows[0].settings) == {"optim.lr": 1e-3}
    assert len(table.rows[0].seeds) == 2
    spread = spreads(study, table)[0]
    assert spread.settings == ("lr 0.001", "lr 0.01")
    assert spread.values[1] - spread.values[0] == pytest.approx(6.0)
    page = write_report(tmp_path)
    reader = parsed(page)
    assert {"settings", "labels", "errors"} <= set(reader.ids)
    assert "which flatters all of them alike" in page.read_text(encoding="utf-8")


def test_tables_print_as_latex_and_markdown(study: Study) -> None:
    tables = printed(study)
    assert tables[0].title == "Gap to the baseline" and len(tables) == 7
    text = markdown(tables)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in rows) and "| **good** |" in text
    source = latex(tables)
    assert source.count(r"\begin{tabular}") == source.count(r"\end{tabular}") == 7
    assert r"1 \% of labels" in source and r"\textbf{good}" in source
    assert not [line for line in source.splitlines() if "_" in line.replace(r"\_", "")]


def test_printed_tables_say_what_the_page_says(study: Study) -> None:
    """Of a tiny p that it is below 0.001, of the baseline's own gap 0, of no gap a dash."""
    gaps, *ranked = printed(study)
    base = next(row for row in gaps.body if row[0] == study.baseline)
    assert set(base[1:]) == {"0"}
    p = [row[table.header.index("p (Holm)")] for table in ranked for row in table.body]
    assert "< 0.001" in p and "0.000" not in p and "$<$ 0.001" in latex(ranked)
    left = [r for r in study.runs if r.source != study.baseline or r.seed == 0]
    other = [replace(r, seed=r.seed + 9) if r.source == study.baseline else r for r in left]
    alone = printed(replace(study, runs=tuple(other)))
    assert "nan" not in markdown(alone)


def test_csv_files_hold_what_the_page_shows(study: Study) -> None:
    rows = csv_rows(study)
    assert {name for name, found in rows.items() if found} == {
        *("summary", "gaps", "labels", "convergence", "conditions", "runs", "curves", "costs")
    }
    assert rows["summary"][0]["difference_people"] == 10
    assert {row["task"] for row in rows["gaps"]} >= {"average", "body_mesh"}
    assert rows["costs"][0]["core_seconds"] == 90.0


def test_the_wide_page_stays_small_and_whole(folder: Path) -> None:
    page = write_report(folder)
    text = page.read_text(encoding="utf-8")
    assert page.stat().st_size < 5_000_000
    reader = parsed(page)
    assert all(link.startswith(("data:image/", "#")) for link in reader.links)
    assert {"results", "labels", "curves", "errors", "people", "cost"} <= set(reader.ids)
    assert text.index("good wins over 6") < text.index("All tasks") < text.index("How many labels")
    assert "no RAPL, no NVML" in text and "0.90 core-hours" in text


def test_what_is_not_sure_does_not_win(tmp_path: Path) -> None:
    """Two seeds that disagree: first on average, and said to be no more than that."""
    make_wide_study(tmp_path, examples=False)
    for folder in tmp_path.glob("good-*-seed1"):
        path = folder / "report.json"
        report = json.loads(path.read_text())
        report["metrics"] = {
            k: v + 11 for k, v in report["metrics"].items() if k == "pa_mpjpe"
        } or {k: v - 11 for k, v in report["metrics"].items()}
        path.write_text(json.dumps(report))
    study = read_study(tmp_path)
    found = overview(study, task_tables(study))
    assert found is not None and not found.rows[0].sure
    told = headline(found, 3)
    assert told[0].startswith("good comes first, but not surely, over 6 combinations")
    assert "which may be chance" in told[0] and "wins" not in told[0]
    assert told[-1] == "Runs are still missing, so this may change."


def test_shares_of_labels_are_spoken_as_they_are_known() -> None:
    def spoken(share: float, earliest: float, latest: float, at_most: bool = False) -> tuple:
        values = (Interval(3, 2, 4, 2), Interval(2, 1, 3, 2))
        needed = LabelsNeeded(share, earliest, latest, at_most)
        return _needed(LabelCurve("a", (0.1, 1.0), values, needed))

    nan = math.nan
    assert spoken(0.25, 0.2, 0.3) == ("25 %", "20 % to 30 %")
    assert spoken(0.1, 0.1, 0.1, True) == ("at most 10 %", "10 % or fewer")
    assert spoken(0.1, 0.1, nan, True) == ("at most 10 %", "10 % or fewer, or never")
    assert spoken(nan, 0.5, nan) == ("not reached", "50 %, or never")
    assert spoken(nan, nan, nan) == ("not reached", "surely not reached")
