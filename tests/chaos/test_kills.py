"""A short chaos under Ray; `python -m pipelines.bench chaos` is the long one."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from hpse_dist import run
from hpse_dist.config import dump
from hpse_dist.world import World
from pipelines import run_command
from pipelines.bench import main, parser
from pipelines.chaos import Chaos, compare
from tests.data.made_collection import made_collection
from tests.test_run import pretraining


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    recipe = pretraining(tmp_path, made_collection())
    run.pretrain(recipe, World(), recipe.folder())
    return recipe.folder()


def test_equal_runs_are_equal_and_the_smallest_difference_is_named(
    finished: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(finished, other)
    assert compare(finished, other) == []
    lines = (other / "metrics.jsonl").read_text().splitlines()
    row = json.loads(lines[0])
    row["loss"] += 1e-7
    (other / "metrics.jsonl").write_text("\n".join([json.dumps(row), *lines[1:]]) + "\n")
    assert compare(finished, other) == ["losses of steps [1]"]
    state = other / "checkpoints" / "step_00000006" / "state-00000.safetensors"
    data = bytearray(state.read_bytes())
    data[-1] ^= 1
    state.write_bytes(data)
    found = compare(finished, other)
    assert len(found) == 2 and found[1].startswith("tensors ['state-00000.safetensors/")


def test_the_table_says_who_was_killed_and_what_it_cost() -> None:
    kills = [("worker", 2.0), ("head", 9.0), ("worker", 4.0)]
    table = Chaos(kills, commands=2, leaked=0, seconds=100.0, useful=92.0).table()
    assert [line.split()[:2] for line in table.splitlines()[1:3]] == [
        ["worker", "2"],
        ["head", "1"],
    ]
    assert "(92.0%)" in table and "driver" not in table


def test_a_folder_of_somebody_elses_is_not_emptied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis").mkdir()
    options = ["chaos", "configs/pretrain/demo.yaml", "--out", str(tmp_path / "thesis")]
    assert run_command(main, parser(), options) == 1
    assert "is not of an earlier chaos" in capsys.readouterr().err
    assert (tmp_path / "thesis").is_dir()


@pytest.mark.integration
def test_two_kills_leave_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    recipe = pretraining(tmp_path, made_collection())
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    options = ["chaos", str(tmp_path / "recipe.yaml"), "steps=300", "evaluate_every=300"]
    options += ["machine.workers=2", "machine.engine=zero", "machine.checkpoint_every=20"]
    options += ["--kills", "2", "--gap", "3", "--out", str(tmp_path / "chaos")]
    assert run_command(main, parser(), options) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "2 kills, equal to the undisturbed run to the bit" in said
    assert "0 processes were left behind" in said
