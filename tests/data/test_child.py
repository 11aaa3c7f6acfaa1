from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hpse_dist.data.child import Child
from tests.waiting import PATIENCE_S, lives, until


def call(name: str, *arguments: str, timeout_s: float = PATIENCE_S) -> None:
    child = Child(f"tests.data.child_calls:{name}", timeout_s)
    try:
        child.call(*arguments)
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
    with pytest.raises(TimeoutError, match="not done after 2 s"):
        call("wait_for_ever", timeout_s=2)


def test_its_shared_memory_is_freed_however_it_ends(tmp_path: Path) -> None:
    """Else each collection that a full disk stops leaves some in /dev/shm."""
    child = Child("tests.data.child_calls:share_memory_and_be_killed", PATIENCE_S)

    def late() -> None:  # not by a clock: the child may take its time to begin
        until(lambda: not lives(child._process.pid), "the child's end")
        child._give_up()

    thread = threading.Thread(target=late)
    thread.start()
    try:
        with pytest.raises(TimeoutError):
            child.call(str(tmp_path / "name"))
    finally:
        thread.join()
        child.close()
    memory = Path("/dev/shm") / (tmp_path / "name").read_text()
    until(lambda: not memory.exists(), "the memory is freed")


ORPHAN = """
from hpse_dist.data.child import Child
child = Child("tests.data.child_calls:wait_for_ever", 3600)
print(child._process.pid, flush=True)
child.call()
"""


def test_it_does_not_outlive_its_parent() -> None:
    root = Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True, cwd=root
    )
    assert parent.stdout
    child = int(parent.stdout.readline())
    time.sleep(0.5)  # the call is under way, as a rule
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    until(lambda: not lives(child), "the child ends with its parent")
