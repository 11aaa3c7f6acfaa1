"""Checkpoints: whole or not at all, believed only when their hashes hold."""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import resource
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hpse_dist.checkpoint import SCHEMA, Checkpoints
from hpse_dist.checkpoint_files import digest_of, problem_of
from hpse_dist.engine import Engine
from hpse_dist.engine.state import Snapshot
from hpse_dist.world import World
from tests.engine.toys import TinyLoader, make_engine


@pytest.fixture
def engine() -> Engine:
    return make_engine("plain")


@pytest.fixture
def loader() -> TinyLoader:
    return TinyLoader(World())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def flip_a_byte(path: Path, place: int = -10) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """Writes beyond `size` bytes fail as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_last_few_are_kept(tmp_path: Path, engine: Engine, loader: TinyLoader) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", 100, 2, "abc")
    assert checkpoints.due(200) and not checkpoints.due(150)
    for step in (100, 200, 1000):
        path = checkpoints.save(engine, loader, step)
        assert problem_of(path) is None
    assert names(tmp_path / "checkpoints") == ["step_00000200", "step_00001000"]
    manifest = json.loads((path / "manifest.json").read_text())
    assert set(manifest["files"]) == {"state-00000.safetensors", "random-00000.json"}
    assert (manifest["step"], manifest["world_size"]) == (1000, 1)
    assert manifest["recipe_hash"] == "abc"
    checkpoints.begin(engine, loader, 1100)
    checkpoints.begin(engine, loader, 1200)  # waits for the one before
    assert names(tmp_path / "checkpoints")[1:] == ["step_00001000", "step_00001100"]
    checkpoints.save(engine, loader, 1300)
    assert names(tmp_path / "checkpoints") == ["step_00001200", "step_00001300"]


def test_resume_brings_back_weights_place_and_random_states(
    tmp_path: Path, engine: Engine, loader: TinyLoader
) -> None:
    checkpoints = Checkpoints(tmp_path, 100, 2, "abc")
    assert checkpoints.resume(engine, loader) == 0
    loader.cursor = 48
    checkpoints.save(engine, loader, 100)
    drawn = torch.rand(3), np.random.rand(3), random.random()
    engine_2, loader_2 = make_engine("plain", seed=7), TinyLoader(World())
    assert checkpoints.resume(engine_2, loader_2) == 100
    assert loader_2.cursor == 48
    assert torch.equal(drawn[0], torch.rand(3))
    assert (drawn[1] == np.random.rand(3)).all()
    assert drawn[2] == random.random()
    for name, value in engine.full_state_dict().items():
        assert torch.equal(value, engine_2.full_state_dict()[name])


def test_what_else_has_a_state_comes_back_with_the_weights(
    tmp_path: Path, engine: Engine, loader: TinyLoader
) -> None:
    """A part that a checkpoint of before knew nothing of stays as it is."""
    clock, guard = TinyLoader(World()), TinyLoader(World())
    checkpoints = Checkpoints(tmp_path, 1, 9, "abc", also={"clock": clock})
    for step in (1, 2):
        clock.cursor = 10 * step
        checkpoints.save(engine, loader, step)
    clock.cursor, guard.cursor = 0, 7
    grown = Checkpoints(tmp_path, 1, 9, "abc", also={"clock": clock, "guard": guard})
    assert grown.resume(engine, loader) == 2 and (clock.cursor, guard.cursor) == (20, 7)
    assert grown.go_back(engine, 1) == 1 and (clock.cursor, guard.cursor) == (10, 7)


def test_what_must_be_on_the_disk_before_is_there_or_nothing_is(
    tmp_path: Path, engine: Engine, loader: TinyLoader
) -> None:
    checkpoints = Checkpoints(tmp_path, 1, 9, "abc")
    seen: list[list[str]] = []
    checkpoints.save(engine, loader, 1, before=lambda: seen.append(names(tmp_path)))
    assert seen == [[]]

    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(
        OSError, match=r"step_00000002: .* could not be written \(No space left"
    ) as e:
        checkpoints.save(engine, loader, 2, before=full)
    assert e.value.errno == errno.ENOSPC, "else it would be tried again and again"
    assert names(tmp_path) == ["step_00000001"]


def test_all_of_it_is_on_the_disk_before_it_has_its_name_and_then_the_name_is(
    tmp_path: Path, engine: Engine, loader: TinyLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut leaves a name without what it names."""
    done: list[int | str] = []
    sync, rename = os.fsync, Path.rename

    def synced(handle: int) -> None:
        done.append(os.fstat(handle).st_ino)
        sync(handle)

    def renamed(path: Path, target: Path) -> Path:
        done.append("renamed")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    path = Checkpoints(tmp_path, 1, 1, "abc").save(engine, loader, 1)
    now = done.index("renamed")
    assert {*done[:now]} >= {each.stat().st_ino for each in [*path.iterdir(), path]}
    assert done[now + 1 :] == [tmp_path.stat().st_ino]


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("state-00000.safetensors", "does not have the hash"),
        ("random-00000.json", "does not have the hash"),
        ("manifest.json", "own hash|not readable"),
    ],
)
def test_a_flipped_byte_is_found_said_and_the_one_before_used(
    file: str,
    said: str,
    tmp_path: Path,
    engine: Engine,
    loader: TinyLoader,
    caplog: pytest.LogCaptureFixture,
) -> None:
    checkpoints = Checkpoints(tmp_path, 100, 3, "abc")
    checkpoints.save(engine, loader, 100)
    flip_a_byte(checkpoints.save(engine, loader, 200) / file)
    with caplog.at_level(logging.WARNING):
        assert checkpoints.resume(engine, loader) == 100
    assert names(tmp_path) == ["step_00000100", "step_00000200.broken"]
    assert "step_00000200 is broken" in caplog.text
    problem = problem_of(tmp_path / "step_00000200.broken")
    assert problem is not None and any(part in problem for part in said.split("|"))
    # the same step is written again, and breaks again
    flip_a_byte(checkpoints.save(engine, loader, 200) / file)
    assert checkpoints.resume(engine, loader) == 100
    assert "step_00000200.broken2" in names(tmp_path)


def test_nothing_is_unpickled_before_its_hash_was_checked(
    tmp_path: Path, engine: Engine, loader: TinyLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path, 1, 2, "abc")
    flip_a_byte(checkpoints.save(engine, loader, 1) / "state-00000.safetensors")
    monkeypatch.setattr(engine, "load", lambda folder: pytest.fail("loaded"))
    assert checkpoints.resume(engine, loader) == 0


def test_debris_of_a_kill_is_cleared(tmp_path: Path, engine: Engine, loader: TinyLoader) -> None:
    checkpoints = Checkpoints(tmp_path, 1, 2, "abc")
    checkpoints.save(engine, loader, 1)
    (tmp_path / ".saving_step_00000002").mkdir()
    (tmp_path / ".saving_step_00000002" / "state-00000.safetensors").write_bytes(b"half")
    (tmp_path / ".removing_step_00000000").mkdir()
    assert checkpoints.resume(engine, loader) == 1
    assert names(tmp_path) == ["step_00000001"]


def test_what_could_not_be_removed_before_is_in_nobodys_way(
    tmp_path: Path, engine: Engine, loader: TinyLoader
) -> None:
    checkpoints = Checkpoints(tmp_path, 1, 1, "abc")
    checkpoints.save(engine, loader, 1)
    (tmp_path / ".removing_step_00000001").mkdir()
    (tmp_path / ".removing_step_00000001" / "held").touch()
    checkpoints.save(engine, loader, 2)
    assert names(tmp_path) == ["step_00000002"]


@pytest.mark.parametrize(
    ("killed_in", "doomed", "cursor"),
    [
        ("rename", "step_00000001", 0),  # both are there: the one that has the name
        ("rename", ".saving_step_00000001", 32),
        ("rmtree", ".removing_step_00000001", 32),
    ],
)
def test_a_kill_while_a_step_is_saved_again_leaves_one(
    killed_in: str,
    doomed: str,
    cursor: int,
    tmp_path: Path,
    engine: Engine,
    loader: TinyLoader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after a return: the same step, with another place in the data."""
    checkpoints = Checkpoints(tmp_path, 1, 1, "abc")
    checkpoints.save(engine, loader, 1)
    loader.load_state_dict({"epoch": 0, "cursor": 32})

    owner = Path if killed_in == "rename" else shutil
    real = getattr(owner, killed_in)

    def killed(path: Path, *rest: Any, **options: Any) -> Any:
        if path.name == doomed and path.exists():
            raise KeyboardInterrupt
        return real(path, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, killed_in, killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(engine, loader, 1)
    again = TinyLoader(World())
    assert Checkpoints(tmp_path, 1, 1, "abc").resume(engine, again) == 1
    assert again.state_dict() == {"epoch": 0, "cursor": cursor}
    assert names(tmp_path) == ["step_00000001"]


def test_a_checkpoint_of_another_recipe_or_program_is_an_error_and_stays(
    tmp_path: Path, engine: Engine, loader: TinyLoader
) -> None:
    path = Checkpoints(tmp_path, 1, 2, "abc").save(engine, loader, 1) / "manifest.json"
    with pytest.raises(ValueError, match="saved by another recipe"):
        Checkpoints(tmp_path, 1, 2, "xyz").resume(engine, loader)
    for schema, age in ((SCHEMA - 1, "an older"), (SCHEMA + 1, "a newer")):
        manifest = {**json.loads(path.read_text()), "schema": schema}
        del manifest["sha256"]
        path.write_text(json.dumps({**manifest, "sha256": digest_of(manifest)}))
        with pytest.raises(ValueError, match=f"written by {age} version of this program"):
            Checkpoints(tmp_path, 1, 2, "abc").resume(engine, loader)
    assert names(tmp_path) == ["step_00000001"]


def test_a_full_disk_leaves_earlier_checkpoints_and_no_debris(
    tmp_path: Path, engine: Engine, loader: TinyLoader
) -> None:
    checkpoints = Checkpoints(tmp_path, 1, 1, "abc")
    checkpoints.save(engine, loader, 1)
    with (
        files_at_most(500),
        pytest.raises(OSError, match=r"could not be written \(.*too large.*MB free there") as error,
    ):
        checkpoints.save(engine, loader, 2)
    assert "\n" not in str(error.value)
    assert names(tmp_path) == ["step_00000001"]
    assert checkpoints.resume(engine, loader) == 1
    checkpoints.save(engine, loader, 2)
    assert names(tmp_path) == ["step_00000002"]


def test_training_goes_on_while_a_checkpoint_is_written(
    tmp_path: Path, engine: Engine, loader: TinyLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk takes its time; what is saved is the state at the beginning."""
    may_write = threading.Event()
    write = Snapshot.write

    def slow(self: Snapshot, folder: Path) -> Path:
        assert may_write.wait(600)
        return write(self, folder)

    monkeypatch.setattr(Snapshot, "write", slow)
    checkpoints = Checkpoints(tmp_path, 1, 2, "abc")
    want = engine.full_state_dict()
    checkpoints.begin(engine, loader, 1)
    with torch.no_grad():
        engine.module.gain += 1
    loader.cursor = 160
    checkpoints.settle(engine)
    assert names(tmp_path) == [".saving_step_00000001"]
    may_write.set()
    checkpoints.settle(engine, wait=True)
    assert names(tmp_path) == ["step_00000001"]
    assert Checkpoints(tmp_path, 1, 2, "abc").resume(engine, loader) == 1
    assert loader.cursor == 0
    got = engine.full_state_dict()
    assert all(torch.equal(want[name], got[name]) for name in want)


def test_a_checkpoint_is_none_before_all_ranks_have_written_theirs(
    tmp_path: Path, engine: Engine, loader: TinyLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path, 1, 2, "abc")
    checkpoints.begin(engine, loader, 1)
    mine = next(thread for thread in threading.enumerate() if thread.name == "checkpoint")
    mine.join()
    with monkeypatch.context() as another:
        another.setattr(engine, "any_rank", lambda flag: True)
        checkpoints.settle(engine)
        assert names(tmp_path) == [".saving_step_00000001"]
    checkpoints.settle(engine)
    assert names(tmp_path) == ["step_00000001"]


def test_a_disk_that_is_full_for_a_while_does_not_end_a_run(
    tmp_path: Path, engine: Engine, loader: TinyLoader, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path, 1, 2, "abc")
    checkpoints.save(engine, loader, 1)
    for step in (2, 3):
        with files_at_most(500):
            checkpoints.begin(engine, loader, step)
            checkpoints.settle(engine, wait=True)
        assert f"step_{step:08d}: the checkpoint could not be written" in caplog.text
        assert names(tmp_path) == ["step_00000001"]
    checkpoints.begin(engine, loader, 4)
    checkpoints.settle(engine, wait=True)
    assert names(tmp_path) == ["step_00000001", "step_00000004"]
    for step in (5, 6):  # not the third in a row
        with files_at_most(500):
            checkpoints.begin(engine, loader, step)
            checkpoints.settle(engine, wait=True)
    assert names(tmp_path) == ["step_00000001", "step_00000004"]


def test_a_store_that_fails_for_a_while_costs_the_checkpoints_of_that_while(
    tmp_path: Path,
    engine: Engine,
    loader: TinyLoader,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As a network's: stale handles, first in writing, then in renaming."""
    checkpoints = Checkpoints(tmp_path, 1, 9, "abc")
    checkpoints.save(engine, loader, 1)

    def stale(*_: object) -> Path:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), "store")

    for step, place, name in ((2, Snapshot, "write"), (3, Path, "rename")):
        with monkeypatch.context() as away:
            away.setattr(place, name, stale)
            checkpoints.begin(engine, loader, step)
            checkpoints.settle(engine, wait=True)
        assert f"step_{step:08d}: the checkpoint could not be written (Stale" in caplog.text
    checkpoints.begin(engine, loader, 4)
    checkpoints.settle(engine, wait=True)
    assert names(tmp_path) == ["step_00000001", "step_00000004"]
    engine.updates = 0
    assert Checkpoints(tmp_path, 1, 9, "abc").resume(engine, loader) == 4


def test_a_disk_that_stays_full_ends_the_run(
    tmp_path: Path, engine: Engine, loader: TinyLoader
) -> None:
    checkpoints = Checkpoints(tmp_path, 1, 2, "abc")
    checkpoints.save(engine, loader, 1)
    with files_at_most(500), pytest.raises(OSError, match=r"make room .* 3rd checkpoint in a row"):
        for step in (2, 3, 4):
            checkpoints.begin(engine, loader, step)
            checkpoints.settle(engine, wait=True)
    assert names(tmp_path) == ["step_00000001"]


def test_going_back_takes_the_newest_early_enough_or_the_oldest(
    tmp_path: Path, engine: Engine, loader: TinyLoader
) -> None:
    checkpoints = Checkpoints(tmp_path, 1, 3, "abc")
    assert checkpoints.go_back(engine, 3) is None
    for step in (2, 4, 6):
        engine.updates = step
        checkpoints.save(engine, loader, step)
    assert checkpoints.go_back(engine, 9) == 6
    assert checkpoints.go_back(engine, 5) == 4 and engine.updates == 4
    assert checkpoints.go_back(engine, 4) == 4
    assert names(tmp_path) == ["step_00000002", "step_00000004"], "no restart goes on from 6"
    flip_a_byte(tmp_path / "step_00000004" / "state-00000.safetensors")
    assert checkpoints.go_back(engine, 5) == 2
    for step in (4, 6):
        checkpoints.save(engine, loader, step)
    assert checkpoints.go_back(engine, 1) == 2, "the oldest"


def test_names_of_more_digits_come_after_those_of_fewer(
    tmp_path: Path, engine: Engine, loader: TinyLoader
) -> None:
    checkpoints = Checkpoints(tmp_path, 1, 1, "abc")
    for step in (99_999_999, 100_000_000):
        checkpoints.save(engine, loader, step)
    assert names(tmp_path) == ["step_100000000"]
    assert checkpoints.resume(engine, loader) == 100_000_000


def test_a_store_that_fails_while_a_run_resumes_is_one_sentence(
    tmp_path: Path, engine: Engine, loader: TinyLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told to all ranks, or they would wait for the main one's choice."""
    checkpoints = Checkpoints(tmp_path, 1, 1, "abc")
    flip_a_byte(checkpoints.save(engine, loader, 1) / "state-00000.safetensors")

    def stale(*_: object) -> Path:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), "store")

    monkeypatch.setattr(Path, "rename", stale)
    with pytest.raises(ValueError, match="Stale file handle: 'store'"):
        checkpoints.resume(engine, loader)


def test_impossible_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="every 1 step or more"):
        Checkpoints(tmp_path, 0, 1, "abc")
    with pytest.raises(ValueError, match="at least 1 checkpoint"):
        Checkpoints(tmp_path, 1, 0, "abc")
