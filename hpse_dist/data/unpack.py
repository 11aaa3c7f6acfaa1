"""Downloaded archives into a dataset's folder: each once, nothing outside, nothing beyond bounds.

Archives come from strangers. Names that lead out, links, devices, contents far larger than the
archive (zip bombs) and more than the disk may take are refused with a sentence; archives inside
archives are files like any other and are never opened. A zip's table is looked through before
anything is written, a tar while it is read. A file appears when it is whole, so an unpacking that
was stopped goes on with the files that are not there; a finished one leaves a mark and is not
repeated.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from hpse_dist.disk import write_text
from hpse_dist.safety import one_line, parsed_json

MARKS = ".unpacked"  # folder of marks, one for each finished archive
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MOST_RATIO = 200  # contents over archive; pictures have 1, annotation in JSON 5 to 30
_FREE_RATIO_BYTES = 1 << 20  # a single file up to this size may be packed as well as it likes
_MOST_FILES = 20_000_000
_MOST_HEADER_BYTES = 256 << 10  # of a tar's long names and attributes, which it holds in memory
_MOST_GLOBAL = 1000  # attributes that hold for all files of a tar
_CHUNK = 1 << 20
Progress = Callable[[int], object]


@dataclass(frozen=True)
class UnpackConfig:
    """Archives to unpack before frames are read."""

    archives: Path | None = None
    """The folder of the downloaded .zip, .tar, .tar.gz ... files, or one of them; null: none."""
    into: Path | None = None
    """Where they are unpacked; null: source.root."""
    budget_gb: float = 2000.0
    """Most that all of them may take on disk, GB."""
    keep_free_gb: float = 5.0
    """Space that stays free on the disk, GB."""

    def __post_init__(self) -> None:
        if not self.budget_gb > 0 or not self.keep_free_gb >= 0:
            raise ValueError(
                "budget_gb must be above 0 and keep_free_gb 0 or more, found "
                f"{self.budget_gb} and {self.keep_free_gb}"
            )


@dataclass(frozen=True)
class Entry:
    """A file in an archive."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


def find_archives(path: Path) -> list[Path]:
    """The archives in a folder, by name, or the one given; ValueError where there is none."""
    found = [path] if path.is_file() else sorted(path.iterdir()) if path.is_dir() else []
    found = [one for one in found if one.is_file() and one.name.lower().endswith(SUFFIXES)]
    if not found:
        raise ValueError(
            f"unpack.archives: {path} is no archive and no folder with any (known are "
            f"{', '.join(suffix[1:] for suffix in SUFFIXES)})"
        )
    return found


def unpack(config: UnpackConfig, into: Path, progress: Progress | None = None) -> list[Path]:
    """Unpack what was not unpacked before; returns those archives. `progress` counts bytes.

    ValueError names the archive and what is wrong with it; OSError where the disk is full. What was
    written before stays: given again, it goes on from there.
    """
    assert config.archives is not None
    archives = find_archives(config.archives)
    into.mkdir(parents=True, exist_ok=True)
    budget = round(config.budget_gb * 1e9)
    done = []
    for archive in archives:
        mark = into / MARKS / f"{archive.name}.json"
        about = {"bytes": archive.stat().st_size, "modified": archive.stat().st_mtime_ns}
        if (taken := _marked(mark, about)) is None:
            taken = _unpack_one(archive, into, budget, config.keep_free_gb * 1e9, progress)
            mark.parent.mkdir(exist_ok=True)
            write_text(mark, json.dumps({**about, "unpacked_bytes": taken}))
            done.append(archive)
        budget -= taken
    return done


def _marked(mark: Path, about: dict[str, int]) -> int | None:
    """Bytes that an archive took when it was unpacked before; None where it was not, or another."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        known = parsed_json(mark.read_text(encoding="utf-8"))
        if all(known[key] == value for key, value in about.items()):
            return int(known["unpacked_bytes"])
    return None


def _unpack_one(
    archive: Path, into: Path, budget: int, keep_free: float, progress: Progress | None
) -> int:
    """Unpack an archive; returns the size of its contents."""
    taken = 0
    most = archive.stat().st_size * MOST_RATIO + _FREE_RATIO_BYTES
    try:
        for number, entry in enumerate(_entries(archive)):
            place = _place(into, entry.name)
            taken += entry.size
            if taken > most:
                raise ValueError(f"its contents are over {MOST_RATIO} times as large as it is")
            if taken > budget:
                raise ValueError(
                    f"with it more than {budget / 1e9:.3g} GB are needed, the rest of "
                    "unpack.budget_gb; raise it"
                )
            if number >= _MOST_FILES:
                raise ValueError(f"it holds more than {_MOST_FILES} files")
            _write(entry, place, keep_free, progress)
    # what the readers of archives raise for broken ones
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError) as e:
        raise ValueError(f"{archive} is broken: {_words(e)}; get it again") from None
    except RuntimeError as error:  # zipfile's word for encryption
        raise ValueError(f"{archive} cannot be read: {_words(error)}") from None
    except ValueError as error:
        raise ValueError(f"{archive} is refused: {error}") from None
    return taken


def _words(error: BaseException) -> str:
    return one_line(str(error)) or type(error).__name__


def _entries(archive: Path) -> Iterator[Entry]:
    return _zipped(archive) if archive.name.lower().endswith(".zip") else _tarred(archive)


def _zipped(archive: Path) -> Iterator[Entry]:
    """Files of a zip, after its whole table was looked through."""
    with zipfile.ZipFile(archive) as file:
        table = file.infolist()
        if sum(one.compress_size for one in table) > archive.stat().st_size:
            raise ValueError("its entries lie over one another, as in a zip bomb")
        if sum(one.file_size for one in table) > archive.stat().st_size * MOST_RATIO + (
            _FREE_RATIO_BYTES
        ):
            raise ValueError(f"its contents are over {MOST_RATIO} times as large as it is")
        for one in table:
            kind = stat.S_IFMT(one.external_attr >> 16)
            _check_kind(one.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR))
            _check_name(one.filename)
            if one.flag_bits & 1:
                raise ValueError(f"{one.filename[:80]!r} is encrypted; unpack it by hand")
            if one.file_size > max(one.compress_size * MOST_RATIO, _FREE_RATIO_BYTES):
                raise ValueError(
                    f"{one.filename[:80]!r} is over {MOST_RATIO} times as large as it is packed"
                )
        for one in table:
            if not one.is_dir():
                yield Entry(one.filename, one.file_size, partial(file.open, one))


def _tarred(archive: Path) -> Iterator[Entry]:
    """Files of a tar, in the order they are in it."""
    with tarfile.open(archive, mode="r|*", tarinfo=_Bounded) as file:
        for one in file:
            _check_kind(one.name, one.isreg() or one.isdir())
            _check_name(one.name)
            if one.isreg():
                yield Entry(one.name, one.size, partial(_member, file, one))
            # of millions of files it would remember every one
            file.members = []  # type: ignore[attr-defined]


class _Bounded(tarfile.TarInfo):
    """An entry of a tar whose headers are refused before they fill the memory."""

    def _proc_member(self, file: tarfile.TarFile) -> tarfile.TarInfo:
        header = self.type in _HEADERS
        if header and self.size > _MOST_HEADER_BYTES:
            raise ValueError(
                f"a header in it has {self.size} bytes, more than the {_MOST_HEADER_BYTES} that "
                "names and attributes take"
            )
        if self.type == tarfile.GNUTYPE_SPARSE:
            self._refuse_sparse()
        if len(file.pax_headers) > _MOST_GLOBAL:
            raise ValueError(f"it holds more than {_MOST_GLOBAL} attributes of all its files")
        return super()._proc_member(file)  # type: ignore[misc]

    def _refuse_sparse(self, *_: object) -> None:
        raise ValueError("a file with holes (sparse) is in it; unpack it by hand")

    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse_sparse


_HEADERS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)


def _member(file: tarfile.TarFile, one: tarfile.TarInfo) -> IO[bytes]:
    opened = file.extractfile(one)
    assert opened is not None
    return opened


def _check_kind(name: str, plain: bool) -> None:
    if not plain:
        raise ValueError(f"{name[:80]!r} in it is a link or a device, not a file")


def _check_name(name: str) -> None:
    if name.rstrip("/") == ".":
        return  # the folder itself, as `tar -C folder .` has it
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or "\0" in name or not parts.parts:
        raise ValueError(f"{name[:80]!r} in it leads out of the folder")
    if ":" in parts.parts[0] or MARKS in parts.parts:
        raise ValueError(f"{name[:80]!r} in it is no name of a dataset's file")
    if any(len(part.encode("utf-8", "replace")) > 255 for part in parts.parts):
        raise ValueError(f"{name[:80]!r} in it is longer than a file's name can be")


def _place(into: Path, name: str) -> Path:
    """Where a file goes; ValueError where a link that is in the folder leads it elsewhere."""
    place = into / PurePosixPath(name.replace("\\", "/"))
    if not place.parent.resolve().is_relative_to(into.resolve()) or place.is_symlink():
        raise ValueError(f"{name[:80]!r} would be written through a link out of {into}")
    return place


def _is_there(entry: Entry, place: Path) -> bool:
    """Whether a file of the entry's size holds what the entry does: a corrected release may not."""
    with entry.open() as source, open(place, "rb") as there:
        while piece := source.read(_CHUNK):
            if there.read(len(piece)) != piece:
                return False
    return True


def _write(entry: Entry, place: Path, keep_free: float, progress: Progress | None) -> None:
    """A file under another name, then renamed; one that is there already stays."""
    if place.is_file() and place.stat().st_size == entry.size and _is_there(entry, place):
        if progress:
            progress(entry.size)
        return
    if place.exists():
        raise ValueError(
            f"{place} is there already and is not the archive's; move it away or unpack elsewhere"
        )
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"{place.parent} is a file, and the archive has it as a folder") from None
    free = shutil.disk_usage(place.parent).free
    if entry.size > free - keep_free:
        raise ValueError(
            f"the disk of {place.parent} has {free / 1e9:.3g} GB free, of which "
            f"{keep_free / 1e9:.3g} stay free (unpack.keep_free_gb); make room, then start it again"
        )
    part = place.with_name(f".{place.name[:200]}.part")
    try:
        with entry.open() as source, open(part, "wb") as target:
            left = entry.size
            while piece := source.read(min(_CHUNK, left + 1)):
                left -= len(piece)
                if left < 0:
                    raise ValueError(f"{entry.name[:80]!r} is larger than it says")
                target.write(piece)
                if progress:
                    progress(len(piece))
            if left:
                raise EOFError(f"{entry.name[:80]!r} ends early")
        os.replace(part, place)
    finally:
        part.unlink(missing_ok=True)
