"""What read_items takes from a collection, and that it takes no more."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from hpse_dist.data.collection import Collection
from hpse_dist.data.items import Source, _coded, _earlier, _subjects, read_items
from tests.data.made_collection import made_collection


def test_columns_are_the_table_s_and_nothing_is_kept() -> None:
    collection = Collection.open(made_collection().folder)
    names = ["sample_id", "subject", "no_such_column", "has_body"]
    found = collection.columns("frames", names)
    assert "frames" not in collection.__dict__
    assert found.column_names == ["sample_id", "subject", "has_body"]
    for name in found.column_names:
        assert found[name].to_pylist() == collection.frames[name].to_pylist()
    assert collection.columns("frames", names).column_names == found.column_names


def test_reading_items_keeps_no_table_in_memory() -> None:
    collection = Collection.open(made_collection().folder)
    items = read_items(Source(collection), "pairs")
    assert len(items.first) > 100
    assert not {"frames", "pairs"} & {*collection.__dict__}
    stored = collection.pairs.to_pydict()
    ids = items.sample_id[items.first], items.sample_id[items.second]  # type: ignore[index]
    pairs = {*zip(stored["a"], stored["b"], strict=True)}
    assert {*zip(*(part.tolist() for part in ids), strict=True)} <= pairs


def test_codes_of_texts() -> None:
    pieces = [pa.array(["b", None, "a"]), pa.array(["a", "c", "b"])]
    for column in (
        pa.chunked_array(pieces),
        pa.chunked_array([p.dictionary_encode() for p in pieces]),
    ):
        codes, names = _coded(column)
        assert [names[code] if code >= 0 else None for code in codes] == [*"b", None, *"aacb"]
    assert len(_coded(pa.chunked_array([], pa.string()))[0]) == 0


def test_a_subject_that_is_unknown_is_its_track() -> None:
    frames = pa.table(
        {
            "subject": ["anna", "", "", "anna", "", None],
            "sequence": ["s1", "s1", "s2", "s2", "s1", "s1"],
            "track": ["t1", "t1", "t1", "t1", "t2", "t1"],
        }
    )
    a, b, c, d, e, f = _subjects(frames, 0).tolist()
    assert a == d and b == f
    assert len({a, b, c, e}) == 4
    assert (a, b, c, e) == (
        1035003162234715414,
        3197111244614144577,
        1335668766440881667,
        4212679633472606623,
    ), "hashes are in checkpoints' reference swaps and in every recipe's draws"
    assert not {a, b, c, e} & {*_subjects(frames, 1).tolist()}, "another source's are other people"


@pytest.mark.parametrize("mixed", [False, True])
def test_how_often_a_frame_came_before(mixed: bool) -> None:
    shard = np.repeat(np.arange(3), 4)
    first = np.array([0, 1, 1, 0, 5, 5, 5, 11, 8, 11])
    if mixed:
        first = first[::-1]
    seen: dict[int, int] = {}
    expected = [seen.update({n: seen.get(n, -1) + 1}) or seen[n] for n in first.tolist()]
    assert _earlier(first, shard).tolist() == expected
