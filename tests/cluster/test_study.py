"""A study carried out on a cluster: what becomes of it when its command is told to stop."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import study
from cluster.study import carry_out
from hpse_dist.study import PlannedRun


def planned(folder: Path, kind: str, name: str, *after: str) -> Any:
    machine = SimpleNamespace(
        **dict(workers=2, loader_threads=1, crew_size=lambda: 0, device="cpu"),
        **dict(max_failures=0, hang_limit_s=90.0),
    )
    recipe = SimpleNamespace(machine=machine, steps=10, fewer_workers=lambda: ())
    values: Any = dict(path=folder, overrides=(), recipe=recipe, source=name, after=after)
    return PlannedRun(name=name, kind=kind, folder=folder / name, **values)


@pytest.mark.parametrize("saved", [True, False], ids=["at its end", "in the middle"])
def test_after_sigterm_nothing_more_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: bool
) -> None:
    started = []

    def launch(target: str, recipe: Any, folder: Path, **_: Any) -> None:
        started.append(folder.name)
        os.kill(os.getpid(), signal.SIGTERM)
        folder.mkdir()
        if saved:
            (folder / "DONE").touch()

    monkeypatch.setattr(study, "launch", launch)
    monkeypatch.setattr(study, "connected", lambda **_: contextlib.nullcontext())
    before = signal.getsignal(signal.SIGTERM)
    runs = [
        planned(tmp_path, "pretrain", "a"),
        planned(tmp_path, "pretrain", "b"),
        planned(tmp_path, "finetune", "from_a", "a"),
        planned(tmp_path, "finetune", "alone"),
    ]
    outcomes = {one.name: one.error for one in carry_out(runs, tmp_path, progress=False)}
    stopped = "stopped by a signal"
    assert started == ["a"]
    assert outcomes == {
        "a": None if saved else stopped,
        "b": stopped,
        "from_a": stopped if saved else "its source a is not done",
        "alone": stopped,
    }
    assert signal.getsignal(signal.SIGTERM) is before
