"""The guardian ends what a killed driver leaves behind, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.guardian import Known, command, family, guarded, processes
from tests.waiting import lives, until

ROOT = Path(__file__).parents[2]
DRIVER = """
import os, signal, subprocess, sys, time
from pathlib import Path
from cluster import guardian
from cluster.guardian import guarded, family
guardian.__file__, seen = sys.argv[2], Path(sys.argv[3])
sleeps = "import time; time.sleep(3600)"
parent = "import subprocess, sys; subprocess.run([sys.executable, '-c', %r, 'ray grandchild'])"
with guarded():
    commands = (["ray child", sleeps], ["ray parent", parent % sleeps], ["somebody", sleeps])
    children = [
        subprocess.Popen([sys.executable, "-c", code, name], stdout=subprocess.DEVNULL)
        for name, code in commands
    ]
    numbers = [child.pid for child in children]
    while not (grandchildren := family(set(), {numbers[1]})):
        time.sleep(0.05)
    numbers += [one.number for one in grandchildren]
    print(*numbers, flush=True)
    if sys.argv[1] == "killed":
        while not seen.exists() or {*numbers} - {*map(int, seen.read_text().split())}:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
"""
# The guardian, who says whom he has seen: how soon he looks is the machine's affair.
TELLS = """
import os, sys
sys.path.insert(0, {root!r})
from cluster import guardian
family = guardian.family
def told(*given):
    found = family(*given)
    with open({seen!r} + ".new", "w") as file:
        print(*(one.number for one in found), file=file)
    os.replace({seen!r} + ".new", {seen!r})
    return found
guardian.family = told
guardian.main(int(sys.argv[1]))
"""


def alive() -> dict[int, Known]:
    return {one.number: one for one in processes()}


@pytest.mark.parametrize("end", ["killed", "in peace"])
def test_only_the_killed_drivers_ray_is_ended(tmp_path: Path, end: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    tells, seen = tmp_path / "tells.py", str(tmp_path / "seen")
    tells.write_text(TELLS.format(root=str(ROOT), seen=seen))
    words = [sys.executable, "-c", DRIVER, end, str(tells), seen]
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True)
    child, parent, other, grandchild = (int(number) for number in done.stdout.split())
    try:
        if end == "killed":
            for number in (child, parent, grandchild):
                until(lambda number=number: not lives(number), "the guardian ends what is Ray's")
        assert [lives(one) for one in (child, parent, grandchild)] == [end != "killed"] * 3
        assert lives(other)
    finally:
        for number in filter(lives, (child, parent, other, grandchild)):
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
    assert not any(b"guardian" in command(one) for one in family(set(), {os.getpid()}))
