"""The measure of mining: a whole re-mining of a real folder in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpse_dist.data.collection import Collection
from hpse_dist.data.mining.cost import make_tables, mining_cost
from hpse_dist.data.mining.made import FRAMES_PER_SHARD, MadePerson, made_frames, population
from hpse_dist.data.pairs import PairsConfig


def test_a_collection_of_made_frames_is_mined(tmp_path: Path) -> None:
    make_tables(tmp_path, 600, 6)
    cost = mining_cost(tmp_path, PairsConfig())
    collection = Collection.open(tmp_path)
    assert cost.frames == collection.num_frames and 500 < cost.frames < 700
    assert cost.rows == collection.pairs.num_rows == 2 * cost.pairs
    assert cost.candidates > cost.pairs > 500
    assert 0 < cost.seconds < 60 and 50 * 2**20 < cost.peak_bytes < 2**31
    with pytest.raises(RuntimeError, match="manifest"):
        mining_cost(tmp_path / "nowhere", PairsConfig())


def test_made_frames_are_a_collections() -> None:
    people = population(20_000, 40)
    frames = made_frames(people)
    assert {p.cameras for p in people[1::2]} == {1} and max(p.cameras for p in people) > 40
    place = set(zip(frames["shard"].to_pylist(), frames["row"].to_pylist(), strict=True))
    assert len(place) == frames.num_rows == len(set(frames["sample_id"].to_pylist()))
    counts: dict[int, int] = {}
    moments: dict[tuple, set[int]] = {}
    rows = frames.select(["shard", "row", "subject", "time"]).to_pylist()
    for row in rows:
        counts[row["shard"]] = max(counts.get(row["shard"], 0), row["row"] + 1)
        moments.setdefault((row["subject"], row["time"]), set()).add(row["shard"])
    assert sum(counts.values()) == frames.num_rows and max(counts.values()) <= FRAMES_PER_SHARD
    assert all(len(shards) == 1 for shards in moments.values())
    long = made_frames([MadePerson(1, 10), MadePerson(3, 1000), MadePerson(2, 5)])
    assert long["shard"].to_pylist()[-1] == 2
