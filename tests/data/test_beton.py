from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from hpse_dist.data import beton, yardsticks
from hpse_dist.data.rows import check_rows
from tests.data.made_collection import picture
from tests.waiting import lives, until

ROOT = Path(__file__).parents[2]

LABELS = {
    "joints3d": ((4, 4), "float32"),
    "part_map": ((6, 6), "uint8"),
    "a_name_beyond_16_letters": ((2, 3), "float16"),
    "a_name_beyond_16_numbers": ((2,), "int16"),
    "label": ((), "int64"),
    "height": ((), "float64"),
}


def spec(mode: str = "raw", px: int = 32) -> beton.ShardSpec:
    return beton.ShardSpec(px, mode, 95, LABELS)


def rows(count: int, px: int = 32) -> list[dict[str, np.ndarray]]:
    made = []
    for i in range(count):
        rng = np.random.default_rng(i)
        made.append(
            {
                "image": picture(rng, px),
                "sample_id": np.int64(1000 + i),
                "joints3d": rng.normal(size=(4, 4)).astype(np.float32),
                "part_map": rng.integers(0, 9, (6, 6), dtype=np.uint8),
                "a_name_beyond_16_letters": np.full((2, 3), i, np.float16),
                "a_name_beyond_16_numbers": np.array([i, -i], np.int16),
                "label": np.int64(-i),
                "height": np.float64(i / 7),
            }
        )
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """raw.beton and jpg.beton of 40 rows, written by one child."""
    path = tmp_path_factory.mktemp("shards")
    with beton.BetonWriter() as writer:
        for mode in ("raw", "jpg"):
            writer.write(path / f"{mode}.beton", rows(40), spec(mode))
    yield path


def test_everything_comes_back(folder: Path) -> None:
    sent, index = rows(40), [39, 0, 7, 7]
    for mode in ("raw", "jpg"):
        back = beton.read_rows(folder / f"{mode}.beton", index, ["image", "sample_id", *LABELS])
        for i, n in enumerate(index):
            for name, value in back.items():
                if name == "image" and mode == "jpg":
                    assert np.abs(value[i].astype(int) - sent[n]["image"]).mean() < 4
                else:
                    assert np.array_equal(value[i], sent[n][name]), name
    assert sorted(path.name for path in folder.iterdir()) == ["jpg.beton", "raw.beton"]


def test_rows_land_where_they_are_wanted(folder: Path) -> None:
    shard = beton.Shard(folder / "jpg.beton")
    whole = shard.read_many(["image"], np.arange(40))["image"]
    out = np.zeros((6, 32, 32, 3), np.uint8)
    shard.read("image", np.array([3, 8, 3]), out, np.array([5, 0, 2]))
    assert np.array_equal(out[[5, 0, 2]], whole[[3, 8, 3]])
    assert not out[[1, 3, 4]].any()
    with pytest.raises(ValueError, match="row 40 of 40"):
        shard.read("image", np.array([40]), out, np.array([0]))


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_equal_to_the_bare_ffcv_loop_and_threads_are_left_alone(
    folder: Path, two_threads: None
) -> None:
    loop = yardsticks.ffcv_batches(folder / "jpg.beton", 10)
    for start in (0, 10, 20, 30, 0):  # the fifth begins the next pass
        ours = beton.read_rows(folder / "jpg.beton", range(start, start + 10), ["image"])["image"]
        assert np.array_equal(next(loop), ours)
    loop.close()
    assert torch.get_num_threads() == 2
    assert not [thread for thread in threading.enumerate() if "Epoch" in type(thread).__name__]


def test_libjpeg_turbo_alone_gives_the_same_pixels(folder: Path) -> None:
    rows = range(5, 12)
    out = np.zeros((7, 32, 32, 3), np.uint8)
    yardsticks.decode_alone(beton.read_encoded(folder / "jpg.beton", rows), out)
    assert np.array_equal(out, beton.read_rows(folder / "jpg.beton", rows, ["image"])["image"])


def test_damaged_files_are_named(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "jpg.beton").read_bytes()
    path = tmp_path / "bad.beton"
    for content in (b"", b"PK\3\4" * 1000, whole[:-1], whole[: len(whole) // 2], whole[:3000]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.beton"):
            beton.Shard(path)
    with pytest.raises(ValueError, match="no such shard"):
        beton.Shard(tmp_path / "absent.beton")
    start = beton.Shard(folder / "jpg.beton")._ranges["image"][0][11]
    path.write_bytes(whole[: start + 200] + bytes(40) + whole[start + 240 :])
    assert len(beton.read_rows(path, range(11), ["image"])["image"]) == 11
    with pytest.raises(ValueError, match=r"bad\.beton: row 11: the picture is damaged"):
        beton.read_rows(path, range(40), ["image"])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("image", np.zeros((32, 31, 3), np.uint8), "row 1: image is uint8"),
        ("joints3d", np.zeros((4, 4), np.float64), "row 1: joints3d is float64"),
        ("label", None, "differ from the spec in label"),
    ],
)
def test_rows_that_do_not_fit(name: str, value: np.ndarray | None, message: str) -> None:
    bad = rows(2)
    if value is None:
        del bad[1][name]
    else:
        bad[1][name] = value
    with pytest.raises(ValueError, match=message):
        check_rows(Path("x.beton"), bad, spec())


def test_specs_that_cannot_be() -> None:
    for wrong in ({"crop_px": 2}, {"jpeg_quality": 0}, {"labels": {"image": ((), "u1")}}):
        with pytest.raises(ValueError, match="must"):
            beton.ShardSpec(**{"crop_px": 32, **wrong})


def workers_of(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def kill_workers(child: int, known: set[int], over: threading.Event) -> None:
    """SIGKILL to the first workers that a process starts."""
    while not over.is_set():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # they have just gone
            if workers := set(workers_of(child)) - known:
                for pid in workers:
                    os.kill(pid, signal.SIGKILL)
                return
        time.sleep(0.001)


def test_a_killed_ffcv_worker_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    path, made = tmp_path / "shard.beton", rows(4000)
    with beton.BetonWriter() as writer:
        writer.write(tmp_path / "warm.beton", rows(1), spec())  # the child is up
        child = writer._child._process.pid
        for _ in range(20):  # the killer may be too slow
            over = threading.Event()
            asked = (child, set(workers_of(child)), over)
            killer = threading.Thread(target=kill_workers, args=asked, daemon=True)
            killer.start()
            try:
                writer.write(path, made, spec())
            except OSError as error:
                said = error
                break
            finally:
                over.set()
                killer.join()
            path.unlink()
        else:
            pytest.fail("no worker was ever caught")
    assert re.search("died.*killed", str(said)) and said.filename == str(path)
    assert [path.name for path in tmp_path.iterdir()] == ["warm.beton"]


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    mounted = shutil.which("mount") and os.geteuid() == 0
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(tmp_path)]
    if not mounted or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small tmpfs cannot be mounted here")
    try:
        with pytest.raises(OSError, match="No space left") as caught:
            beton.write_shard(tmp_path / "shard.beton", rows(2000), spec())
        assert caught.value.filename == str(tmp_path / "shard.beton")
        assert not list(tmp_path.iterdir())
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


WRITER_THAT_IS_KILLED = """
import os, signal, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from pathlib import Path
from hpse_dist.data import beton
from tests.data.test_beton import rows, spec
writer = beton.BetonWriter()
writer.write(Path(sys.argv[1]), rows(4), spec("jpg"))
print(writer._child._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_on_one_core_too_a_writer_ends_with_its_parent(tmp_path: Path) -> None:
    """Where it has forked, TBB's part of numba never comes back from the interpreter's own end."""
    command = [sys.executable, "-c", WRITER_THAT_IS_KILLED, str(tmp_path / "a.beton")]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert parent.stdout
    child = int(parent.stdout.readline())
    parent.communicate()
    assert parent.returncode == -signal.SIGKILL
    try:
        until(lambda: not lives(child), "the child ends with its parent")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
