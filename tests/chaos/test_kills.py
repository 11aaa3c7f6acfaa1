"""A short chaos under Ray; `python -m pipelines.bench chaos` is the long one."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from hpse_dist import run
from hpse_dist.config import dump
from hpse_dist.ledger import Ledger
from hpse_dist.world import World
from pipelines import run_command
from pipelines.bench import main, parser
from pipelines.chaos import Chaos, Kill, Plan, read_chaos
from pipelines.same_runs import compare, repeated_and_lost
from pipelines.soak import Life, Soak, role_of, soak_table
from tests.data.made_collection import made_collection
from tests.test_run import pretraining
from tests.waiting import PATIENCE_S, until


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = pretraining(tmp_path_factory.mktemp("trained"), made_collection())
    run.pretrain(recipe, World(), recipe.folder())
    return recipe.folder()


@pytest.fixture
def finished(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "finished"))


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
    times = [("worker", 1.0, 2.0), ("head", 6.0, 9.0), ("worker", 3.0, 4.0)]
    kills = [Kill(victim, 0.0, restart, recover, 0) for victim, restart, recover in times]
    table = Chaos(kills, commands=2, seconds=100.0, useful=92.0).table()
    assert [line.split()[:2] for line in table.splitlines()[1:3]] == [
        ["worker", "2"],
        ["head", "1"],
    ]
    assert "(92.0%)" in table and "driver" not in table
    assert table.splitlines()[1].split()[2:] == ["3.0", "s", "4.0", "s", "2.0", "s"]


def test_everybodys_share_is_killed_and_a_driver_that_lives_long_comes_first() -> None:
    plan = Plan(kills=50, gap_s=1.0, seed=0)
    order = plan.order(random.Random(0))
    assert {name: order.count(name) for name in plan.victims} == {
        "worker": 30,
        "driver": 10,
        "head": 10,
    }
    assert set(order[:15]) == {"worker"} and order != sorted(order)
    assert order == plan.order(random.Random(0)) != plan.order(random.Random(1))


def test_samples_that_came_twice_or_not_at_all_are_counted(finished: Path) -> None:
    """Over more than one pass: pairs share frames, so a frame's own count is no pass's number."""
    recipe = Ledger.open(finished).recipe
    with contextlib.closing(Ledger.open(finished).loader()) as loader:
        batch, size = recipe.global_batch, loader.samples_per_epoch
    steps = 2 * size // batch + 3
    (finished / "recipe.yaml").write_text(dump(replace(recipe, steps=steps)))

    def committed(*made: int) -> tuple[int, int, int]:
        lines = [json.dumps({"step": step, "loss": 1.0}) + "\n" for step in made]
        (finished / "metrics.jsonl").write_text("".join(lines))
        return repeated_and_lost(finished)

    every = range(1, steps + 1)
    assert committed(*every) == (steps * batch, 0, 0)
    assert committed(*every, 2) == ((steps + 1) * batch, batch, 0)
    assert committed(*(step for step in every if step != 2))[1:] == (0, batch)


def test_a_process_that_grows_and_one_that_stays_are_told_apart(tmp_path: Path) -> None:
    def life(pid: int, growth: float) -> list[dict[str, Any]]:
        about = {"role": "driver", "pid": pid, "threads": 9, "descriptors": 30}
        sizes = (500.0 if i < 5 else 700.0 + growth * i / 360 for i in range(60))  # imports first
        return [about | {"time": 10.0 * i, "resident_mb": mb} for i, mb in enumerate(sizes)]

    assert Life("driver", life(1, 0.0)).slope() == 0.0
    assert Life("driver", life(1, 20.0)).slope() == pytest.approx(20.0)
    rows = [*life(1, 20.0), {"left": {"processes": [], "segments": ["torch_1"]}}]
    (tmp_path / "soak.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = "\n".join(soak_table(tmp_path))
    assert "20.0   9 -> 9  30 -> 30" in table and "torch_1" in table


def test_who_is_who(tmp_path: Path) -> None:
    assert role_of("ray::RayTrainWorker.execute") == "worker"
    assert role_of("/x/ray/core/src/ray/gcs/gcs_server --log_dir=/tmp") == "gcs"
    assert role_of("/x/ray/core/src/ray/raylet/raylet --raylet_socket") == "raylet"
    assert role_of("python -m pipelines.pretrain a.yaml") == "driver"
    assert role_of("vim pipelines/chaos.py") is None


def test_what_outlives_its_command_is_seen(tmp_path: Path) -> None:
    soak = Soak(tmp_path, "a-word-of-this-test")
    soak.start()
    environment = {**os.environ, "HPSE_CHAOS": "a-word-of-this-test"}
    process = subprocess.Popen(["sleep", "600"], env=environment)
    try:
        # Popen comes back as the new program begins: for a moment it has no environment yet
        until(Path(f"/proc/{process.pid}/environ").read_bytes, "the process has an environment")
        assert soak.stop()["processes"] == ["sleep 600"]
    finally:
        process.kill()
        process.wait()


def test_a_broken_off_chaos_still_gives_figures(tmp_path: Path) -> None:
    (tmp_path / "kills.jsonl").write_text(json.dumps(asdict(Kill("worker", 1.0, 2.0, 3.0, 0))))
    (tmp_path / "facts.json").write_text('{"commands": 3, "seconds": 10.0, "useful": 5.0}')
    assert "(50.0%); the command was given 3 times" in read_chaos(tmp_path).table()


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
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "")  # put back afterwards: the command sets its own
    recipe = pretraining(tmp_path, made_collection())
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    options = ["chaos", str(tmp_path / "recipe.yaml"), "steps=900", "evaluate_every=900"]
    options += ["machine.workers=2", "machine.engine=zero", "machine.checkpoint_every=20"]
    options += ["--kills", "2", "--gap", "3", "--out", str(tmp_path / "chaos")]
    assert run_command(main, parser(), options) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "2 kills, equal to the undisturbed run to the bit, " in said
    assert "0 processes were left behind" in said


@pytest.mark.integration
def test_a_chaos_that_is_told_to_stop_takes_its_run_with_it(tmp_path: Path) -> None:
    recipe = pretraining(tmp_path, made_collection(), steps=100_000)
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    command = [sys.executable, "-m", "pipelines.bench", "chaos", str(tmp_path / "recipe.yaml")]
    command += ["--out", str(tmp_path / "chaos")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        started = psutil.Process(process.pid)
        children = until(
            lambda: started.children(recursive=True) or process.poll() is not None,
            "the chaos starts its run",
        )
        assert isinstance(children, list), process.communicate()[1]
        process.terminate()
        _, said = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 1 and "interrupted" in said
    assert not psutil.wait_procs(children, timeout=PATIENCE_S)[1]
