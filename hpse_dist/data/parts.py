"""A source's records in numbered parts, and one part made by itself.

What a part holds depends on the source and its number alone, whichever process makes it.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hpse_dist.data.beton import BetonWriter
from hpse_dist.data.crops import CollectionConfig
from hpse_dist.data.publish import file_entry, write_json
from hpse_dist.data.shards import Fields
from hpse_dist.data.store import Progress, store
from hpse_dist.disk import sync
from hpse_dist.records import FrameRecord, Reject
from hpse_dist.safety import parsed_json

Records = Iterator[FrameRecord | Reject]


class Parts(Protocol):
    """A source's records in numbered parts, each of them for any process to read."""

    @property
    def count(self) -> int | None:
        """How many parts there are; None where only reading to the end tells."""

    def frames(self, number: int) -> Records | None:
        """A part's records; None after the last part. Fastest when asked in order."""

    def close(self) -> None:
        """End what reading has started."""


class Stretches:
    """One stream cut into parts: for a source that offers none itself.

    A part ends where the sequence changes after `size` records. A process that makes some of the
    parts reads over the others' records: they cost nothing but their making, no crop.
    """

    count = None

    def __init__(self, stream: Callable[[], Records], size: int) -> None:
        self._open, self._size = stream, size
        self._stream: Records | None = None
        self._next = 0  # part that the stream stands before; -1 within one
        self._held: FrameRecord | Reject | None = None  # read, and the next part's first

    def frames(self, number: int) -> Records | None:
        if self._stream is None or not 0 <= self._next <= number:
            self.close()
            self._stream, self._next, self._held = self._open(), 0, None
        while self._next < number and self._more():
            for _ in self._part():
                pass
        return self._part() if self._more() else None

    def _more(self) -> bool:
        if self._held is None:
            assert self._stream is not None
            self._held = next(self._stream, None)
        return self._held is not None

    def _part(self) -> Records:
        number, self._next = self._next, -1
        return self._until_change(number + 1)

    def _until_change(self, following: int) -> Records:
        count, sequence = 0, None
        while self._more():
            record = self._held
            assert record is not None
            if isinstance(record, FrameRecord):
                if sequence not in (None, record.sequence) and count >= self._size:
                    break
                sequence = record.sequence
            self._held = None
            count += 1
            yield record
        self._next = following

    def close(self) -> None:
        end = getattr(self._stream, "close", None)  # a generator ends its processes
        if end:
            end()
        self._stream = None


@dataclass(frozen=True)
class Part:
    """A finished part, as its part.json says."""

    number: int
    frames: int
    shards: tuple[str, ...]
    fields: Fields
    rejects: dict[str, int]
    """Reason -> how often."""
    files: dict[str, Any]
    """Name -> size and sha256."""
    errors: tuple[list[float], ...] = ((), (), ())  # type: ignore[assignment]
    """What `reprojection` has collected of its frames."""
    made: dict[str, Any] = field(default_factory=dict)
    """By whom, how fast and in how much memory."""

    @property
    def records(self) -> int:
        """Frames and rejects."""
        return self.frames + sum(self.rejects.values())

    @classmethod
    def read(cls, folder: Path) -> Part | None:
        """The part in a folder; None where it is not as it was finished (sizes are compared)."""
        try:
            record = parsed_json((folder / "part.json").read_text(encoding="utf-8"))
            fields = {n: (tuple(shape), dtype) for n, (shape, dtype) in record["fields"].items()}
            part = cls(**{**record, "fields": fields, "shards": tuple(record["shards"])})
            sizes = {name: (folder / name).stat().st_size for name in part.files}
        except (OSError, ValueError, KeyError, TypeError):
            return None
        whole = all(sizes[name] == entry["bytes"] for name, entry in part.files.items())
        return part if whole else None


def make_part(
    place: Path,
    number: int,
    records: Records,
    config: CollectionConfig,
    *,
    writer: BetonWriter,
    fields: Fields | None = None,
    progress: Progress | None = None,
    measure: Callable[[], dict[str, Any]] = dict,
) -> Part:
    """Store a part's records in its folder under `place`; whole, or not at all.

    `fields`: what the collection's rows hold; None learns it from the first shard's frames. Where
    another process has finished the same part meanwhile, that one is kept.
    """
    folder = part_folder(place, number)
    partial = place / f".{folder.name}.{uuid.uuid4().hex[:8]}.partial"
    partial.mkdir()
    try:
        stored = store(
            partial,
            records,
            config,
            writer=writer,
            fixed_fields=fields,
            progress=progress,
        )
        part = Part(
            number=number,
            frames=stored.tally.frames,
            shards=tuple(stored.shards),
            fields=stored.fields,
            rejects=dict(stored.tally.rejects),
            files={path.name: file_entry(path) for path in sorted(partial.iterdir())},
            errors=stored.errors.numbers(),
            made=measure(),
        )
        write_json(partial / "part.json", vars(part))
        for path in [*partial.iterdir(), partial]:
            sync(path)
        try:
            os.rename(partial, folder)
        except OSError as error:
            other = Part.read(folder) if error.errno in (errno.EEXIST, errno.ENOTEMPTY) else None
            if other is None:
                raise
            return other
        sync(place)
        return part
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def part_folder(place: Path, number: int) -> Path:
    """Where a part is when it is finished."""
    return place / f"part-{number:05d}"
