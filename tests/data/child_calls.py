"""What test_child has called in child processes; imports little, since each of those does."""

from __future__ import annotations

import multiprocessing
import time


def fork_a_worker_that_fails() -> None:
    multiprocessing.get_context("fork").Process(target=raise_disk_full).start()
    time.sleep(3600)


def raise_disk_full() -> None:
    raise OSError(28, "No space left on device")


def wait_for_ever() -> None:
    time.sleep(3600)


def say_no() -> None:
    print("noise that is no answer")
    raise ValueError("no,\nnever")
