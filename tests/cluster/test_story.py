"""What the user is told about a lost worker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.story import how_lost, story, to_blame
from hpse_dist.accounting import Account, Clock, Start, explain
from hpse_dist.world import World

pytest.importorskip("ray")

import ray.exceptions
from ray.train.v2._internal.exceptions import (
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)

import cluster.story
from cluster.losses import Losses

HUNG = WorkerHealthCheckTimeoutError("no answer")
DEAD = WorkerHealthCheckFailedError("gone", failure=ray.exceptions.ActorDiedError())
ENDED = WorkerHealthCheckFailedError(
    "gone", failure=ray.exceptions.OutOfMemoryError("Task was killed, node running low on memory")
)
TORCH = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")


@pytest.mark.parametrize(
    ("error", "how", "words"),
    [
        (HUNG, "hung", "did not answer any more, for 90 s: it hung"),
        (DEAD, "killed", "died without a word: killed, out of memory"),
        (ray.exceptions.ActorDiedError(), "killed", "died without a word: killed, out of memory"),
        (ENDED, "out of memory", "ran out of memory (OutOfMemoryError: Task was killed"),
        (TORCH, "out of memory", "take a smaller machine.micro_batch"),
        (MemoryError(), "out of memory", "ran out of memory (MemoryError)"),
        (RuntimeError("Connection closed by peer"), "error", "stopped with RuntimeError: Connec"),
    ],
)
def test_how_a_worker_was_lost(error: Exception, how: str, words: str) -> None:
    assert how_lost(error) == how and words in story(error, 90.0)
    peer = RuntimeError("Connection closed by peer")
    assert to_blame({0: peer, 1: error})[0] == (0 if how == "error" else 1)


def test_the_controller_writes_it_down_and_the_account_counts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "events").write_text("low 0\noom_kill 2\n")
    monkeypatch.setattr(cluster.story, "_EVENTS", tmp_path / "events")
    losses = Losses(tmp_path, "start-1", 90.0)
    starts = [Start("start-1", 1.0, 0, 2.0, 5), Start("start-1", 3.0, 0, 4.0, 5, ended="done")]
    losses.after_exception(None, {1: DEAD, 0: RuntimeError("peer")})
    (tmp_path / "events").write_text("low 0\noom_kill 3\n")
    losses.after_exception(None, {1: DEAD})
    rows = [json.loads(line) for line in (tmp_path / "losses.jsonl").read_text().splitlines()]
    assert [row["how"] for row in rows] == ["killed", "out of memory"]
    assert "killed by the system for want of memory (kill 3 of" in rows[1]["said"]
    rows[0] |= {"time": 2.5, "how": "hung"}
    lines = [json.dumps(row) for row in (rows[0], rows[1] | {"launch": "another"})]
    (tmp_path / "losses.jsonl").write_text("\n".join([*lines, "torn {"]) + "\n")
    explain(starts, tmp_path / "losses.jsonl")
    assert [start.ended for start in starts] == ["hung", "done"]


def test_an_account_says_how_its_last_start_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPSE_LAUNCH", "start-1")
    first = Account(tmp_path, World(), Clock())
    first.resumed(0)
    Losses(tmp_path, "start-1", 90.0).after_exception(None, {1: HUNG})
    second = Account(tmp_path, World(), Clock())
    assert second.figures()["ended"] == {"hung": 1}


def test_a_full_disk_does_not_end_the_controller(tmp_path: Path) -> None:
    Losses(tmp_path / "away", "start-1", 90.0).after_exception(None, {1: HUNG})
