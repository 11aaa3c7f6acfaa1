"""What test_child has called in child processes; imports little, since each of those does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path


def fork_a_worker_that_fails() -> None:
    multiprocessing.get_context("fork").Process(target=raise_disk_full).start()
    time.sleep(3600)


def share_memory_and_be_killed(place: str) -> None:
    """Say in a file what the memory is called; a worker that has it too lives on."""
    memory = SharedMemory(create=True, size=8)
    Path(place).write_text(memory.name)
    multiprocessing.get_context("fork").Process(target=wait_for_ever).start()
    os.kill(os.getpid(), signal.SIGKILL)


def raise_disk_full() -> None:
    raise OSError(28, "No space left on device")


def wait_for_ever() -> None:
    time.sleep(3600)


def say_no() -> None:
    print("noise that is no answer")
    raise ValueError("no,\nnever")
