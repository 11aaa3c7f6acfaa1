"""Files spoilt at random: one sentence or nothing, no code is run, nothing is written elsewhere.

Ten thousand of each kind by hand: python -m tests.chaos.fuzz_long --help
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.fuzzing import TARGETS
from tests.chaos.trial import Trials

TRIALS, FEW = 12, 2
SLOW = ("report", "foreign_croco")  # a whole page, a model of its published size


@pytest.mark.parametrize("name", TARGETS)
def test_spoilt_files_end_in_a_sentence(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trials = Trials(name, tmp_path / "files", tmp_path / "ran")
    before = {*tmp_path.rglob("*")}
    found = [
        problem
        for number in range(FEW if name in SLOW else TRIALS)
        if (problem := trials.run(number))
    ]
    assert not found, found
    assert {*tmp_path.rglob("*")} - before <= trials.own()
    # of annotation come rejects, of a study's damaged lines nothing
    if not name.startswith(("annotation_", "study", *SLOW)):
        assert trials.refused, "nothing was ever refused"
