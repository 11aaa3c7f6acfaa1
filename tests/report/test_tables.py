"""Means, intervals, differences and what the page claims from them."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest

from hpse_dist.report.export import write_tables
from hpse_dist.report.results import result
from hpse_dist.report.runs import STOPPED, Run, Study, read_study
from hpse_dist.report.statistics import interval
from hpse_dist.report.tables import (
    _task_table,
    answer,
    best_settings,
    costs,
    doubles,
    figure,
    gains,
    metric,
    silent,
    task_tables,
)
from tests.report.made_study import FINAL, make_study


def run_of(source: str, seed: int, value: float, name: str = "pa_mpjpe") -> Run:
    return Run(
        folder=Path(f"{source}-{seed}"),
        name=f"{source}-{seed}",
        kind="finetune",
        source=source,
        task="body_mesh",
        seed=seed,
        done=True,
        metrics={name: value},
    )


def study_of(**finals: list[float]) -> Study:
    runs = [run_of(s, seed, v) for s, values in finals.items() for seed, v in enumerate(values)]
    return Study("s", tuple(runs), baseline="random")


def test_interval_is_students() -> None:
    # by hand: mean 2, standard deviation 1, t(0.975, 2) = 4.302653
    found = interval([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.high - found.mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)


def test_one_value_has_no_interval_and_none_has_no_mean() -> None:
    one = interval([5.0])
    assert (one.mean, one.n, one.known) == (5.0, 1, False)
    assert math.isnan(one.low)
    assert math.isnan(interval([]).mean)
    assert interval([1.0, math.nan, 3.0]).n == 2


def test_sources_are_ranked_best_first_and_compared_by_seed(tmp_path: Path) -> None:
    (table,) = task_tables(read_study(make_study(tmp_path)))
    assert [row.source for row in table.rows] == ["completion", "random"]
    assert table.ranked_by == "pa_mpjpe"
    assert table.metric_names == ("pa_mpjpe", "mpjpe", "pve")
    best, base = table.rows
    assert base.against is None
    assert best.against is not None
    by_seed = [a - b for a, b in zip(FINAL["completion"], FINAL["random"], strict=True)]
    assert best.against.difference.mean == pytest.approx(sum(by_seed) / 3)
    assert best.against.difference == interval(by_seed)


def test_a_figure_where_higher_is_better_is_ranked_so() -> None:
    runs = [run_of("a", 0, 1.0, "reference_gain"), run_of("b", 0, 9.0, "reference_gain")]
    (table,) = task_tables(Study("s", tuple(runs)))
    assert [row.source for row in table.rows] == ["b", "a"]
    assert "Highest reference gain" in answer(table)


def test_only_seeds_that_both_have_are_compared() -> None:
    (table,) = task_tables(study_of(random=[70.0, 71.0, 72.0], better=[60.0, 61.0]))
    against = table.rows[0].against
    assert against is not None and (against.seeds, against.people) == (2, 0)
    assert against.difference.mean == pytest.approx(-10.0)


@pytest.mark.parametrize(
    ("finals", "words"),
    [
        ({"random": [70, 71, 72], "a": [60, 61, 62.5]}, "9.8 mm better than random (95 %"),
        ({"random": [70, 71, 72], "a": [60, 90, 62]}, "may be chance"),
        ({"random": [70, 71, 72], "a": [75, 76, 78]}, "before the baseline; a is 5.3 mm behind."),
        ({"random": [70, 71, 72], "a": [60, 90, 90]}, "a is 9.0 mm behind, which may be chance."),
        ({"random": [70], "a": [60]}, "one seed proves nothing"),
        ({"random": [70, 99, 99], "a": [75]}, "it is not ahead of random"),
        ({"a": [75, 76]}, "Lowest PA-MPJPE on body mesh: a with 75.5 mm"),
    ],
)
def test_the_answer_claims_no_more_than_the_seeds_show(
    finals: dict[str, list[float]], words: str
) -> None:
    (table,) = task_tables(study_of(**finals))
    assert words in answer(table)


def test_what_lies_between_percentages_is_points() -> None:
    assert figure(11.72, metric("pck_005"), apart=True) == "11.7 points"
    assert figure(9.8, metric("pa_mpjpe"), apart=True) == "9.8 mm"
    assert figure(14.7, metric("pck_005")) == "14.7 %"


def test_unfinished_runs_are_in_no_table() -> None:
    study = study_of(random=[70.0], a=[60.0])
    pending = replace(study.runs[1], done=False)
    (table,) = task_tables(replace(study, runs=(study.runs[0], pending)))
    assert [row.source for row in table.rows] == ["random"]


def test_gains_and_costs(tmp_path: Path) -> None:
    study = read_study(make_study(tmp_path))
    (row,) = gains(study)
    assert row["view"] > row["all"] > row["pose"] > 0
    spent = costs(study)
    assert sum(row["share"] for row in spent) == pytest.approx(1.0)
    assert spent[0]["samples"] == 1500 * 64


def test_tables_hold_full_numbers_and_no_formulas(tmp_path: Path) -> None:
    study = read_study(make_study(tmp_path / "study"))
    runs = tuple(
        replace(run, source="=HYPERLINK(1)") if run.source == "completion" else run
        for run in study.runs
    )
    paths = write_tables(replace(study, runs=runs), tmp_path / "tables")
    assert sorted(path.name for path in paths) == [
        "convergence.csv",
        "costs.csv",
        "curves.csv",
        "gaps.csv",
        "runs.csv",
        "summary.csv",
        "tables.md",
        "tables.tex",
    ]
    with (tmp_path / "tables" / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    first = next(row for row in rows if row["metric"] == "pa_mpjpe")
    assert first["source"] == "'=HYPERLINK(1)"
    assert float(first["mean"]) == pytest.approx(sum(FINAL["completion"]) / 3)
    assert float(first["difference"]) < 0
    assert all(row["difference"] == "" for row in rows if row["source"] == "random")


def test_two_protocols_are_never_in_one_column(tmp_path: Path) -> None:
    """Not even where the figure has the same name: each protocol has a table of its own."""
    study = study_of(random=[70.0, 71.0], a=[60.0, 61.0])
    mixed = [replace(r, protocol="3dpw-14" if r.source == "a" else "h36m-p2") for r in study.runs]
    with pytest.raises(ValueError, match=r"3dpw-14, h36m-p2.*cannot stand in one column"):
        _task_table(mixed, study)
    tables = task_tables(replace(study, runs=tuple(mixed)))
    assert [(t.protocol, [row.source for row in t.rows]) for t in tables] == [
        ("h36m-p2", ["random"]),
        ("3dpw-14", ["a"]),
    ]
    assert tables[1].rows[0].against is None  # there is nothing to compare it with
    assert "body mesh (3dpw-14): a" in answer(tables[1])
    paths = write_tables(replace(study, runs=tuple(mixed)), tmp_path)
    with next(path for path in paths if path.stem == "summary").open() as file:
        assert {row["protocol"] for row in csv.DictReader(file)} == {"3dpw-14", "h36m-p2"}


def test_scored_files_join_the_table_of_their_own_protocol() -> None:
    run = replace(run_of("a", 0, 60.0), protocol="synthetic-24")
    scores = {
        "synthetic-24": {"pve": 80.0, "pa_mpjpe": 61.0},
        "3dpw-14 (0a1b2c3d)": {"mpjpe": 90.0},
    }
    tables = task_tables(Study("s", (replace(run, scores=scores),)))
    assert [table.protocol for table in tables] == ["synthetic-24", "3dpw-14 (0a1b2c3d)"]
    first = tables[0].rows[0].metrics
    assert tables[0].metric_names == ("pa_mpjpe", "pve")
    assert (first["pa_mpjpe"].mean, first["pve"].mean) == (60.0, 80.0)
    other = replace(run_of("b", 0, 1.0), scores={"3dpw-14 (ffffffff)": {"mpjpe": 1.0}})
    tables = task_tables(Study("s", (replace(run, scores=scores), other)))
    assert len(tables) == 4  # another regressor is another column, and so is no protocol at all


def test_of_runs_of_one_seed_the_first_is_shown_and_the_others_are_named() -> None:
    runs = [run_of("a", 0, 60.0), run_of("a", 1, 62.0), run_of("b", 0, 1.0)]
    twice = [replace(runs[0], folder=Path(f"a-0-{n}"), metrics={"pa_mpjpe": n}) for n in (9, 8)]
    other = replace(twice[0], folder=Path("far"), protocol="3dpw-14")  # in a table of its own
    study = Study("s", (*runs, *twice, other))
    assert doubles(study) == [
        "a has several runs of one seed on body mesh, and tables take one of each: a-0 is shown, "
        "not a-0-9 or a-0-8. To see another, move the one shown to another folder."
    ]
    row = task_tables(study)[0].rows[1]
    assert (row.source, row.seeds, row.metrics["pa_mpjpe"].mean) == ("a", (0, 1), 61.0)
    tried = tuple(replace(run, settings={"lr": n}) for n, run in enumerate(study.runs))
    assert doubles(study_of(a=[1.0, 2.0], b=[3.0])) == doubles(Study("s", tried)) == []
    early = replace(twice[0], state=STOPPED)  # of no table: another went to its end
    assert doubles(Study("s", (early, *runs))) == []


def test_finished_runs_without_a_figure_are_told() -> None:
    """Their means would be worse with them: a source gained by diverging."""
    study = study_of(random=[60.0, 62.0, 61.0], a=[50.0, 90.0, 51.0])
    of_a = {run.seed: run for run in study.runs if run.source == "a"}
    study = replace(
        study,
        runs=tuple(
            replace(run, state="done", metrics={} if run is of_a[1] else run.metrics)
            for run in study.runs
        ),
    )
    (table,) = tables = task_tables(study)
    assert table.rows[0].source == "a" and table.rows[0].metrics["pa_mpjpe"].n == 2
    (told,) = silent(study, tables)
    assert told.startswith("a on body mesh: a-1 ended without a PA-MPJPE")
    assert "the other 2 of 3 runs" in told
    assert silent(study_of(a=[1.0]), task_tables(study_of(a=[1.0]))) == []


def test_settings_that_diverged_on_a_seed_do_not_win() -> None:
    runs = study_of(a=[60.0, 61.0], b=[50.0, math.nan]).runs
    tried = [replace(run, settings={"lr": 1 if run.source == "a" else 9}) for run in runs]
    assert {run.source for run in best_settings(tried, "pa_mpjpe").values()} == {"a"}


def test_settings_are_chosen_on_held_out_people_and_shown_on_the_test_set() -> None:
    """Of two learning rates the one is best on the run's own people, the other on the test set's:
    there the first is shown, whatever the figures are called."""
    runs = []
    for source, ahead in (("random", 0.0), ("good", 10.0)):
        for seed in range(2):
            for rate, own, test in ((1, 60.0, 75.0), (9, 65.0, 70.0)):
                run = replace(run_of(source, seed, own - ahead), settings={"lr": rate})
                on = {"3dpw-14 on emdb, split test": {"pa_mpjpe": test - ahead}}
                scores = on | {"coco": {"ap": 90.0 - test + ahead}}
                runs.append(replace(run, protocol="synthetic-24", scores=scores))
    study = Study("s", tuple(runs), baseline="random")
    own, tested, other = task_tables(study)
    for table, value in ((own, 50.0), (tested, 65.0), (other, 25.0)):
        assert [row.source for row in table.rows] == ["good", "random"]
        assert [row.settings["lr"] for row in table.rows] == [1, 1]
        assert table.rows[0].metrics[table.ranked_by].mean == pytest.approx(value)
    ink = {"random": "", "good": ""}
    notes = [result(table, (own, tested, other), study, ink)["note"] for table in (own, tested)]
    assert "chosen on these same subjects, which flatters all of them alike" in notes[0]
    assert "chosen on its own held-out subjects, not on these" in notes[1]
    # without held-out people of its own a test set is all there is, and the page says so
    alone = replace(study, runs=tuple(replace(run, metrics={}) for run in runs))
    table = task_tables(alone)[0]
    assert [row.settings["lr"] for row in table.rows] == [9, 9]
    assert "which flatters" in result(table, [table], alone, ink)["note"]


def test_a_figure_below_zero_has_a_minus_and_nothing_is_minus_nothing() -> None:
    what = metric("reference_gain")
    found = [figure(value, what) for value in (-0.44, -0.04, 12.34, None)]
    assert found == ["\N{MINUS SIGN}0.4 %", "0.0 %", "12.3 %", "–"]
