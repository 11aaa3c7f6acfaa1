"""A stream of records as shards and tables in one folder: what becomes a collection or a part."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpse_dist.data.beton import BetonWriter
from hpse_dist.data.crops import CollectionConfig, Pictures, StoredFrame, Unusable, prepare_frame
from hpse_dist.data.reprojection import Reprojection
from hpse_dist.data.shards import REJECT_SCHEMA, Fields, ShardWriter, TableWriter
from hpse_dist.data.splits import Splits
from hpse_dist.records import FrameRecord, Reject

Progress = Callable[[int], object]
Record = FrameRecord | StoredFrame | Reject


@dataclass(frozen=True)
class Stored:
    """What `store` has written, besides frames.parquet and rejects.parquet."""

    shards: list[str]
    """Names of the shard files, in order."""
    fields: Fields
    """What every row of them holds."""
    tally: Tally
    errors: Reprojection


class Tally:
    """How many frames, of whom, and what was left out: a manifest's counts."""

    def __init__(self) -> None:
        self.frames = 0
        self.rejects = Counter[str]()
        self._examples: dict[str, Reject] = {}  # the first of each reason
        self._splits = Counter[str]()
        self._names: dict[str, set[str]] = {"subject": set(), "sequence": set(), "camera": set()}

    def add(self, about: Mapping[str, Any]) -> None:
        """One more frame, as its row of frames.parquet says."""
        self.frames += 1
        self._splits[about["split"]] += 1
        for kind, names in self._names.items():
            names.add(about[kind])

    def leave_out(self, reject: Reject) -> None:
        """One more record without a frame; its reason is counted, the numbers in it put aside."""
        reason = re.sub(r"\d+(\.\d+)?", "N", reject.reason)
        self.rejects[reason] += 1
        self._examples.setdefault(reason, reject)

    def counts(self, shards: int) -> dict[str, Any]:
        """The manifest's `counts`."""
        return {
            "frames": self.frames,
            "shards": shards,
            **{f"{kind}s": len(names - {""}) for kind, names in self._names.items()},
            "splits": dict(sorted(self._splits.items())),
            "rejects": dict(self.rejects.most_common()),
        }

    def check(self) -> None:
        """ValueError where no frame is left, with the most frequent reasons and one such record, as
        nothing is published that could be looked up."""
        if self.frames == 0:
            if not self.rejects:
                raise ValueError("no usable frame: the source holds none")
            ((most, _),) = self.rejects.most_common(1)
            one = self._examples[most]
            said = "" if one.reason == most else f": {one.reason}"  # the same words but for numbers
            raise ValueError(f"no usable frame: {told(self.rejects)}; such as {one.source}{said}")


def told(rejects: Counter[str]) -> str:
    """The most frequent reasons why records were left out, as part of a sentence."""
    return "; ".join(f"{count} x {reason}" for reason, count in rejects.most_common(3))


def store(
    folder: Path,
    records: Iterable[Record],
    config: CollectionConfig,
    *,
    writer: BetonWriter | None = None,
    known_fields: Fields | None = None,
    fixed_fields: Fields | None = None,
    progress: Progress | None = None,
) -> Stored:
    """Crop and write a stream into `folder`; memory holds one shard's frames.

    `writer`: one that is shared by several calls. `known_fields`: shapes of labels that frames
    after the first shard may be the first to carry. `fixed_fields`: all that there may be, as
    another part of the same collection has them. `progress` is called with 1 for each record.
    """
    splits, tally, errors, pictures = Splits(config), Tally(), Reprojection(), Pictures()
    rejects = Rejects(folder / "rejects.parquet", tally)
    # a source with processes of its own ends them when it is closed, after an error too
    source = (
        contextlib.closing(records) if isinstance(records, Generator) else contextlib.nullcontext()
    )
    with source, ShardWriter(folder, config, writer) as shards:
        shards.layout.know(known_fields or {})
        if fixed_fields is not None:
            shards.layout.fix(fixed_fields)
        for record in records:
            try:
                if isinstance(record, Reject):
                    rejects.add(record)
                else:
                    if isinstance(record, StoredFrame):
                        stored, split = record, record.about["split"]
                    else:
                        split = splits.of(record)
                        stored = prepare_frame(record, config, pictures)
                    shards.add(stored, split)
                    tally.add(stored.about)
                    errors.add(stored.row, stored.about["crop"][2])
            except Unusable as reason:
                rejects.add(Reject(record.source, str(reason)))
            if progress:
                progress(1)
        shards.finish()
    rejects.close()
    return Stored(shards.shards, shards.layout.fields(), tally, errors)


class Rejects:
    """rejects.parquet, and how often each reason came up in a tally."""

    def __init__(self, path: Path, tally: Tally) -> None:
        self._table = TableWriter(path, REJECT_SCHEMA)
        self._tally = tally

    def add(self, reject: Reject) -> None:
        self._table.add({"source": reject.source, "reason": reject.reason})
        self._tally.leave_out(reject)

    def close(self) -> None:
        """Write what is left; the file is complete only after this."""
        self._table.close()
