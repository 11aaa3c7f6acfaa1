"""Composition root of data: a recipe becomes a collection with pairs and contact sheets.

The frames are made in parts (`data.parts`), here one after the other, or by many workers: whoever
makes them, the collection is the same. Begun again, it goes on with the parts that are not there.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import psutil

from hpse_dist.data import beton
from hpse_dist.data.collection import Collection, find_finished
from hpse_dist.data.crops import CollectionConfig
from hpse_dist.data.pairs import write_pairs
from hpse_dist.data.parts import Part, Parts, Stretches, make_part
from hpse_dist.data.shards import Fields
from hpse_dist.data.sheets import write_sheets
from hpse_dist.data.store import Progress
from hpse_dist.data.unpack import unpack
from hpse_dist.data.work import Todo, Work
from hpse_dist.recipe import FRAME_SOURCES, DataRecipe, located, with_located_roots
from hpse_dist.safety import one_line


class Meter(Protocol):
    """What shows how far it is, such as tqdm's bar."""

    n: Any
    total: Any
    initial: Any

    def update(self, n: int) -> object:
        """So many records more."""

    def refresh(self) -> object:
        """Draw it anew."""


@dataclass(frozen=True)
class Task:
    """What a worker has to know to make any part."""

    source: Any
    """An entry of FRAME_SOURCES."""
    config: Any
    """Its config, with absolute paths."""
    collection: CollectionConfig
    place: Path
    """Folder of the finished parts."""


CarryOut = Callable[[Task, Todo, Meter | None], None]


def unpack_first(
    recipe: DataRecipe,
    *,
    overwrite: bool = False,
    progress: Callable[[int], object] | None = None,
) -> list[Path]:
    """Unpack the recipe's archives, unless they were or the collection is there; those it did.

    `progress` counts bytes. ValueError where an archive is refused.
    """
    config = recipe.unpack
    if config.archives is None or find_finished(recipe.folder(), recipe.mark(), overwrite):
        return []
    into = config.into or getattr(recipe.source, "root", None)
    if into is None:
        raise ValueError("unpack.into: the source has no root of its own; say where to unpack")
    return unpack(replace(config, archives=located(config.archives)), located(into), progress)


def prepare(
    recipe: DataRecipe,
    *,
    overwrite: bool = False,
    meter: Meter | None = None,
    carry_out: CarryOut | None = None,
) -> Collection:
    """Make the recipe's collection, or return it when it is there; `meter` counts records.

    What decides the frames is the source and the crop rule: other `pairs` re-mine the pairs of the
    frames that are there, and touch no picture. `carry_out` makes the parts that are to be done;
    None makes them in this process.
    """
    folder = recipe.folder()
    collection = find_finished(folder, recipe.mark(), overwrite)
    if collection is None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _make(recipe, folder, overwrite, meter, carry_out or in_this_process)
        collection = Collection.open(folder)
    if recipe.pairs is not None:
        collection = write_pairs(collection, recipe.pairs)
    if not (folder / "sheets").is_dir():
        write_sheets(collection)
    return collection


def _make(
    recipe: DataRecipe, folder: Path, overwrite: bool, meter: Meter | None, carry_out: CarryOut
) -> None:
    """The frames: all parts, then the collection."""
    source, config = FRAME_SOURCES[recipe.source_name()], with_located_roots(recipe.source)
    work = Work(folder, recipe.mark())
    with work.begin(overwrite) as finished:
        if find_finished(folder, recipe.mark(), overwrite) is not None:
            return  # by another process, meanwhile
        task = Task(source, config, recipe.collection, work.place)
        count = open_parts(task, processes=1).count
        if count is not None:
            work.note_count(count)
        todo = Todo(work, finished)
        if meter is not None:
            meter.initial = meter.n = todo.frames
        carry_out(task, todo, meter)
        work.join(recipe.collection, source.provenance(config), recipe.mark(), overwrite)


def in_this_process(task: Task, todo: Todo, meter: Meter | None) -> None:
    """Make what is to be done, one part after the other; a source may use processes of its own."""
    maker = PartMaker(task, processes=0)
    try:
        while (number := todo.take()) is not None:
            known = todo.known_fields
            try:
                part = maker.make(number, known, None if meter is None else meter.update)
            except ValueError as error:
                if not todo.failed(number, knowing=known is not None):
                    raise naming(error, number, todo) from error
                continue
            todo.done(number, part)
            if meter is not None:
                expect(meter, todo)
    finally:
        maker.close()


def naming(error: Exception, number: int, todo: Todo) -> Exception:
    """A ValueError of a part as one that names it, unless it is the first and so of the whole."""
    if not isinstance(error, ValueError) or (number == 0 and not todo.finished):
        return error
    kept = f"{len(todo.finished)} finished parts are kept"
    return ValueError(f"part {number}: {one_line(str(error))}; {kept}")


def expect(meter: Meter, todo: Todo) -> None:
    """Tell the meter how much there will be, from what the finished parts hold."""
    if todo.count is not None and todo.finished:
        records = sum(part.records for part in todo.finished.values())
        meter.total = round(records / len(todo.finished) * todo.count)
        meter.refresh()


class PartMaker:
    """Makes parts of one task, in any process: holds the opened source and FFCV's writer."""

    def __init__(self, task: Task, processes: int) -> None:
        """`processes`: how many a source may use that has several; 0: one per usable core."""
        self._task = task
        self._parts = open_parts(task, processes)
        self._writer = beton.BetonWriter()

    def make(
        self, number: int, fields: Fields | None, progress: Progress | None = None
    ) -> Part | None:
        """Make a part; None where the source ends before it."""
        started, used = time.perf_counter(), _processor_seconds()
        records = self._parts.frames(number)
        if records is None:
            return None

        def measure() -> dict[str, Any]:
            return {
                "by": f"{socket.gethostname()} {os.getpid()}",
                "at": round(time.time(), 3),
                "seconds": round(time.perf_counter() - started, 3),
                "processor_seconds": round(_processor_seconds() - used, 3),
                "memory_mb": round(_memory_bytes() / 1e6, 1),
            }

        return make_part(
            self._task.place,
            number,
            records,
            self._task.collection,
            writer=self._writer,
            fields=fields,
            progress=progress,
            measure=measure,
        )

    def close(self) -> None:
        """End the processes."""
        self._parts.close()
        self._writer.close()


def open_parts(task: Task, processes: int) -> Parts:
    """A source's own parts, or its stream cut into stretches of about a shard each."""
    source, size = task.source, task.collection.frames_per_shard
    if hasattr(source, "in_parts"):
        own: Parts = source.in_parts(task.config, size, processes)
        return own
    # a little less, so that the sequence that crosses the line still fits the shard
    return Stretches(lambda: source.frames(task.config), max(1, size * 7 // 8))


def _family() -> list[psutil.Process]:
    """This process and those it has started."""
    this = psutil.Process()
    return [this, *this.children(recursive=True)]


def _processor_seconds() -> float:
    """Processor time of the family so far, of ended members too."""
    total = 0.0
    for process in _family():
        try:
            total += sum(process.cpu_times()[:4])  # user, system, and of ended children
        except psutil.NoSuchProcess:
            continue
    return total


def _memory_bytes() -> int:
    """Memory of the family; pages that its members share count for each."""
    total = 0
    for process in _family():
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total
