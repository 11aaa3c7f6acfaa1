"""Signs of life: who gives none is found, and he alone is ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.guardian import Known, processes
from cluster.pulse import Patience, beating, pulse_file
from hpse_dist.accounting import Start, explain
from tests.waiting import until

ROOT = Path(__file__).parents[2]
BEATING = """
import sys
from pathlib import Path
from cluster.pulse import beating
with beating(Path(sys.argv[1]), "a node", 0.05):
    input()
"""


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", BEATING, str(tmp_path)]
    made = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT)
    until(pulse_file(tmp_path).exists, "a sign of life")
    yield made
    made.kill()
    made.communicate()


def test_one_that_is_stopped_is_found_and_ended(
    tmp_path: Path, process: subprocess.Popen[bytes]
) -> None:
    first = pulse_file(tmp_path).stat().st_mtime_ns
    until(lambda: pulse_file(tmp_path).stat().st_mtime_ns > first, "another sign")
    os.kill(process.pid, signal.SIGSTOP)
    pulse = until(Patience(tmp_path, 0.5).out, "its patience ends")
    assert pulse is not None
    assert (pulse.process, pulse.node) == (process.pid, "a node")
    assert Known(pulse.process, pulse.born) in processes()  # no clock's time, which may be set
    assert not replace(pulse, born=pulse.born - 60).end()  # an earlier process of that number
    assert pulse.end()
    assert process.wait() == -signal.SIGKILL
    assert not pulse.end()
    patience = Patience(tmp_path, 0.5)
    patience.forget(replace(pulse, process=1))  # of another that has come since
    assert pulse_file(tmp_path).exists()
    patience.forget(pulse)
    assert not pulse_file(tmp_path).exists()


def test_one_that_ends_in_peace_leaves_no_sign(
    tmp_path: Path, process: subprocess.Popen[bytes]
) -> None:
    process.communicate(b"\n")
    assert not pulse_file(tmp_path).exists()
    assert Patience(tmp_path, 0.0).out() is None


def test_half_a_sign_is_none(tmp_path: Path) -> None:
    pulse_file(tmp_path).parent.mkdir()
    for text in ("", "[]", '{"process": 1}'):
        pulse_file(tmp_path).write_text(text)
        assert Patience(tmp_path, 0.0).out() is None


def test_what_hung_is_counted_by_the_runs_account(tmp_path: Path) -> None:
    starts = [Start("a", 1.0, 0, 2.0, 3), Start("b", 1.0, 0, 2.0, 3)]
    with beating(tmp_path, "a node"):
        assert "gave no sign of life for 90 s" in Patience(tmp_path, 90.0).note("a")
    explain(starts, tmp_path / "losses.jsonl")
    assert [start.ended for start in starts] == ["hung", None]
