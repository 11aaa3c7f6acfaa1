"""Files on disks that may be full, or away for a while."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def sync(path: Path) -> None:
    """Make a file, or a folder's list of names, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write what becomes the file when the block ends: a reader sees all of it or what was
    there before, which a block that fails leaves as it is. Two writers do not meet. Who may read
    it is what the user's umask says, whatever writes it: safetensors' own are for their owner."""
    draft = path.with_name(f".{path.name[:50]}.{uuid.uuid4().hex[:8]}.partial")
    try:
        draft.touch()
        mode = draft.stat().st_mode
        yield draft
        if draft.stat().st_mode != mode:
            draft.chmod(mode)
        draft.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a write that fails names no file
        raise
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file that a reader sees whole or not at all."""
    with whole_file(path) as draft:
        draft.write_text(text, encoding="utf-8")


def disk_error(sentence: str) -> OSError:
    """The error that a sentence tells of; where it quotes a full disk's, with its number: that is
    no error to try again after. Libraries and other ranks hand on the words alone."""
    full = (number for number in (errno.ENOSPC, errno.EDQUOT) if os.strerror(number) in sentence)
    number = next(full, None)
    return OSError(sentence) if number is None else OSError(number, sentence)


def nobody_holds(path: Path) -> bool:
    """Whether a file that a process locks for its time is free; False where locks cannot be asked
    for, or there is no such file."""
    try:
        with path.open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


class GrowingFile:
    """A file that grows by whole pieces while a run goes on.

    What cannot be written waits in memory, in order, until the disk takes it; the file never ends
    in part of a piece. `tell` hears of it once, in a sentence. The file is opened for every
    writing, so that a store that was away is found again. Safe to use from several threads.
    """

    def __init__(self, path: Path, tell: Callable[[str], None] = log.warning) -> None:
        self.path = Path(path)
        self.trouble: str | None = None
        """Why something waits; None: nothing does."""
        self._tell = tell
        self._waiting: list[bytes] = []
        self._lock = threading.Lock()

    def write(self, piece: bytes) -> None:
        """Add a piece, which `flush` writes."""
        with self._lock:
            self._waiting.append(piece)

    def line(self, row: Mapping[str, Any]) -> None:
        """Add a line of JSON and write it."""
        self.write(json.dumps(row).encode() + b"\n")
        self.flush()

    def flush(self) -> None:
        """Write what waits, where that is possible."""
        with self._lock:
            if not self._waiting:
                return
            try:
                self._append(b"".join(self._waiting))
            except OSError as error:
                known, self.trouble = self.trouble, error.strerror or str(error)
            else:
                known, self.trouble = None, None
                self._waiting.clear()
        if self.trouble is not None and known is None:
            self._tell(
                f"{self.path} could not be written ({self.trouble}): what is to stand there waits "
                "in memory, and training goes on; make room"
            )

    def sync(self) -> None:
        """All of it is on the disk, or OSError."""
        self.flush()
        if self.trouble is not None:
            raise OSError(f"{self.path.name}: {self.trouble}")
        if self.path.exists():
            sync(self.path)

    def close(self) -> None:
        """A last try; what waits then is lost."""
        self.flush()

    def _append(self, data: bytes) -> None:
        """All of `data` or nothing."""
        with open(self.path, "ab", buffering=0) as file:
            start, rest = file.seek(0, os.SEEK_END), memoryview(data)
            try:
                while rest:
                    rest = rest[file.write(rest) or 0 :]
            except OSError:
                file.truncate(start)
                raise
