"""Local copies of files that lie on a shared or object store, within a budget of disk space.

A copy is named by its sha256 and stands under that name only when it is whole and has that sha256;
all processes of a machine share it. A copy that some process holds is not removed; of the others
the longest unused go when room is needed.

    <folder>/<sha256>               a copy; holding it is a shared lock on it
    <folder>/<sha256>.lock          held by whoever copies, so that one does and the others wait
    <folder>/.<sha256>.<pid>.part   being copied, with its full size reserved; without a lock on
                                    it, left by a process that was killed
    <folder>/room.lock              held while room is made
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import fsspec

from hpse_dist.safety import one_line

_CHUNK = 4 << 20
_TRIES = 2  # copies of one file before its checksum is called wrong
_COPY = re.compile(r"[0-9a-f]{64}")


class NoRoom(ValueError):
    """The budget is full of copies that are in use."""


def url_of(place: Path | str) -> str | None:
    """The URL that a recipe's path is, or None for a folder of this machine's own.

    A `Path` has made one slash of several: s3:/bucket/x is s3://bucket/x, file:/x is file:///x.
    """
    found = re.fullmatch(r"([a-z][a-z0-9+.-]+):/+(.*)", str(place))
    if found is None:
        return None
    scheme, rest = found.groups()
    return f"{scheme}:///{rest}" if scheme in ("file", "local") else f"{scheme}://{rest}"


@dataclass
class Copy:
    """A local copy that stays until it is closed; of a file that is local anyway, the file."""

    path: Path
    handle: int | None = None

    def close(self) -> None:
        """It may be removed from now on; calling this twice is fine."""
        if self.handle is not None:
            os.close(self.handle)
            self.handle = None


@dataclass(frozen=True)
class Stage:
    """The copies of one machine."""

    folder: Path
    budget_bytes: int

    def hold(self, url: str, size: int, sha256: str) -> Copy:
        """The local copy of a file, made now if need be; ValueError, OSError in one sentence.

        Waits while another process copies it. NoRoom where what is held leaves too little.
        """
        if not _COPY.fullmatch(sha256):
            raise ValueError(f"{url}: its manifest's sha256 is none: {sha256[:80]!r}")
        if size > self.budget_bytes:
            raise ValueError(
                f"{url} has {_gb(size)}, more than the whole budget of {_gb(self.budget_bytes)} "
                "for local copies; raise machine.stage_gb"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / sha256
        with _locked(self.folder / f"{sha256}.lock"):
            return self._held(path, size) or self._fetch(url, path, size, sha256)

    def _held(self, path: Path, size: int) -> Copy | None:
        """A copy that is there, held and marked as used just now."""
        with _locked(self.folder / "room.lock"):
            try:
                handle = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                return None
            if os.fstat(handle).st_size != size:  # not as it was left: somebody changed it
                os.close(handle)
                path.unlink(missing_ok=True)
                return None
            fcntl.flock(handle, fcntl.LOCK_SH)
            os.utime(path)
            return Copy(path, handle)

    def _fetch(self, url: str, path: Path, size: int, sha256: str) -> Copy:
        """Copy, give the copy its name when its sha256 is right, and hold it."""
        for _ in range(_TRIES):
            part = path.with_name(f".{path.name}.{os.getpid()}.part")
            with self._reserved(part, size) as file:
                found = _copy(url, file, size)
                if found == sha256:
                    os.replace(part, path)
                    with _locked(self.folder / "room.lock"):  # between two locks none removes it
                        fcntl.flock(file, fcntl.LOCK_SH)
                        os.utime(path)
                    return Copy(path, os.dup(file.fileno()))  # the lock is the duplicate's too
        raise ValueError(
            f"{url}: what was read has another sha256 than the collection's manifest says, "
            f"{_TRIES} times over; it is damaged there or was replaced: check the collection "
            "where it lies with python -m pipelines.prepare FOLDER --verify"
        )

    @contextlib.contextmanager
    def _reserved(self, part: Path, size: int) -> Iterator[IO[bytes]]:
        """An open file whose full size counts already; gone unless it was renamed."""
        try:
            with self._room(part, size) as file:
                yield file
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise OSError(
                errno.ENOSPC,
                f"the disk is full before the budget of {_gb(self.budget_bytes)} for local copies "
                "is: free space, lower machine.stage_gb or name another machine.stage_folder",
                str(self.folder),
            ) from error
        finally:
            part.unlink(missing_ok=True)

    def _room(self, part: Path, size: int) -> IO[bytes]:
        """Remove the longest unused copies until `size` fits, and reserve it."""
        with _locked(self.folder / "room.lock"):
            used = 0
            copies = []
            for path in self.folder.iterdir():
                if path.suffix == ".part" and _unused(path):
                    path.unlink(missing_ok=True)  # of a killed process
                elif path.suffix == ".part" or _COPY.fullmatch(path.name):
                    with contextlib.suppress(FileNotFoundError):
                        state = path.stat()
                        used += state.st_size
                        copies += [(state.st_mtime, path, state.st_size)] * (path.suffix == "")
            for _, path, bytes_ in sorted(copies):
                if used + size <= self.budget_bytes:
                    break
                if _unused(path):
                    path.unlink(missing_ok=True)
                    used -= bytes_
            if used + size > self.budget_bytes:
                raise NoRoom(self._no_room(used + size))
            # "+": on NFS a shared lock, later, wants a file that is read as well
            file = open(part, "w+b")  # noqa: SIM115  closed by the caller
            fcntl.flock(file, fcntl.LOCK_EX)
            file.truncate(size)
            return file

    def _no_room(self, needed: int) -> str:
        return (
            f"{self.folder}: the shards in use leave no room for the next within the budget of "
            f"{_gb(self.budget_bytes)} for local copies; raise machine.stage_gb above "
            f"{needed / 1e9:.3g}"
        )


def read_small(url: str, limit: int = 256 << 20) -> bytes:
    """The whole of a small remote file, such as a manifest."""
    with _opened(url) as file:
        data: bytes = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{url}: over {_gb(limit)}, which no manifest has")
    return data


def _copy(url: str, file: IO[bytes], size: int) -> str:
    """Copy a remote file of `size` bytes into an open one; returns the sha256 of what was read."""
    checksum = hashlib.sha256()
    with _opened(url) as source:
        while (chunk := source.read(_CHUNK)) and file.tell() <= size:
            checksum.update(chunk)
            file.write(chunk)
    file.truncate()
    file.flush()
    os.fsync(file.fileno())
    return checksum.hexdigest()


@contextlib.contextmanager
def _opened(url: str) -> Iterator[Any]:
    """A remote file; what a user can have got wrong is a ValueError."""
    try:
        with fsspec.open(url, "rb") as file:
            yield file
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise ValueError(f"{url}: {reason}; name the folder of a collection") from None
    except ImportError as error:  # fsspec says which package reads that kind of store
        raise ValueError(f"{url}: {one_line(str(error))}") from None
    except ValueError as error:
        if "rotocol" not in str(error):
            raise
        raise ValueError(f"{url}: {error}; give a URL that fsspec knows, such as s3://") from None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process, and one thread of it, at a time."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _unused(path: Path) -> bool:
    """Whether no process holds a file."""
    try:
        # to be written to, though it is not: on NFS an exclusive lock wants that
        handle = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g} GB"
