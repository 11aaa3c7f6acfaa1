"""A collection made part by part, by one process or many, and joined when all parts are there.

A part is a stretch of a source's records: made by itself, and finished when its folder is there.

    .<name>.parts/             beside the collection; held by the one process that hands out parts
        work.json              which recipe and program made the parts, how many there are in all
        part-00007/            shards, frames.parquet, rejects.parquet, and part.json with their
                               sha256: renamed to this name when all of it is on disk
        .part-00008.1f3a.partial/   being written, or left by a process that was killed

Whoever makes a part, its content depends on its number alone; so the collection does not depend on
how many processes there were, which of them were killed, or how often the work was begun anew.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from hpse_dist.data.collection import describe, find_finished, software
from hpse_dist.data.crops import CollectionConfig, Unusable
from hpse_dist.data.parts import Part, part_folder
from hpse_dist.data.publish import (
    file_entry,
    locked,
    partial_folder,
    publish,
    write_json,
    write_manifest,
)
from hpse_dist.data.reprojection import Reprojection
from hpse_dist.data.shards import FRAME_SCHEMA, Fields, moment_of
from hpse_dist.data.splits import Splits
from hpse_dist.data.store import Rejects, Tally, told
from hpse_dist.records import Provenance, Reject
from hpse_dist.safety import parsed_json

logger = logging.getLogger(__name__)
_MANY = 1000  # records without a single frame, after which the user hears of it


class Work:
    """The parts of a collection in the making; use `begin` in `with`."""

    def __init__(self, folder: Path, mark: str) -> None:
        self.folder = folder
        self.place = folder.with_name(f".{folder.name}.parts")
        self._about = {"recipe_digest": mark, "software": software()}
        self.count: int | None = None
        """How many parts there are, where an earlier start has found out."""

    @contextlib.contextmanager
    def begin(self, overwrite: bool = False) -> Iterator[dict[int, Part]]:
        """Hold the folder; gives the parts that are finished. On leaving it goes, if none is.

        ValueError where another process holds it, or it holds another recipe's parts, unless
        `overwrite`. A full disk becomes one OSError that says what is kept.
        """
        with locked(self.place, self.folder):
            try:
                finished = self._take_up(overwrite)
                yield finished
            except OSError as error:
                full = (errno.ENOSPC, errno.EDQUOT)
                if error.errno not in full and "No space left" not in str(error):
                    raise
                kept = len(list(self.place.glob("part-*")))
                raise OSError(
                    errno.ENOSPC,
                    f"the disk is full; nothing was published, {kept} finished parts are kept: "
                    "free space and give the same command again, or name another folder",
                    str(self.folder),
                ) from error
            finally:
                self._sweep()
                parts = [Part.read(folder) for folder in self.place.glob("part-*")]
                if not any(part.frames for part in parts if part):
                    shutil.rmtree(self.place, ignore_errors=True)

    def _take_up(self, overwrite: bool) -> dict[int, Part]:
        """What an earlier start has finished of the same recipe."""
        self._sweep()
        about = self.place / "work.json"
        known: dict[str, Any] = {}
        if about.is_file():
            with contextlib.suppress(ValueError):
                known = parsed_json(about.read_text(encoding="utf-8"))
        folders = sorted(self.place.glob("part-*"))
        if folders and any(known.get(key) != value for key, value in self._about.items()):
            if not overwrite:
                raise ValueError(
                    f"{self.place}: holds {len(folders)} finished parts made by another recipe or "
                    "another version of the program; finish that one, name another folder, or "
                    "pass --overwrite to drop them"
                )
            known = {}
            for folder in folders:
                shutil.rmtree(folder)
        self.count = known.get("parts")
        self._write_down()
        finished = {}
        for folder in sorted(self.place.glob("part-*")):
            part = Part.read(folder)
            if part is None:  # a file is lacking or cut short: made again
                shutil.rmtree(folder)
            else:
                finished[part.number] = part
        return finished

    def note_count(self, count: int) -> None:
        """Write down how many parts there are."""
        if count != self.count:
            self.count = count
            self._write_down()

    def discard(self, number: int) -> None:
        """Remove a finished part, which is to be made again."""
        shutil.rmtree(part_folder(self.place, number))

    def _write_down(self) -> None:
        write_json(self.place / "work.json", {**self._about, "parts": self.count})

    def _sweep(self) -> None:
        """Remove what killed processes left half written."""
        for path in self.place.glob(".part-*.partial"):
            shutil.rmtree(path, ignore_errors=True)

    def join(
        self, config: CollectionConfig, provenance: Provenance, mark: str, overwrite: bool
    ) -> None:
        """Publish all parts, in the order of their numbers, as the collection; then remove them.

        Shards are linked, not copied, so a start that is killed here has lost nothing.
        """
        assert self.count is not None
        found = [Part.read(part_folder(self.place, number)) for number in range(self.count)]
        parts = [part for part in found if part is not None]
        assert len(parts) == self.count
        with partial_folder(self.folder) as partial:
            find_finished(self.folder, mark, overwrite)  # still nothing else there
            manifest = _join(self.place, parts, partial, config, provenance, mark)
            write_manifest(partial, manifest)
            publish(partial, self.folder)
        shutil.rmtree(self.place, ignore_errors=True)


def _join(
    place: Path,
    parts: list[Part],
    partial: Path,
    config: CollectionConfig,
    provenance: Provenance,
    mark: str,
) -> dict[str, Any]:
    """Link the shards and write the tables of a whole collection; returns its manifest."""
    tally, errors, settled = Tally(), Reprojection(), _Settled(config)
    rejects = Rejects(partial / "rejects.parquet", tally)
    shards: list[str] = []
    starts: list[int] = []
    files: dict[str, Any] = {}
    first = 0
    with pq.ParquetWriter(partial / "frames.parquet", FRAME_SCHEMA, compression="zstd") as table:
        for part in parts:
            folder = part_folder(place, part.number)
            for row in pq.read_table(folder / "rejects.parquet").to_pylist():
                rejects.add(Reject(**row))
            frames = pq.read_table(folder / "frames.parquet")
            rows = settled.keep(frames.to_pylist(), rejects)
            for row in rows:
                row["sample_id"] += first
                row["shard"] += len(shards)
                tally.add(row)
            if rows:
                table.write_table(frames.from_pylist(rows, FRAME_SCHEMA))
            for name in part.shards:
                number = f"frames-{len(shards):05d}.beton"
                _link(folder / name, partial / number)
                files[number] = part.files[name]
                shards.append(number)
                starts.append(first)
            first += part.frames
            errors.extend(part.errors)
    rejects.close()
    tally.check()
    files |= {n: file_entry(partial / n) for n in ("frames.parquet", "rejects.parquet")}
    fields = next(part.fields for part in parts if part.frames)
    return describe(
        config,
        provenance,
        mark,
        counts=tally.counts(len(shards)),
        reprojection=errors.account(),
        fields=fields,
        shards=shards,
        starts=starts,
        files=dict(sorted(files.items())),
    )


class _Settled:
    """What earlier parts have settled: no moment is in two parts, no subject in two splits."""

    def __init__(self, config: CollectionConfig) -> None:
        self._moments: set[int] = set()  # hashes: of a million moments, 64 MB
        self._splits = Splits(config)

    def keep(self, rows: list[dict[str, Any]], rejects: Rejects) -> list[dict[str, Any]]:
        """The rows of a part's frames that stay; its shards keep what is left out, unread."""
        kept, moments = [], set()
        for row in rows:
            moment = hash(moment_of(row["subject"], row["track"], row["sequence"], row["time"]))
            subject, split = row["subject"], row["split"]
            whole = f"subject {subject}" if subject else f"sequence {row['sequence']}"
            try:
                if moment in self._moments:
                    raise Unusable(
                        "its shard was full and closed: frames of one moment must come together"
                    )
                self._splits.settle(whole, split, split)
            except Unusable as reason:
                rejects.add(Reject(row["source"], str(reason)))
                continue
            moments.add(moment)
            kept.append(row)
        self._moments |= moments
        return kept


def _link(old: Path, new: Path) -> None:
    """The same file under a second name; a copy where the file system has no such thing."""
    try:
        os.link(old, new)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        shutil.copyfile(old, new)


class Todo:
    """Which parts are to be made next, by whoever has a hand free; counts what is done."""

    def __init__(self, work: Work, finished: dict[int, Part]) -> None:
        self._work, self.finished = work, finished
        self._next = 0
        self._again: list[int] = []
        self._silent = True  # nothing has been said of a source that gives no frame
        self._unknowing: list[int] = []  # failed without the first part's fields: tried with them

    @property
    def count(self) -> int | None:
        """How many parts there are, once that is known."""
        return self._work.count

    @property
    def complete(self) -> bool:
        """Whether every part is finished."""
        return self.count is not None and len(self.finished) == self.count

    @property
    def frames(self) -> int:
        """Frames in the finished parts."""
        return sum(part.frames for part in self.finished.values())

    @property
    def known_fields(self) -> Fields | None:
        """What the first part with frames holds: what all others have to hold."""
        for number in range(len(self.finished)):
            part = self.finished.get(number)
            if part is None or part.frames:
                return part.fields if part else None
        return None

    def take(self) -> int | None:
        """A part to make now; None where there is none, though some may be in the making."""
        for number in [n for n in self._unknowing if self.known_fields or self._is_next(n)]:
            self._unknowing.remove(number)
            self._again.append(number)
        if self._again:
            number = self._again.pop(0)
        else:
            while self._next in self.finished:
                self._next += 1
            if self.count is not None and self._next >= self.count:
                return None
            number, self._next = self._next, self._next + 1
        return number

    def done(self, number: int, part: Part | None) -> None:
        """A part is finished; None: the source ends before it.

        Parts begun before the first was known may lack fields, and are made again.
        """
        if part is None:
            self._work.note_count(min(number, self.count if self.count is not None else number))
            return
        self.finished[number] = part
        self._warn_of_nothing()
        known = self.known_fields
        if known is None:
            return
        for other in [p for p in self.finished.values() if p.frames and p.fields != known]:
            del self.finished[other.number]
            self._work.discard(other.number)
            self._again.append(other.number)

    def _warn_of_nothing(self) -> None:
        """Say early, and once, that all is left out: a limit that does not fit, most often."""
        records = sum(part.records for part in self.finished.values())
        if self._silent and records >= _MANY and self.frames == 0:
            self._silent = False
            rejects = sum((Counter(part.rejects) for part in self.finished.values()), Counter())
            logger.warning(
                "all of the first %d records were left out (%s); if that is not meant, stop and "
                "change the recipe",
                records,
                told(rejects),
            )

    def failed(self, number: int, knowing: bool) -> bool:
        """A part could not be made; whether it is worth another try, when more is known."""
        if knowing or self._is_next(number):
            return False
        self._unknowing.append(number)
        return True

    def _is_next(self, number: int) -> bool:
        """Whether all parts before are finished, so that nothing more will be known."""
        return all(before in self.finished for before in range(number))

    def lost(self, number: int) -> None:
        """Whoever made a part is gone: it is made again."""
        self._again.append(number)
