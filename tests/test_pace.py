"""A run that is slower than planned says so, once."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from hpse_dist.accounting import Clock
from hpse_dist.guard import INCIDENTS_FILE, read_incidents
from hpse_dist.pace import Pace
from hpse_dist.world import World


class Watch:
    """A clock that goes on by so many seconds whenever it is read."""

    def __init__(self, step_s: float) -> None:
        self.step_s, self.now = step_s, 0.0

    def __call__(self) -> float:
        self.now += self.step_s
        return self.now


def rates(samples_per_s: float, wait_share: float = 0.0) -> dict[str, float]:
    return {"samples_per_s": samples_per_s, "wait_share": wait_share, "save_share": 0.0}


def test_findings_are_said_once_and_again_when_they_come_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    watch = Watch(20.0)
    pace = Pace(tmp_path, World(size=2), clock, planned_s=0.1, now=watch)  # 20 samples/s by two
    readings = [rates(20)] * 2 + [rates(10)] * 6 + [rates(20)] + [rates(10)] * 3
    with caplog.at_level(logging.WARNING):
        for step, clock.last in enumerate(readings):
            pace.look(step)
    found = read_incidents(tmp_path / INCIDENTS_FILE)
    assert [(one["kind"], one["step"]) for one in found] == [("throttled", 4), ("throttled", 11)]
    assert "200 ms to compute, 2.0 times what the plan measured" in caplog.text


def test_waiting_for_data_is_no_slow_computing(tmp_path: Path) -> None:
    clock = Clock()
    pace = Pace(tmp_path, World(), clock, planned_s=0.1, now=Watch(20.0))
    for step in range(5):
        clock.last = rates(5.0, wait_share=0.5)  # half of 0.2 s a sample
        pace.look(step)
    (one,) = read_incidents(tmp_path / INCIDENTS_FILE)
    assert one["kind"] == "data_bound" and "50%" in one["why"]


def test_a_straggler_is_an_incident_and_without_a_plan_nothing_is_throttled(tmp_path: Path) -> None:
    clock = Clock()
    pace = Pace(tmp_path, World(size=2), clock)
    clock.last, clock.straggler = rates(1e-3), 1
    for step in range(4):
        pace.look(step)
    assert [one["kind"] for one in read_incidents(tmp_path / INCIDENTS_FILE)] == ["straggler"]


def test_other_ranks_are_silent(tmp_path: Path) -> None:
    clock = Clock()
    clock.straggler, clock.last = 1, rates(1.0, 0.9)
    for step in range(4):
        Pace(tmp_path, World(1, 2, 1, 2), clock, planned_s=0.1).look(step)
    assert not (tmp_path / INCIDENTS_FILE).exists()


def test_what_passes_in_no_time_is_no_news(tmp_path: Path) -> None:
    clock = Clock()
    clock.last = rates(5.0, wait_share=0.5)
    short = Pace(tmp_path, World(), clock, now=Watch(0.1))
    for step in range(40):
        short.look(step)
    assert not (tmp_path / INCIDENTS_FILE).exists()
    for step in range(40, 120):  # it goes on: ten seconds are over
        short.look(step)
    (one,) = read_incidents(tmp_path / INCIDENTS_FILE)
    assert one["kind"] == "data_bound" and one["step"] > 40
