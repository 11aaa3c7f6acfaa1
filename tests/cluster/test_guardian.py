"""The guardian ends what a killed driver leaves behind, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.guardian import Known, family, guarded, processes

ROOT = Path(__file__).parents[2]
DRIVER = """
import os, signal, subprocess, sys, time
from cluster.guardian import guarded
sleeps = "import sys, time; time.sleep(60)"
with guarded():
    parent = "import subprocess, sys; subprocess.run([sys.executable, '-c', %r, 'ray grandchild'])"
    commands = (["ray child", sleeps], ["ray parent", parent % sleeps], ["somebody", sleeps])
    children = [
        subprocess.Popen([sys.executable, "-c", code, name], stdout=subprocess.DEVNULL)
        for name, code in commands
    ]
    time.sleep(3)
    print(*[child.pid for child in children], flush=True)
    if sys.argv[1] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
"""


def alive() -> dict[int, Known]:
    return {one.number: one for one in processes()}


@pytest.mark.parametrize("end", ["killed", "in peace"])
def test_only_the_killed_drivers_ray_is_ended(end: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, end], env=environment, stdout=subprocess.PIPE, text=True
    )
    child, parent, other = (int(number) for number in done.stdout.split())
    descendants = family(set(), {parent})
    try:
        deadline = time.monotonic() + 10
        ended = {child, parent} | {one.number for one in descendants}
        while end == "killed" and ended & alive().keys() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert bool(ended & alive().keys()) == (end == "in peace")
        assert other in alive()
    finally:
        for number in {child, parent, other} | {one.number for one in descendants}:
            if number in alive():
                os.kill(number, signal.SIGKILL)


def test_a_family_is_known_by_number_and_birth() -> None:
    me = alive()[os.getpid()]
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        found = family(set(), {os.getpid()})
        assert child.pid in {one.number for one in found} and me not in found
        stranger = Known(child.pid, 1)  # the number was given to another process
        assert stranger not in family({stranger}, set())
        child.communicate(b"\n")


def test_nothing_is_left_of_the_guardian() -> None:
    before = alive().keys()
    with guarded():
        assert len(alive().keys() - before) >= 1
    assert os.getpid() in alive()
    assert not any(
        b"guardian" in Path(f"/proc/{number}/cmdline").read_bytes()
        for number in {one.number for one in family(set(), {os.getpid()})}
    )
