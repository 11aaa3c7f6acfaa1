"""Inside a worker: what is written down when a run ends well, ends for good, or crashes."""

from __future__ import annotations

import errno
import logging
import threading
from pathlib import Path

import pytest

from cluster.data_workers import DataWorkers
from cluster.worker import (
    Final,
    FinalError,
    all_final,
    forget_final,
    is_final,
    read_final,
    resolve,
    run_target,
    sentence,
    write_final,
)
from hpse_dist.config import ConfigError
from hpse_dist.world import World

SAY = "tests.cluster.targets:say"


def test_a_run_that_ends_well_leaves_its_log_and_no_error(tmp_path: Path) -> None:
    run_target(SAY, None, World(), tmp_path)
    log = (tmp_path / "logs" / "worker_0.log").read_text()
    assert "INFO hpse_dist.targets: starting" in log
    assert "WARNING hpse_dist.targets: checkpoint" in log
    assert read_final(tmp_path) is None


def test_a_run_is_given_its_data_workers(tmp_path: Path) -> None:
    crew = DataWorkers(3, apart=True)
    assert run_target("tests.cluster.targets:hired", None, World(), tmp_path, hire=crew) == crew


def test_a_users_error_is_final_and_keeps_its_sentence(tmp_path: Path) -> None:
    with pytest.raises(FinalError):
        run_target(SAY, ConfigError("global_batch 7\n must divide"), World(1, 2, 1, 2), tmp_path)
    final = read_final(tmp_path)
    assert final == Final("ConfigError", "global_batch 7 must divide")
    assert isinstance(final.to_error(), ConfigError)
    assert "Traceback" in (tmp_path / "logs" / "worker_1.log").read_text()
    forget_final(tmp_path)
    assert read_final(tmp_path) is None


def test_a_disk_without_a_byte_hides_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What went wrong is said by the error itself where it cannot be written down."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cluster.worker.write_text", full)
    with pytest.raises(FinalError) as raised:
        run_target(SAY, ConfigError("global_batch 7 must divide"), World(), tmp_path)
    assert sentence(raised.value) == "global_batch 7 must divide"
    assert read_final(tmp_path) is None


def test_a_crash_is_not_final(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="lost a peer"):
        run_target(SAY, RuntimeError("lost a peer"), World(), tmp_path)
    assert read_final(tmp_path) is None
    assert "RuntimeError: lost a peer" in (tmp_path / "logs" / "worker_0.log").read_text()


@pytest.mark.parametrize(
    ("error", "final"),
    [
        (ValueError("x"), True),
        (FileNotFoundError(errno.ENOENT, "no such file", "a"), True),
        (OSError(errno.ENOSPC, "no space left"), True),
        (ModuleNotFoundError("no module"), True),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA"), True),
        (MemoryError("no room"), False),
        (OSError(errno.EIO, "i/o error"), False),
        (ConnectionResetError("peer"), False),
        (TimeoutError("store"), False),
        (RuntimeError("gloo"), False),
    ],
)
def test_what_trying_again_can_heal(error: Exception, final: bool) -> None:
    assert is_final(error) is final


def test_sentences_are_one_line() -> None:
    assert sentence(OSError(errno.ENOSPC, "No space left", "/a/b")) == "/a/b: No space left"
    assert sentence(ValueError("one\n  two")) == "one two"
    assert sentence(KeyError("x")) == "KeyError: 'x'"
    assert sentence(RuntimeError()) == "RuntimeError"


@pytest.mark.parametrize("target", ["nocolon", ":f", "m:", "hpse_dist.world:absent"])
def test_targets_that_name_nothing_are_refused(target: str) -> None:
    with pytest.raises(ValueError, match="target"):
        resolve(target)


def test_the_lowest_rank_is_quoted(tmp_path: Path) -> None:
    write_final(tmp_path, 10, Final("ValueError", "ten"))
    write_final(tmp_path, 2, Final("ValueError", "two"))
    assert read_final(tmp_path) == Final("ValueError", "two")


def test_waiting_for_all_workers_errors(tmp_path: Path) -> None:
    write_final(tmp_path, 0, Final("ValueError", "x"))
    assert not all_final(tmp_path, 2, patience_s=0.2)
    late = threading.Timer(0.2, write_final, (tmp_path, 1, Final("ValueError", "x")))
    late.start()
    assert all_final(tmp_path, 2, patience_s=60)
    late.join()


def test_the_log_is_closed_and_the_level_put_back(tmp_path: Path) -> None:
    logger = logging.getLogger("hpse_dist")
    before = logger.level, list(logger.handlers)
    run_target(SAY, None, World(), tmp_path)
    assert (logger.level, list(logger.handlers)) == before
