"""A command of its own Ray cluster that loses the head: one sentence, at once, nothing left."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from tests.waiting import PATIENCE_S, lives, until

ROOT = Path(__file__).parents[2]
COMMAND = """
import time
from cluster.connection import connected
with connected():
    print("connected", flush=True)
    time.sleep(600)
"""


IN_PEACE = """
import ray, time
from cluster.connection import connected
with connected():
    ray.shutdown()
    time.sleep(3)
"""
FOLLOWED = """
import ray
from cluster.connection import connected
with connected(debug=True):
    ray.get(ray.remote(lambda: print("said by a worker")).remote())
    input()
"""
NEEDLESS = ("monitor.py", "dashboard.py", "ray::IDLE", "default_worker.py")


def test_a_shutdown_of_its_own_is_in_peace() -> None:
    subprocess.run([sys.executable, "-c", IN_PEACE], cwd=ROOT, check=True)


def test_who_asks_for_it_sees_what_workers_print() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FOLLOWED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        timer = threading.Timer(PATIENCE_S, process.kill)  # what is never said ends in a failure
        timer.start()
        try:
            said = any("said by a worker" in line for line in process.stdout)
            process.communicate("\n")
        finally:
            timer.cancel()
    assert said and process.returncode == 0


@pytest.mark.parametrize("part", ["gcs_server", "raylet"])
def test_a_command_without_its_head_ends_in_a_sentence(part: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "connected\n"
        family = psutil.Process(process.pid).children(recursive=True)
        started = []
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
                started += one.cmdline()
        assert not [part for part in started if part.strip().endswith(NEEDLESS)]
        next(one for one in family if one.name() == part).kill()
        _, said = process.communicate()
    assert process.returncode == 1
    assert [line for line in said.splitlines() if line.startswith(f"error: Ray's {part} (process")]
    until(lambda: not any(lives(one.pid) for one in family), "the end of what Ray started")
