"""Local copies of what lies on a store: whole or not there, shared, within a budget."""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest

from hpse_dist.data import stage as staging
from hpse_dist.data.ahead import check_budget
from hpse_dist.data.augment import AugmentConfig
from hpse_dist.data.loader import Loader, Source
from hpse_dist.data.remote import open_collection
from hpse_dist.data.stage import NoRoom, Stage, url_of
from hpse_dist.recipe import located
from hpse_dist.world import World
from tests.data.made_collection import made_collection
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).parents[2]


def stored(folder: Path, *contents: bytes) -> list[tuple[str, int, str]]:
    """Files on a store: (url, size, sha256) of each."""
    folder.mkdir(exist_ok=True)
    found = []
    for number, content in enumerate(contents):
        (folder / f"{number}").write_bytes(content)
        found.append(
            (f"file://{folder}/{number}", len(content), hashlib.sha256(content).hexdigest())
        )
    return found


def there(stage: Stage) -> set[str]:
    return {path.name for path in stage.folder.iterdir() if path.suffix not in (".lock",)}


def test_a_path_of_a_recipe_that_is_a_url() -> None:
    for text in ("s3://bucket/demo", "memory://demo", "file:///data/demo"):
        assert url_of(text) == text == url_of(Path(text)) == url_of(located(text))
    assert url_of("collections/demo") is None and url_of("/data/s3/demo") is None


def test_the_longest_unused_goes_and_what_is_held_stays(tmp_path: Path) -> None:
    files = stored(tmp_path / "store", *(bytes([n]) * 100 for n in range(4)))
    stage = Stage(tmp_path / "stage", 250)
    names = [sha for _, _, sha in files]
    for file in (files[0], files[1], files[0]):
        copy = stage.hold(*file)
        assert copy.path.read_bytes() == bytes([names.index(file[2])]) * 100
        copy.close()
        time.sleep(0.05)  # file systems tell times apart that differ by some milliseconds
    stage.hold(*files[2]).close()
    assert there(stage) == {names[0], names[2]}
    held = [stage.hold(*files[0]), stage.hold(*files[2])]
    with pytest.raises(NoRoom, match=r"budget of 2.5e-07 GB .* raise machine.stage_gb above 3e-07"):
        stage.hold(*files[3])
    assert there(stage) == {names[0], names[2]}
    held[1].close()
    stage.hold(*files[3]).close()
    assert there(stage) == {names[0], names[3]}
    held[0].close()


def test_bad_places_are_one_sentence(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "stage", 1000)
    (url, size, sha), *_ = stored(tmp_path / "store", b"a" * 100)
    for place, told in (
        (f"file://{tmp_path}/none", "no such file; name the folder of a collection"),
        ("nowhere://x/y", "Protocol not known: nowhere"),
    ):
        with pytest.raises(ValueError, match=told):
            stage.hold(place, size, sha)
        with pytest.raises(ValueError, match=told):
            open_collection(place, stage)
    with pytest.raises(ValueError, match=r"another sha256 .* 2 times over"):
        stage.hold(url, size, "0" * 64)
    with pytest.raises(ValueError, match="more than the whole budget"):
        stage.hold(url, 1001, sha)
    with pytest.raises(ValueError, match="sha256 is none"):
        stage.hold(url, size, "../../etc/passwd")
    assert there(stage) == set()


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, *_ = stored(tmp_path / "store", b"a" * 100)
    stage = Stage(tmp_path / "stage", 1000)

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(staging, "_copy", full)
    with pytest.raises(OSError, match=r"full before the budget .* lower machine.stage_gb or name"):
        stage.hold(*file)
    assert there(stage) == set()


def test_a_copy_that_was_cut_off_is_swept_and_a_changed_one_made_anew(tmp_path: Path) -> None:
    """Killed in the middle of a copy: its room is free again, its name never stood for a part."""
    (url, size, sha), *_ = stored(tmp_path / "store", b"a" * 100)
    stage = Stage(tmp_path / "stage", 150)
    script = (
        "import os, signal, sys; from pathlib import Path; from hpse_dist.data import stage\n"
        "def dies(url, file, size): file.write(b'a' * 50); file.flush(); os.kill(os.getpid(), 9)\n"
        "stage._copy = dies\n"
        "stage.Stage(Path(sys.argv[1]), 150).hold(sys.argv[2], 100, sys.argv[3])"
    )
    command = [sys.executable, "-c", script, str(stage.folder), url, sha]
    assert subprocess.run(command, cwd=ROOT).returncode == -signal.SIGKILL
    assert len(there(stage)) == 1 and sha not in there(stage)
    stage.hold(url, size, sha).close()
    assert there(stage) == {sha}
    (stage.folder / sha).write_bytes(b"short")
    copy = stage.hold(url, size, sha)
    assert copy.path.stat().st_size == 100
    copy.close()


def test_two_processes_copy_once(tmp_path: Path) -> None:
    (url, _, sha), *_ = stored(tmp_path / "store", b"a" * 100)
    script = (
        "import sys, time; from pathlib import Path; from hpse_dist.data import stage\n"
        "real = stage._copy\n"
        "def slow(*given): print('copied'); time.sleep(0.5); return real(*given)\n"
        "stage._copy = slow\n"
        "stage.Stage(Path(sys.argv[1]), 1000).hold(sys.argv[2], 100, sys.argv[3])"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "stage"), url, sha]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(2)]
    printed = [process.communicate(timeout=PATIENCE_S)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert b"".join(printed) == b"copied\n"


def loader(collection, seed: int = 0) -> Loader:
    return Loader(
        [Source(collection, split=None)],
        needs=["image", "sample_id", "joints2d"],
        sampling="frames",
        world=World(),
        seed=seed,
        global_batch=12,
        micro_batch=12,
        augment=AugmentConfig(),
        image_px=64,
        patch_px=64,
        window=2,
    )


def ids(collection, batches: int = 10) -> list[list[int]]:
    reader = loader(collection)
    stream = iter(reader)
    found = [next(stream)["sample_id"].tolist() for _ in range(batches)]
    reader.close()
    return found


def test_a_collection_on_a_store_is_read_as_one_beside_us(tmp_path: Path) -> None:
    """Over memory:// and with room for few shards: the same batches, the budget kept."""
    local = made_collection()
    store = fsspec.filesystem("memory")
    store.put(str(local.folder) + "/", "/bucket/made/", recursive=True)
    sizes = sorted(path.stat().st_size for path in local.shards)
    tables = sum(local.manifest["files"][f"{n}.parquet"]["bytes"] for n in ("frames", "pairs"))
    stage = Stage(tmp_path / "stage", sum(sizes[-2:]) + max(tables, 100_000))
    remote = open_collection("memory://bucket/made", stage)
    assert remote.name == "made" and remote.num_frames == local.num_frames
    assert remote.frames.equals(local.frames) and remote.pairs.equals(local.pairs)
    np.testing.assert_array_equal(
        remote.read([3, 50], ["image"])["image"], local.read([3, 50], ["image"])["image"]
    )
    assert ids(remote) == ids(local)
    held = [path for path in stage.folder.iterdir() if len(path.name) == 64]
    assert sum(path.stat().st_size for path in held) <= stage.budget_bytes
    assert len(held) < len(local.shards) + 2
    with pytest.raises(ValueError, match=r"less than the shards that are read together \(up to 8"):
        check_budget([Source(open_collection("memory://bucket/made", Stage(tmp_path, 9)))], 8)
    for change in (remote.verify, lambda: remote.update_file("pairs.parquet", lambda path: None)):
        with pytest.raises(ValueError, match="where its disk is"):
            change()


def test_a_held_copy_is_locked_and_no_longer_when_closed(tmp_path: Path) -> None:
    file, *_ = stored(tmp_path / "store", b"a" * 100)
    copy = Stage(tmp_path / "stage", 1000).hold(*file)
    handle = os.open(copy.path, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    copy.close()
    copy.close()
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(handle)
