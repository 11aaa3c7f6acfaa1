"""Where a run's time went, on a clock that the tests turn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from hpse_dist.accounting import (
    LAUNCH,
    LOSSES_FILE,
    STARTS_FILE,
    Account,
    Clock,
    Start,
    account_of,
    read_starts,
    straggler,
    together,
)
from hpse_dist.world import World


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_run_that_was_killed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten steps of 2 s; killed at step 7, on from step 4 after 5 s without anybody."""
    monkeypatch.setenv(LAUNCH, "one command")
    time = Time()
    clock = Clock(time)
    account = Account(tmp_path, World(), clock, now=time)
    time.now += 3.0
    account.resumed(0)
    for step in range(1, 8):
        with clock.updating():
            time.now += 2.0
        account.made(step)
        if step == 4:
            saved = clock.state_dict()

    time.now += 5.0
    clock = Clock(time)
    account = Account(tmp_path, World(), clock, now=time)
    time.now += 3.0
    clock.load_state_dict(saved)
    account.resumed(4)
    for step in range(5, 11):
        with clock.updating():
            time.now += 2.0
        account.made(step)
    account.ended("done")
    assert clock.useful == 20.0
    assert account.figures() == {
        "effective": round(20 / 37, 4),  # 3 + 14 + 5 + 3 + 12
        "useful_s": 20.0,
        "wall_s": 37.0,
        "starts": 2,
        "ended": {"killed": 1},
        "lost_steps": 3,
        "recover_s": {"median": 10.0, "worst": 10.0},
    }
    assert account.seconds() == 32.0  # nobody worked in the 5 s
    assert [start.ended for start in read_starts(account.path)] == [None, "done"]


def test_rates_are_of_the_time_since_the_last_reading() -> None:
    """Two updates of 2 s, half a second of each waiting for 3 samples, and 1 s of saving."""
    time = Time()
    clock = Clock(time)

    def batches() -> Iterator[dict[str, Any]]:
        while True:
            time.now += 0.5
            yield {"image": [0, 0, 0]}

    source = batches()
    for _ in range(2):
        with clock.updating():
            clock.next(source)
            with clock.working():
                time.now += 0.25
            time.now += 1.25
    with clock.saving():
        time.now += 1.0
    assert clock.own() == 0.5
    wanted = {"samples_per_s": 4 * 6 / 4.0, "wait_share": 1.0 / 4.0, "save_share": 1.0 / 5.0}
    assert clock.rates(4) == wanted and clock.last == wanted
    assert set(clock.rates(4).values()) == {0.0} and clock.own() == 0.0


def test_a_loss_that_was_seen_says_how_a_start_ended(tmp_path: Path) -> None:
    silent = Start("one command", 1000.0, 0, 1004.0, 3)
    (tmp_path / STARTS_FILE).write_text(json.dumps([asdict(silent)]))
    seen = {"launch": "one command", "time": 1005.0, "how": "out of memory"}
    (tmp_path / LOSSES_FILE).write_text(json.dumps(seen) + "\n{torn")
    account = Account(tmp_path, World(), Clock(), now=Time())
    assert account.figures()["ended"] == {"out of memory": 1}


def test_time_between_commands_is_nobodys(tmp_path: Path) -> None:
    night = 40_000.0
    starts = [
        Start("first", 0.0, 0, 10.0, 5, first=1.0, ended="told to stop"),
        Start("second", night, 5, night + 10.0, 10, first=night + 1.0, ended="done"),
    ]
    found = account_of(starts, useful=18.0)
    assert found["effective"] == 0.9
    assert found["ended"] == {"told to stop": 1}
    assert found["lost_steps"] == 0 and found["recover_s"]["worst"] is None


def test_signs_of_life_are_written_once_a_second_and_by_one_rank(tmp_path: Path) -> None:
    time = Time()
    main, other = (Account(tmp_path / str(r), World(r, 2), Clock(), now=time) for r in (0, 1))
    (tmp_path / "0").mkdir()
    for account in (main, other):
        account.resumed(0)
    time.now += 0.5
    main.made(1)
    assert read_starts(main.path)[0].step == 0
    time.now += 1.0
    main.made(2)
    assert read_starts(main.path)[0].step == 2
    assert not other.path.exists()


def test_a_store_that_is_away_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    time, folder = Time(), tmp_path / "run"
    account = Account(folder, World(), Clock(), now=time)  # the folder is not there
    for step in range(1, 5):
        time.now += 2.0
        account.made(step)
    assert caplog.text.count("could not be written (No such file or directory)") == 1
    folder.mkdir()
    time.now += 2.0
    account.made(5)
    assert read_starts(account.path)[0].step == 5


def test_a_file_cut_short_is_no_history(tmp_path: Path) -> None:
    (tmp_path / "starts.json").write_text('[{"launch": ')
    assert read_starts(tmp_path / "starts.json") == []


def test_a_straggler_is_named() -> None:
    assert straggler([1.0, 1.1, 1.8, 0.9]) == (2, pytest.approx(1.8 / 1.05))
    assert straggler([1.0, 1.1, 1.4, 0.9]) is None
    assert straggler([5.0]) is None
    assert straggler([0.0, 0.0]) is None


def test_readings_add_up_and_memory_peaks() -> None:
    both = together([{"core_seconds": 1.0, "memory_mb": 5.0}, {"core_seconds": 2.5, "joules": 1.0}])
    assert both == {"core_seconds": 3.5, "memory_mb": 5.0, "joules": 1.0}
    assert together([]) == {}
