from __future__ import annotations

import time

import pytest

from hpse_dist.data.child import Child


def call(name: str, timeout_s: float = 60.0) -> None:
    child = Child(f"tests.data.child_calls:{name}", timeout_s)
    try:
        child.call()
    finally:
        child.close()
        assert child._process.poll() is not None
        child.close()  # again, harmless


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("say_no", "no, never"),
        ("raise_disk_full", "No space left"),
        ("fork_a_worker_that_fails", "No space left"),
        ("no_such_function", "the process died .AttributeError"),
    ],
)
def test_errors_come_back(name: str, message: str) -> None:
    with pytest.raises(OSError, match=message):
        call(name)


def test_one_that_hangs_is_ended() -> None:
    started = time.monotonic()
    with pytest.raises(TimeoutError, match="not done after 2 s"):
        call("wait_for_ever", timeout_s=2)
    assert time.monotonic() - started < 20
