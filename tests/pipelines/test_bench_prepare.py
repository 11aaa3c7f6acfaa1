"""What `bench prepare` makes of the parts it has seen made."""

from __future__ import annotations

from typing import Any

import pytest

from hpse_dist.data.parts import Part
from pipelines.bench_prepare import Making


def part(by: str, at: float, frames: int, seconds: float, memory_mb: float) -> Part:
    made = {"by": by, "at": at, "processor_seconds": seconds, "memory_mb": memory_mb}
    return Part(int(at), frames, (), {}, {}, {}, made=made)


def making(*parts: Part) -> Making:
    nothing: Any = None
    return Making(nothing, parts, 1.0, 0)


def test_start_and_warm_up_are_left_out() -> None:
    one = [part("a", 2 * k, 100, 50 if k == 0 else 4, 900 + 50 * min(k, 2)) for k in range(8)]
    two = [part("b", 2 * k + 1, 100, 50 if k == 0 else 6, 700 + 50 * min(k, 2)) for k in range(8)]
    both = making(*two, *one)  # in any order
    assert both.per_core == pytest.approx(2 * 700 / (7 * 4 + 7 * 6))
    assert both.memory() == pytest.approx((0.0, 700, 1000))


def test_a_leak_shows_in_the_slope() -> None:
    leaks = [part("a", k, 250, 1, 900 + 5 * k) for k in range(8)]
    steady = [part("b", 20 + k, 250, 1, 500) for k in range(8)]
    assert making(*leaks).memory()[0] == pytest.approx(20)
    assert making(*leaks, *steady).memory()[0] == pytest.approx(10)
