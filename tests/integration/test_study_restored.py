"""A study killed again and again gives the table of one that nobody disturbed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from hpse_dist.config import dump
from hpse_dist.report.export import csv_rows
from hpse_dist.report.runs import LOCK_FILE, read_study
from hpse_dist.run_folder import is_done
from pipelines import run_command
from pipelines.study import main, parser
from tests.data.made_collection import made_collection
from tests.integration.clusters import ROOT
from tests.test_run import pretraining, recipe_of
from tests.waiting import PATIENCE_S, lives, until

pytestmark = pytest.mark.integration
TRIAL = "ray::ImplicitFunc"  # Ray's agents are "ray::" too, and a machine dies with its agent
COSTS = ("time", "seconds", "memory", "samples_per_s", "energy", "core", "gpu", "hours", "cost")


def write_study(folder: Path) -> Path:
    """Two sources, one of them pre-trained first, one task, two seeds; runs under `folder`."""
    folder.mkdir()
    collection = made_collection()
    first = pretraining(folder / "runs", collection, name="completion", steps=30, evaluate_every=30)
    (folder / "completion.yaml").write_text(dump(first))
    task = recipe_of(folder / "runs", collection, name="pose2d", steps=40, evaluate_every=20)
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
        self.gate = study.parent / "gate"
        """While it is there, trials wait at their next checkpoint: holding/sitecustomize.py."""
        self.gate.touch()
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        holding = Path(__file__).with_name("holding")
        environment |= {"PYTHONPATH": f"{holding}:{ROOT}"}
        environment |= {"HPSE_HOLD": str(self.study.parent), "HPSE_PASSES": "completion"}
        with (self.study.parent / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "pipelines.study", str(self.study)],
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=environment,
            )

    def wait_for(self, look: Callable[[], Any], what: str) -> Any:
        """What `look` finds, before the command ends."""

        def there() -> Any:
            found = look()
            assert found or self.process.poll() is None, self.log()
            return found

        return until(there, what, PATIENCE_S)

    def log(self) -> str:
        return (self.study.parent / "log").read_text()

    def parts(self, title: str) -> Iterator[psutil.Process]:
        """The command's processes with a word in their title."""
        for one in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                line = one.cmdline()
                if line and title in line[0].rpartition("/")[2]:
                    yield one

    def held_trial(self) -> tuple[psutil.Process, Path] | None:
        """A trial in the middle of its run, and the run's folder."""
        for trial in self.parts(TRIAL):
            with contextlib.suppress(psutil.Error):
                for file in trial.open_files():
                    folder = Path(file.path).parent
                    begun = any((folder / "checkpoints").glob("step_*"))
                    if Path(file.path).name == LOCK_FILE and begun and not is_done(folder):
                        return trial, folder
        return None

    def ended(self) -> int:
        return self.process.wait(timeout=3 * PATIENCE_S)  # a whole study


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


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    made = Command(write_study(tmp_path / "disturbed"))
    yield made
    made.process.kill()
    made.process.wait()


def test_killed_three_times_it_ends_with_the_same_table(tmp_path: Path, command: Command) -> None:
    first = command.runs / "completion" / "checkpoints"
    command.wait_for(lambda: any(first.glob("step_*")), "a checkpoint of the first run")
    family = psutil.Process(command.process.pid).children(recursive=True)
    command.process.kill()  # the driver
    assert command.ended() == -signal.SIGKILL
    _, left = psutil.wait_procs(family, timeout=PATIENCE_S)
    assert not left

    command.process = command.start()
    trial, run = command.wait_for(command.held_trial, "a trial to kill")
    trial.kill()
    until(lambda: not lives(trial.pid), "the trial's end")
    command.wait_for(command.held_trial, "a trial after it")
    next(command.parts("gcs_server")).kill()  # the head
    assert command.ended() == 1
    assert "error: Ray's gcs_server" in command.log()
    assert "Traceback" not in command.log()

    command.gate.unlink()
    command.process = command.start()
    assert command.ended() == 0, command.log()
    assert is_done(run)
    quiet = write_study(tmp_path / "quiet")
    assert run_command(main, parser(), [str(quiet), "--without-ray"]) == 0
    found, expected = table(command.runs), table(quiet.parent / "runs")
    assert found.keys() == expected.keys() and found["runs"]
    for name in expected:
        assert json.dumps(found[name]) == json.dumps(expected[name]), name  # NaN equals NaN there
