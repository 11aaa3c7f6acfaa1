"""`prepare --verify`: what it looks at, and tables that contradict one another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hpse_dist.data.collection import Collection, CollectionConfig, write_collection
from hpse_dist.data.pairs import PairsConfig, write_pairs
from hpse_dist.data.sheets import write_sheets
from hpse_dist.data.verify import verify
from hpse_dist.records import Reject
from tests.data import made_rig
from tests.data.plain_shards import plain_shards  # noqa: F401  a fixture

pytestmark = pytest.mark.usefixtures("plain_shards")


@pytest.fixture
def whole(tmp_path: Path) -> Collection:
    config = CollectionConfig(
        crop_px=32, label_px=16, min_side_px=20, frames_per_shard=8, image_mode="raw"
    )
    records = [
        replace(record, split="val" if record.subject == "s2" else "train")
        for record in made_rig.frames(3, moments=3, cameras=2)
    ]
    made = write_collection(
        tmp_path / "whole", [*records, Reject("a", "b")], config, made_rig.PROVENANCE
    )
    made = write_pairs(made, PairsConfig())
    write_sheets(made)
    return made


def changed(collection: Collection, name: str, column: str, values: list[object]) -> Collection:
    """A column of a table replaced, its hash in the manifest too: as a faulty program would."""
    table = pq.read_table(collection.folder / name)
    index = table.schema.get_field_index(column)
    array = pa.array(values, table.schema.field(column).type)
    table = table.set_column(index, table.schema.field(column), array)
    collection.update_file(name, lambda path: pq.write_table(table, path))
    return Collection.open(collection.folder)


def test_a_sound_collection_and_what_was_looked_at(whole: Collection) -> None:
    found = verify(whole)
    assert found.problems == []
    told = "\n".join(found.checked)
    for words in (
        "files against",
        "frames of",
        "ids, counts",
        "1 reasons",
        "pairs, both",
        "sheets",
    ):
        assert words in told


@pytest.mark.parametrize(
    ("name", "column", "value", "message"),
    [
        ("frames.parquet", "split", "val", "splits are"),
        ("pairs.parquet", "a", 999, "not in frames.parquet"),
        ("pairs.parquet", "kind", 1, "the manifest says"),
        ("pairs.parquet", "weight", float("nan"), "weights that are none"),
    ],
)
def test_tables_that_contradict_are_named(
    whole: Collection, name: str, column: str, value: object, message: str
) -> None:
    values = pq.read_table(whole.folder / name)[column].to_pylist()
    values[:3] = [value] * 3
    problems = verify(changed(whole, name, column, values)).problems
    assert any(text.startswith(f"{name}: ") and message in text for text in problems), problems


def test_pairs_across_splits_subjects_in_two_and_broken_sheets(whole: Collection) -> None:
    ids = whole.frames["sample_id"].to_numpy()
    train = np.asarray(whole.frames["split"].to_pylist()) == "train"
    ends = [int(ids[~train][0])] * whole.pairs.num_rows
    assert any(
        "not in one split" in text
        for text in verify(changed(whole, "pairs.parquet", "b", ends)).problems
    )
    problems = verify(changed(whole, "frames.parquet", "subject", ["s0"] * len(ids))).problems
    assert "frames.parquet: subjects in two splits: s0" in problems
    sheet = next((whole.folder / "sheets").glob("*.png"))
    sheet.write_bytes(sheet.read_bytes()[:300])
    assert any(text.startswith(f"sheets/{sheet.name}: ") for text in verify(whole).problems)
