"""Parts of a source: a stream cut the same wherever reading begins; what is to be made next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hpse_dist.data.parts import Part, Stretches
from hpse_dist.data.work import Todo, Work
from hpse_dist.records import FrameRecord, Reject

LENGTHS = (3, 2, 4, 1, 1, 6, 2)


def stream() -> Iterator[FrameRecord | Reject]:
    for sequence, length in enumerate(LENGTHS):
        if sequence == 2:
            yield Reject("between", "torn")
        for time in range(length):
            yield FrameRecord(
                image=np.zeros((1, 1, 3), np.uint8),
                box=(0, 0, 1, 1),
                subject="",
                sequence=f"q{sequence}",
                camera="",
                time=float(time),
                source=f"{sequence} {time}",
            )


def names(parts: Stretches, number: int) -> list[str] | None:
    records = parts.frames(number)
    return None if records is None else [record.source for record in records]


def test_a_stream_is_cut_where_the_sequence_changes() -> None:
    parts = Stretches(stream, 4)
    found = []
    while (part := names(parts, len(found))) is not None:
        found.append(part)
    assert [len(part) for part in found] == [6, 4, 8, 2]  # a reject counts, and ends no part
    assert [name for part in found for name in part] == [record.source for record in stream()]
    firsts = [part[0].split()[0] for part in found]
    assert firsts == ["0", "2", "3", "6"]
    for number in (2, 0, 3, 1, 1):  # in any order, and after one was left half read
        records = parts.frames(number)
        assert records is not None and next(records).source == found[number][0]
        assert names(parts, number) == found[number]
    assert names(parts, 4) is None and names(parts, 9) is None
    assert names(Stretches(lambda: iter(()), 4), 0) is None


def part(number: int, frames: int = 3, **fields: str) -> Part:
    kinds = {name: ((1,), dtype) for name, dtype in fields.items()}
    return Part(number, frames, ("frames-00000.beton",), kinds, {}, {})


def todo(tmp_path: Path, **finished: Part) -> Todo:
    work = Work(tmp_path / "made", "mark")
    for number in range(9):
        (work.place / f"part-{number:05d}").mkdir(parents=True)
    return Todo(work, {found.number: found for found in finished.values()})


def test_parts_are_given_out_once_and_again_when_their_maker_is_gone(tmp_path: Path) -> None:
    some = todo(tmp_path, one=part(1))
    assert [some.take(), some.take(), some.take()] == [0, 2, 3]
    some.lost(2)
    assert some.take() == 2
    some.done(0, part(0))
    some.done(3, None)  # the source ended
    some.done(5, None)  # seen by another worker too
    assert some.count == 3 and some.take() is None and not some.complete
    some.done(2, part(2))
    assert some.complete and some.frames == 9


def test_parts_made_before_the_first_was_known_are_made_again(tmp_path: Path) -> None:
    some = todo(tmp_path)
    assert [some.take() for _ in range(4)] == [0, 1, 2, 3]
    some.done(2, part(2, joints2d="float32"))
    some.done(3, part(3, person="uint8"))
    assert some.failed(1, knowing=False) and some.known_fields is None
    assert some.take() == 4
    some.done(0, part(0, joints2d="float32"))
    assert some.known_fields == {"joints2d": ((1,), "float32")}
    assert not (tmp_path / ".made.parts" / "part-00003").exists()
    assert sorted([some.take() or 0, some.take() or 0]) == [1, 3]
    assert not some.failed(1, knowing=True)  # with all there is to know, it is final


def test_an_empty_first_part_says_nothing_of_fields(tmp_path: Path) -> None:
    some = todo(tmp_path)
    assert [some.take() for _ in range(3)] == [0, 1, 2]
    some.done(0, part(0, frames=0))
    assert some.failed(2, knowing=False)
    assert not some.failed(1, knowing=False)  # all before it are there: nothing more to wait for
    some.done(1, part(1, frames=0))
    assert some.take() == 2  # now it is the first
    some.done(2, part(2, label="int64"))
    assert some.known_fields == {"label": ((1,), "int64")}


def test_a_source_of_which_all_is_left_out_is_told_early_and_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = {"the box is N px, below min_side_px": 600}
    some = todo(tmp_path)
    for number in range(4):
        some.done(number, replace(part(number, frames=0), rejects=small))
        assert len(caplog.messages) == (number > 0)
    assert "all of the first 1200 records" in caplog.text
    assert "1200 x the box is N px, below min_side_px" in caplog.text

    caplog.clear()
    other = todo(tmp_path / "other")
    for number in range(3):
        other.done(number, replace(part(number, frames=1), rejects=small))
    assert not caplog.messages
