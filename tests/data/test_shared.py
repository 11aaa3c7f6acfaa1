"""Memory without a name: shared with who is told where it is, and never left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hpse_dist.data.shared import Place, Shared, arrays_in, opened, size_of

WRITE = """
import mmap, os, sys
mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 0)[5] = 77
"""


def links() -> int:
    """How many of this process's descriptors are such memory."""
    found = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    return sum("hpse_test" in os.readlink(path) for path in found if path.is_symlink())


@pytest.mark.parametrize("reserve", [False, True])
def test_another_process_writes_into_it(reserve: bool) -> None:
    made = Shared("hpse_test", 10_000, reserve)
    assert made.array.shape == (10_000,) and not made.array.any()
    subprocess.run([sys.executable, "-c", WRITE, made.place.path], check=True)
    assert made.array[5] == 77 and opened(made.place)[5] == 77


def test_it_ends_with_who_holds_it() -> None:
    before = links()
    made = Shared("hpse_test", 100)
    array, place = made.array, made.place
    assert links() > before
    del made
    with pytest.raises(OSError):
        opened(place)
    array[:] = 3  # the memory lasts as long as anybody's array
    del array
    assert links() == before


def test_a_descriptor_that_is_another_file_by_now_is_not_written_into(tmp_path: Path) -> None:
    made = Shared("hpse_test", 100)
    path = made.place.path
    with open(tmp_path / "precious", "w+b") as file:
        precious = Place(f"/proc/self/fd/{file.fileno()}", made.place.device, made.place.inode)
        with pytest.raises(FileNotFoundError, match="another file"):
            opened(precious)
    assert path.startswith(f"/proc/{os.getpid()}/fd/")


def test_too_much_is_said_at_once() -> None:
    with pytest.raises(OSError) as raised:
        Shared("hpse_test", 1 << 60, reserve=True)
    assert "of memory to share" in str(raised.value)


def test_arrays_lie_apart_and_begin_on_cache_lines() -> None:
    layouts = {
        "flag": ((3,), np.dtype(np.bool_)),
        "image": ((2, 5), np.dtype(np.uint8)),
        "number": ((), np.dtype(np.float64)),
    }
    memory = np.zeros(size_of(layouts), np.uint8)
    arrays = arrays_in(memory, layouts)
    for number, (name, (shape, dtype)) in enumerate(layouts.items(), 1):
        assert arrays[name].shape == shape and arrays[name].dtype == dtype
        assert (arrays[name].ctypes.data - memory.ctypes.data) % 64 == 0
        arrays[name][...] = number
    for number, name in enumerate(layouts, 1):
        assert np.all(arrays[name] == bool(number) if name == "flag" else arrays[name] == number)
