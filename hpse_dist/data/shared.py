"""Memory without a name that processes of one machine share.

It is a file in memory alone (memfd), so it is gone with the last process that holds it, however
that ends, and no limit of /dev/shm applies. Others find it through /proc, which asks that they are
of the same user.
"""

from __future__ import annotations

import errno
import mmap
import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hpse_dist.data.prefetch import Layout
from hpse_dist.meter import free_memory

_ALIGN = 64  # a cache line


@dataclass(frozen=True)
class Place:
    """Where processes of this machine find an open file of another."""

    path: str
    device: int
    inode: int

    @classmethod
    def of(cls, file: int) -> Place:
        """A file that this process holds open."""
        status = os.fstat(file)
        return cls(f"/proc/{os.getpid()}/fd/{file}", status.st_dev, status.st_ino)

    def open(self, flags: int) -> int:
        """Its descriptor here. OSError where it is not to be found, or another file by now."""
        file = os.open(self.path, flags | os.O_CLOEXEC)
        status = os.fstat(file)
        if (status.st_dev, status.st_ino) != (self.device, self.inode):
            os.close(file)
            raise FileNotFoundError(f"{self.path} is another file than it was")
        return file


class Shared:
    """`size` bytes of memory, zeros at first, as `array` (size,) uint8.

    Its `place` lasts as long as this object, the memory as long as anybody's array of it. With
    `reserve`, OSError where there is no memory for it now: else that ends who writes it.
    """

    def __init__(self, name: str, size: int, reserve: bool = False) -> None:
        file = os.memfd_create(name)
        weakref.finalize(self, os.close, file)
        if reserve:  # asked first: the system takes what it has before it refuses
            if size > free_memory():
                what = f"{size / 1e6:.1f} MB of memory to share"
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), what)
            os.posix_fallocate(file, 0, size)
        else:
            os.truncate(file, size)
        self.array = _mapped(file)
        self.place = Place.of(file)


def opened(place: Place) -> np.ndarray:
    """The memory at `place`: (size,) uint8. OSError where it is not to be found."""
    file = place.open(os.O_RDWR)
    try:
        return _mapped(file)
    finally:
        os.close(file)


def _mapped(file: int) -> np.ndarray:
    return np.frombuffer(mmap.mmap(file, os.fstat(file).st_size), np.uint8)


def size_of(layouts: Mapping[str, Layout]) -> int:
    """Bytes that arrays of these layouts take, one after the other."""
    return sum(_room(layout) for layout in layouts.values())


def arrays_in(memory: np.ndarray, layouts: Mapping[str, Layout]) -> dict[str, np.ndarray]:
    """The arrays of these layouts, one after the other in `memory` (size_of(layouts),) uint8."""
    assert memory.shape == (size_of(layouts),)
    arrays, start = {}, 0
    for name, layout in layouts.items():
        shape, dtype = layout
        here = memory[start : start + _bytes(layout)]
        arrays[name] = here.view(dtype).reshape(shape)
        start += _room(layout)
    return arrays


def _bytes(layout: Layout) -> int:
    shape, dtype = layout
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize


def _room(layout: Layout) -> int:
    return -(-_bytes(layout) // _ALIGN) * _ALIGN
