"""Local copies of what lies on a store: whole or not there, shared, within a budget."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from hpse_dist.data import stage as staging
from hpse_dist.data.augment import AugmentConfig
from hpse_dist.data.budget import check_budget, evaluation_room, training_room
from hpse_dist.data.collection import Collection
from hpse_dist.data.decode import Decoder
from hpse_dist.data.items import read_items
from hpse_dist.data.loader import Loader, Source, evaluation_batches
from hpse_dist.data.remote import RemoteCollection, open_collection
from hpse_dist.data.stage import NoRoom, Stage, url_of
from hpse_dist.fields import Batch
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


def test_room_is_made_where_a_lock_wants_a_file_open_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS: an exclusive lock one that can be written to, a shared one that can be read."""
    lock = fcntl.flock

    def strict(handle: Any, kind: int) -> None:
        mode = fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE
        if mode == (os.O_WRONLY if kind & fcntl.LOCK_SH else os.O_RDONLY):
            raise OSError(errno.EBADF, "Bad file descriptor")
        lock(handle, kind)

    monkeypatch.setattr(fcntl, "flock", strict)
    files = stored(tmp_path / "store", *(bytes([n]) * 100 for n in range(2)))
    stage = Stage(tmp_path / "stage", 150)
    for file in files:
        stage.hold(*file).close()
    assert there(stage) == {files[1][2]}


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


def loader(*collections: Collection) -> Loader:
    return Loader(
        [Source(collection, split=None) for collection in collections],
        seed=0,
        global_batch=12,
        micro_batch=12,
        augment=AugmentConfig(),
        window=1,
        threads=2,
        **READ,
    )


READ: dict[str, Any] = {
    "needs": ["image", "sample_id"],
    "sampling": "frames",
    "world": World(),
    "image_px": 64,
    "patch_px": 64,
}


def ids(batches: Iterator[Batch], count: int) -> list[list[int]]:
    return [batch["sample_id"].tolist() for batch in itertools.islice(batches, count)]


def evaluated(collection: Collection) -> list[list[int]]:
    source = Source(collection, split=None)
    return ids(evaluation_batches(source, micro_batch=12, limit=24, **READ), 100)


def copied(stage: Stage, held: bool = False) -> int:
    """Bytes of the copies there are, or of those that somebody holds.

    Counted while no room is made: a loader reads ahead, and a copy that was listed may be gone.
    """
    with staging._locked(stage.folder / "room.lock"):
        copies = [path for path in stage.folder.iterdir() if len(path.name) == 64]
        return sum(path.stat().st_size for path in copies if not (held and staging._unused(path)))


def in_use(stage: Stage) -> int:
    return copied(stage, held=True)


def put(local: Collection, name: str) -> str:
    """A collection on a store, as a URL."""
    fsspec.filesystem("memory").put(f"{local.folder}/", f"/bucket/{name}/", recursive=True)
    return f"memory://bucket/{name}"


def test_a_collection_on_a_store_is_read_as_one_beside_us(tmp_path: Path) -> None:
    """Over memory:// and with room for as few shards as are allowed: the same batches, to train on
    and to evaluate with meanwhile, the budget kept; a loader that is closed holds nothing."""
    locals_ = [made_collection(), made_collection("raw", with_labels=False)]
    urls = [put(local, f"made{number}") for number, local in enumerate(locals_)]
    with pytest.raises(ValueError, match=r"read together \(up to 2 .* of 1 .* ([\d.]+) GB") as said:
        loader(*(open_collection(url, Stage(tmp_path / "stage", 6 * 10**6)) for url in urls))
    needed = re.search(r"([\d.]+) GB in all", str(said.value))
    assert needed is not None
    stage = Stage(tmp_path / "stage", int(float(needed[1]) * 1e9))
    remotes = [open_collection(url, stage) for url in urls]
    local, remote = locals_[0], remotes[0]
    assert isinstance(remote, RemoteCollection)
    assert stage.budget_bytes < sum(one.copied_bytes for one in remotes) - 2 * 2**22
    assert remote.name == "made0" and remote.num_frames == local.num_frames
    assert remote.frames.equals(local.frames) and remote.pairs.equals(local.pairs)
    np.testing.assert_array_equal(
        remote.read([3, 50], ["image"])["image"], local.read([3, 50], ["image"])["image"]
    )
    near, far = loader(*locals_), loader(*remotes)
    stream, same = iter(far), iter(near)
    assert ids(stream, 6) == ids(same, 6)
    assert evaluated(remote) == evaluated(local)
    assert ids(stream, 2) == ids(same, 2)
    assert copied(stage) <= stage.budget_bytes
    room = training_room([Source(one) for one in remotes], 1, 2)
    assert 0 < in_use(stage) <= room
    far.close()
    assert in_use(stage) == 0
    near.close()
    for change in (remote.verify, lambda: remote.update_file("pairs.parquet", lambda path: None)):
        with pytest.raises(ValueError, match="where its disk is"):
            change()


def test_decoders_of_one_machine_leave_one_another_room(tmp_path: Path) -> None:
    """Two with room for two shards each, in a budget of four, over five shards in any order."""
    local = made_collection()
    size = max(path.stat().st_size for path in local.shards)
    stage = Stage(tmp_path / "stage", 4 * size)
    source = Source(open_collection(put(local, "made"), stage), split=None)
    items = read_items(source, "frames")
    decoders = [Decoder([items], [], room=2 * size) for _ in range(2)]
    for turn in range(10):
        for decoder, shard in zip(decoders, (turn % 5, turn * 3 % 5), strict=True):
            decoder._shard(0, shard)
            assert len(decoder._copies) <= 2
    assert in_use(stage) <= 4 * size
    for decoder in decoders:
        decoder.release()
    assert in_use(stage) == 0


def test_the_budget_counts_all_that_decode_on_a_machine(tmp_path: Path) -> None:
    files = {f"{k}.beton": {"bytes": 10**9} for k in range(100)}
    manifest = {"shards": [*files], "files": files | {"frames.parquet": {"bytes": 10**6}}}

    def of(gb: float) -> list[Source]:
        stage = Stage(tmp_path, int(gb * 1e9))
        return [Source(RemoteCollection("memory://b/c", manifest, stage))]

    # a window that begins and ends within shards, one that is staged ahead, two to evaluate with
    for world, decoders, gb in (
        (World(), 1, 9 + 1 + 3.34),  # a quarter of it all is for evaluation
        (World(0, 4, 0, 2), 1, 2 * (9 + 1) + 6.67),
        (World(0, 4, 0, 2), 3, 3 * 9 + 2 + 9.67),  # six, in three windows at once
        (World(0, 30, 0, 30), 3, 100.1),  # they share copies: never more than all there is
    ):
        with pytest.raises(ValueError, match=r"up to 9 of a collection .* in all\); raise") as said:
            check_budget(of(gb - 0.2), 8, world, decoders=decoders)
        told = re.search(r"([\d.]+) GB in all", str(said.value))
        assert told is not None and gb - 0.2 < float(told[1]) < gb + 1
        check_budget(of(float(told[1])), 8, world, decoders=decoders)
    check_budget([Source(made_collection())], 8, World())
    assert training_room(of(50), 8, 20) == 20 * 10**9  # each thread opens a shard of its own
    collection = of(50)[0].collection
    assert evaluation_room(collection, World(0, 2, 0, 2)) == 6.25e9
    assert evaluation_room(collection, World(0, 8, 0, 8)) == 2e9


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
