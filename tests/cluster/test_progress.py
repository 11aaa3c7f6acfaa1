"""Progress read from run folders that other processes write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.progress import ProgressBar, RunWatch, Tail


def test_tail_gives_whole_lines_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    tail = Tail(path)
    assert tail.lines() == []
    path.write_text("one\ntw")
    assert tail.lines() == ["one"]
    with path.open("a") as file:
        file.write("o\nthree\n")
    assert tail.lines() == ["two", "three"]
    assert tail.lines() == []
    path.write_text("new\n")  # cut back, as a run does that goes on from a checkpoint
    assert tail.lines() == ["new"]


def test_tail_from_the_end_skips_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("old\n")
    tail = Tail(path, from_end=True)
    with path.open("a") as file:
        file.write("new\n")
    assert tail.lines() == ["new"]


def test_a_watch_follows_steps_and_scalars(tmp_path: Path) -> None:
    watch = RunWatch(tmp_path)
    watch.poll()
    assert watch.step == 0
    rows = [{"step": 10, "loss": 2.0}, {"step": 10, "val/x": 1.0}, {"step": 20, "loss": None}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(text + "{torn\n")
    watch.poll()
    assert watch.step == 20
    assert watch.scalars == {"loss": 2.0}


def test_a_warning_of_all_workers_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "worker_0.log").write_text("2026-01-01 00:00:00,0 WARNING a: before\n")
    watch = RunWatch(tmp_path)
    for rank in range(2):
        with (tmp_path / "logs" / f"worker_{rank}.log").open("a") as file:
            file.write("2026-01-01 00:00:00,0 INFO a.b: going on\n")
            file.write("2026-01-01 00:00:00,0 WARNING a.b: step_10 is broken: hash\n")
            file.write("Traceback (most recent call last):\n")
    assert list(watch.warnings()) == ["step_10 is broken: hash"]
    assert list(watch.warnings()) == []


def test_a_bar_sums_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for number, folder in enumerate(folders):
        folder.mkdir()
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 5 + number}) + "\n")
    watches = [RunWatch(folder) for folder in folders]
    bar = ProgressBar("runs", watches, [10, 10])
    bar.update("1/2 runs")
    assert bar._bar.n == 11
    bar.complete(watches[0], 10)
    bar.update()
    assert bar._bar.n == 16
    bar.close()
    assert capsys.readouterr().err == ""  # not a terminal: no bar
