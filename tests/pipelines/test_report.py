"""`python -m pipelines.report`."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpse_dist.run import pretrain
from hpse_dist.world import World
from pipelines import run_command
from pipelines.report import main, parser
from tests.data.made_collection import made_collection
from tests.report.made_study import make_study
from tests.test_run import pretraining


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


def test_checkpoints_are_told_apart_by_their_hashes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = pretraining(tmp_path, made_collection())
    pretrain(recipe, World(), recipe.folder())
    folder = recipe.folder()
    kept = sorted((folder / "checkpoints").iterdir(), reverse=True)
    assert run_command(main, parser(), ["checkpoints", str(folder)]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [path.name for path in kept]
    assert all(line.endswith(" MB  whole") for line in lines)
    assert last == f"the run goes on from: {kept[0]}"
    for path in kept:
        next(path.glob("state-*")).unlink()
        assert run_command(main, parser(), ["checkpoints", str(folder)]) == 0
        newest, *_, last = capsys.readouterr().out.splitlines()
        assert "MB  state-" in newest and newest.endswith(" is missing")
        assert str(path) not in last
    assert last.endswith("its beginning, none is whole")
    assert run_command(main, parser(), ["checkpoints"]) == 2
    assert run_command(main, parser(), ["checkpoints", str(tmp_path)]) == 1
