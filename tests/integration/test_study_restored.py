"""A study killed again and again gives the table of one that nobody disturbed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from hpse_dist.config import dump
from hpse_dist.report.export import csv_rows
from hpse_dist.report.runs import read_study
from pipelines import run_command
from pipelines.study import main, parser
from tests.data.made_collection import made_collection
from tests.test_run import pretraining, recipe_of

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
PATIENCE_S = 400.0
TRIAL = "ray::ImplicitFunc"  # Ray's agents are "ray::" too, and a machine dies with its agent
COSTS = ("time", "seconds", "memory", "samples_per_s", "energy", "core", "gpu", "hours", "cost")


def write_study(folder: Path) -> Path:
    """Two sources, one of them pre-trained first, one task, two seeds; runs under `folder`."""
    folder.mkdir()
    collection = made_collection()
    first = pretraining(folder / "runs", collection, name="completion", steps=30, evaluate_every=30)
    (folder / "completion.yaml").write_text(dump(first))
    task = recipe_of(folder / "runs", collection, name="pose2d", steps=80, evaluate_every=40)
    task["task"] = {"name": "pose2d", "head_dim": 16}
    (folder / "pose2d.yaml").write_text(json.dumps(task))
    study = {
        "name": "killed",
        "sources": {
            "random": {"run": "random"},
            "completion": {"pretrain": str(folder / "completion.yaml")},
        },
        "tasks": {"pose2d": str(folder / "pose2d.yaml")},
        "seeds": [0, 1],
        "machine": {"out": str(folder / "runs"), "free_finished": False},
    }
    (folder / "study.yaml").write_text(json.dumps(study))
    return folder / "study.yaml"


class Command:
    """The study's command, and whom of its processes there are to kill."""

    def __init__(self, study: Path) -> None:
        self.study, self.runs = study, study.parent / "runs"
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        with (self.study.parent / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "pipelines.study", str(self.study)],
                stdout=log,
                stderr=log,
                cwd=ROOT,
                # a lost head is noticed after 60 s unless it says otherwise
                env=environment
                | {"PYTHONPATH": str(ROOT), "RAY_gcs_rpc_server_reconnect_timeout_s": "10"},
            )

    def wait_for(self, found: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while not (what := found()):
            assert self.process.poll() is None, (self.study.parent / "log").read_text()
            assert time.monotonic() < deadline, (self.study.parent / "log").read_text()
            time.sleep(0.05)
        return what

    def part(self, title: str) -> psutil.Process | None:
        """One of the command's processes, by a word of its title."""
        for one in psutil.Process(self.process.pid).children(recursive=True):
            try:
                line = one.cmdline()
            except psutil.Error:
                continue
            if line and title in line[0].rpartition("/")[2]:
                return one
        return None

    def under_way(self) -> Path | None:
        """A fine-tuning run with a checkpoint and steps to go."""
        for folder in sorted(self.runs.glob("killed/*-seed*")):
            begun = any((folder / "checkpoints").glob("step_*"))
            if begun and not (folder / "DONE").exists():
                return folder
        return None

    def ended(self) -> int:
        return self.process.wait(timeout=PATIENCE_S)


def table(runs: Path) -> dict[str, list[dict[str, Any]]]:
    """What the report's files say, without what only the clock knows."""
    rows = csv_rows(read_study(runs / "killed"))
    return {
        name: [
            {k: v for k, v in row.items() if not any(word in k for word in COSTS)} for row in found
        ]
        for name, found in rows.items()
        if name != "costs"
    }


def test_killed_three_times_it_ends_with_the_same_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ray gives each trial one thread; this process would take all cores, and round differently
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    quiet = write_study(tmp_path / "quiet")
    assert run_command(main, parser(), [str(quiet), "--without-ray"]) == 0

    command = Command(write_study(tmp_path / "disturbed"))
    first = command.runs / "completion" / "checkpoints"
    command.wait_for(lambda: any(first.glob("step_*")))
    family = psutil.Process(command.process.pid).children(recursive=True)
    command.process.kill()  # the driver
    assert command.ended() == -signal.SIGKILL
    _, left = psutil.wait_procs(family, timeout=20)
    assert not left

    command.process = command.start()
    run = command.wait_for(command.under_way)
    trial = command.wait_for(lambda: command.part(TRIAL))
    trial.kill()

    command.wait_for(lambda: (p := command.part(TRIAL)) and p.pid != trial.pid)
    command.wait_for(command.under_way)
    command.wait_for(lambda: command.part("gcs_server")).kill()  # the head
    assert command.ended() != 0
    assert "Traceback" not in (command.study.parent / "log").read_text()

    command.process = command.start()
    assert command.ended() == 0, (command.study.parent / "log").read_text()
    assert run.is_dir() and (run / "DONE").exists()
    found, expected = table(command.runs), table(quiet.parent / "runs")
    assert found.keys() == expected.keys() and found["runs"]
    for name in expected:
        assert json.dumps(found[name]) == json.dumps(expected[name]), name  # NaN equals NaN there
