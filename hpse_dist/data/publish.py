"""A folder that is there whole or not at all: written beside its place, then renamed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpse_dist.data.manifest import checked_shape, sealed_text
from hpse_dist.disk import sync, whole_file
from hpse_dist.safety import parsed_json

_BLOCKS, _BLOCK_BYTES = 16, 4096
STAGED_MANIFEST = ".manifest.json.part"


@contextlib.contextmanager
def partial_folder(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder` to write into, held by one process; gone after an error.

    ValueError where another process holds it, OSError with one clear sentence on a full disk.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    held = _hold(partial, folder)
    try:
        yield partial
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) and "No space left" not in str(error):
            raise
        raise OSError(
            errno.ENOSPC,
            "the disk is full; nothing was published and what was written is removed: free space, "
            "or name another folder",
            str(folder),
        ) from error
    finally:
        if _is_at(held, partial):  # not published
            shutil.rmtree(partial, ignore_errors=True)
        os.close(held)


@contextlib.contextmanager
def locked(place: Path, folder: Path) -> Iterator[None]:
    """Hold the folder `place`, made if need be, for one process that prepares `folder`.

    ValueError where another process holds it. The lock also ends with the process, however that
    ends.
    """
    handle = _lock(place, folder)
    try:
        yield
    finally:
        os.close(handle)


def _hold(partial: Path, folder: Path) -> int:
    """Make, lock and empty `partial` of what a killed run left; `os.close` ends the lock."""
    handle = _lock(partial, folder)
    for path in partial.iterdir():
        path.unlink()
    return handle


def _lock(place: Path, folder: Path) -> int:
    place.mkdir(parents=True, exist_ok=True)
    handle = os.open(place, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_at(handle, place):  # published or removed since it was opened
            raise BlockingIOError
    except BlockingIOError:
        os.close(handle)
        raise ValueError(f"{folder}: another process is preparing it now") from None
    return handle


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open folder is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def publish(partial: Path, folder: Path) -> None:
    """Make every file durable, then rename the folder into its place; what was there goes."""
    for path in [*partial.iterdir(), partial]:
        sync(path)
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.rename(folder, old)
    os.rename(partial, folder)
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def file_entry(path: Path) -> dict[str, Any]:
    """A file's size, sha256 and sampled hash, as a manifest holds them."""
    with open(path, "rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": checksum, "sampled": _sampled(path)}


def _sampled(path: Path) -> str:
    """sha256 of blocks spread evenly over a file: milliseconds, however large it is."""
    size, found = path.stat().st_size, hashlib.sha256()
    with open(path, "rb") as file:
        for number in range(_BLOCKS):
            file.seek(max(0, size - _BLOCK_BYTES) * number // (_BLOCKS - 1))
            found.update(file.read(_BLOCK_BYTES))
    return found.hexdigest()


def check_sampled(path: Path, entry: dict[str, Any]) -> None:
    """ValueError where a file is not the one of a manifest's entry, as far as samples show."""
    if path.stat().st_size != entry["bytes"] or entry.get("sampled") not in (None, _sampled(path)):
        raise ValueError(
            f"{path}: changed since it was written; check the collection with prepare --verify, "
            "and prepare it again"
        )


def read_manifest(path: Path, newest: int) -> dict[str, Any]:
    """A manifest of a schema up to `newest`; ValueError where there is none."""
    try:
        manifest = parsed_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{path.parent}: no collection here (no manifest.json); prepare it"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None
    return check_manifest(manifest, path, newest)


def check_manifest(manifest: Any, where: Path | str, newest: int) -> dict[str, Any]:
    """A manifest that was read; ValueError where it is none, or of a schema above `newest`."""
    try:
        version = int(manifest["schema"])
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"{where}: cannot be read: {error!r}") from None
    if version > newest:
        raise ValueError(
            f"{where}: written with schema {version}, this program reads up to {newest}; "
            "update the program"
        )
    try:
        return dict(checked_shape(manifest))
    except ValueError as error:
        raise ValueError(f"{where}: {error}; prepare the collection again") from None


def stage_manifest(folder: Path, manifest: dict[str, Any]) -> Path:
    """Write what is to become a folder's manifest.json beside it; renaming it is left to do."""
    part = folder / STAGED_MANIFEST
    _write(part, sealed_text(manifest))
    return part


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Replace a folder's manifest.json by a rename."""
    os.replace(stage_manifest(folder, manifest), folder / "manifest.json")


@contextlib.contextmanager
def held_folder(folder: Path) -> Iterator[None]:
    """One process at a time: others wait."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write_json(path: Path, content: Any) -> None:
    """Write or replace a small file, durably and by a rename."""
    with whole_file(path) as draft:
        _write(draft, json.dumps(content, indent=1, default=str) + "\n")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    sync(path)
