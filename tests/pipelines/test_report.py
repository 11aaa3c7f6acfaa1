"""`python -m pipelines.report`."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import run_command
from pipelines.report import main, parser
from tests.report.made_study import make_study


def test_the_page_is_made_and_its_place_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_study(tmp_path)
    assert run_command(main, parser(), [str(tmp_path)]) == 0
    assert (tmp_path / "report.html").is_file()
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert str(tmp_path / "report.html") in last
    assert (tmp_path / "report-tables" / "runs.csv").is_file()


def test_a_folder_without_runs_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(main, parser(), [str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_no_folder_is_a_bad_argument(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(main, parser(), []) == 2
    assert "usage" in capsys.readouterr().err
