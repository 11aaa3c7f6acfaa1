"""Candidates come in pieces of bounded size, and no piece changes what is found."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from hpse_dist.data.mining import candidates
from hpse_dist.data.mining.frames import Frames, Names
from hpse_dist.data.mining.made import MadePerson, made_frames
from hpse_dist.data.pairs import VIEW, PairsConfig, mine, pair_counts

PEOPLE = [MadePerson(12, 9), MadePerson(5, 30), MadePerson(1, 60)]


def test_small_pieces_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = made_frames(PEOPLE)
    config = PairsConfig(max_view_per_moment=9, max_per_subject=200)
    whole = mine(frames, config)
    monkeypatch.setattr(candidates, "AT_ONCE", 70)  # a moment of 12 cameras has 66
    again = mine(frames, config)
    assert again.equals(whole) and pair_counts(again) == pair_counts(whole)
    shard = Frames(frames, Names.of(frames), np.arange(frames.num_rows))
    views = [len(pairs) for pairs, _ in candidates.view_candidates(shard, config)]
    poses = [len(pairs) for pairs in candidates.pose_candidates(shard, config)]
    assert sum(views) == 9 * 66 + 30 * 10 and max(views) <= 2 * 70 and max(poses) <= 70


def test_a_crowded_moment_is_drawn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "AT_ONCE", 600)
    frames = made_frames([MadePerson(100, 2), MadePerson(4, 2)])
    config = PairsConfig(max_view_per_moment=10_000, both_orders=False)
    table = mine(frames, config)
    counts = pair_counts(table)
    unseen = counts["dropped"]["view: not looked at, in a moment of too many cameras"]
    seen = counts["spread"]["view"]["candidates"]
    assert seen + unseen == 2 * 4950 + 2 * 6 and 2 * 480 < seen < 2 * 610
    assert mine(frames, config).equals(table)
    views = table.filter(table["kind"].to_numpy() == VIEW)
    used = np.concatenate([views["a"].to_numpy(), views["b"].to_numpy()])
    assert len(np.unique(used[used < 100])) > 90, "every camera has a part in it"
    apart = (views["b"].to_numpy() - views["a"].to_numpy())[views["b"].to_numpy() < 100]
    assert apart.max() > 50, "not neighbours alone"


def test_a_gap_takes_the_frame_nearest_to_it() -> None:
    """Frames at 0, 1 and 2 s: gaps drawn below 1.5 s, of 0.9 to 2.1 s, lead from 0 to 1 s."""
    frames = made_frames([MadePerson(1, 3, gap_s=1.0)] * 400)
    config = PairsConfig(
        time_gap_s=(0.9, 2.1), pose_distance=(0, 9), max_pose_per_frame=1, both_orders=False
    )
    pairs = mine(frames, config)
    gaps = pairs["time_gap_s"].to_numpy()[pairs["a"].to_numpy() % 3 == 0]
    assert len(gaps) == 400
    assert (gaps < 1.5).mean() == pytest.approx(np.log(1.5 / 0.9) / np.log(2.1 / 0.9), abs=0.08)


def test_gaps_on_the_limits_count_however_times_are_rounded() -> None:
    """0.4 - 0.1 is more than 0.3, and 0.5 - 0.2 is less."""
    frames = made_frames([MadePerson(1, 60, gap_s=0.1)])
    config = PairsConfig(
        time_gap_s=(0.3, 0.5), pose_distance=(0, 9), max_pose_per_frame=8, both_orders=False
    )
    pairs = mine(frames, config)
    steps = pairs["b"].to_numpy() - pairs["a"].to_numpy()
    assert np.bincount(steps).tolist() == [0, 0, 0, 57, 56, 55]


def test_frames_that_can_be_in_no_pair_are_counted() -> None:
    frames = made_frames([MadePerson(2, 5)])
    table = frames.to_pydict()
    table["time"][0] = float("nan")
    table["time"][1] = None
    table["subject"][2] = None
    table["subject"][3] = ""
    for name in ("R", "t", "centre"):
        table[name][4] = None
    broken = pa.Table.from_pydict(table, frames.schema)
    pairs = mine(broken, PairsConfig(pose_distance=(0, 9)))
    used = {*pairs["a"].to_pylist(), *pairs["b"].to_pylist()}
    assert used and not used & {0, 1, 2, 3}
    assert pair_counts(pairs)["frames"] == {
        "frames without a time": 2,
        "frames without a subject, for no cross-view pair": 2,
        "frames without a subject or track, for no cross-pose pair": 2,
    }
    assert pair_counts(pairs)["dropped"]["view: camera unknown"] == 1
