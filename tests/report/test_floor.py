"""Sources that are not ahead of a blind one are named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hpse_dist.report.floor import unseen
from hpse_dist.report.results import result
from hpse_dist.report.runs import Study
from hpse_dist.report.tables import task_tables
from tests.report.test_tables import study_of


def with_blind(study: Study) -> Study:
    runs = tuple(replace(run, blind=run.source == "grey") for run in study.runs)
    return replace(study, runs=runs)


def test_those_not_ahead_are_named_and_those_ahead_are_not() -> None:
    study = with_blind(
        study_of(
            grey=[130.0, 131.0, 132.0],
            good=[100.0, 101.0, 102.1],
            level=[129.0, 132.5, 130.0],
            worse=[140.0, 141.0, 142.1],
        )
    )
    (told,) = unseen(study, task_tables(study))
    assert told.startswith("On body mesh level and worse cannot be told from grey")
    assert "PA-MPJPE 131.0 mm" in told and "good" not in told
    tables = task_tables(study)
    note = result(
        tables[0], tables, study, dict.fromkeys(("grey", "good", "level", "worse"), "#000")
    )
    assert "grey: the encoder sees no picture" in note["note"]


def test_scores_count_the_other_way() -> None:
    study = with_blind(study_of(grey=[10.0, 11.0, 12.0], good=[40.0, 41.0, 42.1]))
    scores = replace(
        study,
        runs=tuple(replace(r, metrics={"pck_005": r.metrics["pa_mpjpe"]}) for r in study.runs),
    )
    assert unseen(scores, task_tables(scores)) == []
    (told,) = unseen(study, task_tables(study))  # were they errors, it would be worse
    assert "good cannot be told from grey" in told and ": it may say no more" in told


@pytest.mark.parametrize(("value", "named"), [(9.0, False), (11.0, True)])
def test_one_seed_tells_only_what_is_behind(value: float, named: bool) -> None:
    study = with_blind(study_of(grey=[10.0], one=[value]))
    assert bool(unseen(study, task_tables(study))) == named


def test_nothing_is_said_where_nobody_is_blind() -> None:
    study = study_of(random=[10.0, 11.0], other=[12.0, 13.0])
    assert unseen(study, task_tables(study)) == []
