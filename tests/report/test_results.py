"""What the page's first part says of runs that are not done and of how sure a difference is."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from hpse_dist.report.results import _against, progress
from hpse_dist.report.runs import Run, Study
from hpse_dist.report.statistics import Interval
from hpse_dist.report.tables import Comparison, SourceRow


def test_what_is_not_done_is_told_in_order_and_not_at_length() -> None:
    made = Run(Path(), "made", done=True, state="done")
    waiting = [Run(Path(), f"w{n}", state="waiting", after=("made", "bad")) for n in range(25)]
    runs = (
        made,
        *waiting,
        Run(Path(), "bad", state="failed", trouble="the disk is full"),
        Run(Path(), "going", state="running", steps=400, planned_steps=1000),
    )
    told = progress(Study("study", runs))
    assert told is not None
    assert told["sentence"].startswith(
        "27 of 28 runs are not done (1 running, 1 failed, 25 waiting)"
    )
    assert told["rows"][:3] == [
        ("going", "running", "step 400 of 1,000"),
        ("bad", "failed", "the disk is full"),
        ("w0", "waiting", "for bad"),
    ]
    assert (len(told["rows"]), told["more"], told["live"]) == (24, 3, True)
    ended = progress(Study("study", runs[:-1]))
    assert ended is not None and not ended["live"]
    assert progress(Study("study", (made,))) is None


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (math.nan, ""),
        (0.2, "p = 0.200"),
        (0.001, "p = 0.001, sure"),
        (0.0004, "p < 0.001, sure"),
    ],
)
def test_how_likely_chance_is_stands_beside_a_difference(p: float, text: str) -> None:
    against = Comparison(Interval(-2.0, -3.0, -1.0, 3), seeds=3, people=0)
    said = _against(SourceRow("a", (0, 1, 2), {}, against, p), "pa_mpjpe")
    assert said["p"] == text
