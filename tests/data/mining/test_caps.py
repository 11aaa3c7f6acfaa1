"""Caps: no more than they allow, the same on any machine, and the spread of what is kept."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hpse_dist.data.mining.candidates import Pairs
from hpse_dist.data.mining.caps import spread_draw, strata
from hpse_dist.data.mining.made import MadePerson, made_frames
from hpse_dist.data.pairs import POSE, VIEW, PairsConfig, mine, pair_counts

FREE = PairsConfig(max_view_per_moment=10_000, pose_distance=(0, 9), both_orders=False)
BIG, SMALL = MadePerson(100, 6), MadePerson(4, 30)


@pytest.fixture(scope="module")
def rigs() -> pa.Table:
    """A rig of 100 cameras beside one of 4 and a video."""
    return made_frames([BIG, SMALL, MadePerson(1, 150)])


def owners(frames: pa.Table, pairs: pa.Table, kind: int, column: str = "subject") -> Counter[str]:
    names = frames[column].to_pylist()
    rows = pairs.to_pylist()
    return Counter(names[pair["a"]] for pair in rows if pair["kind"] == kind)


def test_a_big_rig_does_not_drown_the_rest(rigs: pa.Table) -> None:
    free = owners(rigs, mine(rigs, FREE), VIEW)
    assert free["person00000"] / free.total() > 0.98
    moment = dataclasses.replace(FREE, max_view_per_moment=16)
    some = owners(rigs, mine(rigs, moment), VIEW)
    assert some["person00000"] == 6 * 16 and some["person00001"] == 30 * 4
    capped = dataclasses.replace(FREE, max_per_subject=100)
    table = mine(rigs, capped)
    assert owners(rigs, table, VIEW) == {"person00000": 100, "person00001": 100}
    # cross-pose pairs have caps of their own: the video keeps as many as each rig
    assert set(owners(rigs, table, POSE).values()) == {100}
    spread = pair_counts(table)["spread"]["view"]["per_subject"]
    assert spread["candidates"]["largest_share"] > 0.98 and spread["kept"]["largest_share"] == 0.5


@pytest.mark.parametrize("cap", ["max_per_subject", "max_per_sequence", "max_per_camera_pair"])
def test_nothing_is_over_its_cap_and_all_is_counted(rigs: pa.Table, cap: str) -> None:
    """People share sequences and have several; of two cameras either may come first."""
    ids = np.random.default_rng(0).permutation(rigs.num_rows)
    for name, column in (
        ("sample_id", pa.array(ids)),
        ("sequence", pa.array([f"part {time % 0.6:.1f}" for time in rigs["time"].to_pylist()])),
    ):
        rigs = rigs.set_column(rigs.schema.get_field_index(name), name, column)
    frames = {frame["sample_id"]: frame for frame in rigs.to_pylist()}
    free, limit = mine(rigs, FREE), 7
    table = mine(rigs, dataclasses.replace(FREE, **{cap: limit}))
    groups: dict[str, Any] = {
        "max_per_subject": lambda row: frames[row["a"]]["subject"],
        "max_per_sequence": lambda row: frames[row["a"]]["sequence"],
        "max_per_camera_pair": lambda row: (
            frames[row["a"]]["sequence"],
            frozenset(frames[row[side]]["camera"] for side in "ab"),
        ),
    }
    kinds = (VIEW,) if cap == "max_per_camera_pair" else (VIEW, POSE)
    for kind in kinds:
        before, after = (
            Counter(groups[cap](row) for row in pairs.to_pylist() if row["kind"] == kind)
            for pairs in (free, table)
        )
        assert after == {name: min(limit, count) for name, count in before.items()}
        name = "view" if kind == VIEW else "pose"
        left = pair_counts(table)["dropped"][f"{name}: over {cap}"]
        assert left == before.total() - after.total() > 0
    if kinds == (VIEW,):
        assert pair_counts(table)["pose"] == pair_counts(free)["pose"]


def test_caps_go_from_narrow_to_wide(rigs: pa.Table) -> None:
    """The other way round the narrow one takes from what the wide one has left: fewer stay."""
    both = dataclasses.replace(FREE, max_per_camera_pair=5, max_per_subject=20)
    # the small rig has 4 pairs of cameras
    assert owners(rigs, mine(rigs, both), VIEW) == {"person00000": 20, "person00001": 4 * 5}


def test_strangers_whose_tracks_have_one_name_are_two_people() -> None:
    """A track lives in its sequence."""
    videos = made_frames([MadePerson(1, 60), MadePerson(1, 60)])
    for name, value in (("subject", ""), ("track", "0")):
        column = pa.array([value] * 120)
        videos = videos.set_column(videos.schema.get_field_index(name), name, column)
    found = owners(videos, mine(videos, dataclasses.replace(FREE, max_per_subject=7)), POSE)
    assert found == {"": 2 * 7}


def test_a_cap_keeps_the_spread_of_angles_and_gaps(rigs: pa.Table) -> None:
    free = mine(rigs, FREE)
    for seed in range(3):
        table = mine(rigs, dataclasses.replace(FREE, max_per_subject=120, seed=seed))
        for kind, column, edges in (
            (VIEW, "angle_deg", np.arange(10, 91, 10)),
            (POSE, "time_gap_s", 0.2 * 15 ** (np.arange(10) / 9)),
        ):
            for person in ("person00000",) if kind == VIEW else ("person00000", "person00002"):
                shares = [
                    np.histogram(of_person(rigs, pairs, kind, person)[column], edges)[0]
                    for pairs in (free, table)
                ]
                before, after = (counts / counts.sum() for counts in shares)
                # a systematic sample is at most one pair off in each bin; gaps drawn of other
                # seeds are others, so there the bins are wider of the mark
                slack = 1.1 / 120 if kind == VIEW else 0.08
                assert np.abs(before - after).max() <= slack, (kind, person, before, after)


def of_person(frames: pa.Table, pairs: pa.Table, kind: int, person: str) -> pa.Table:
    mine = np.asarray(frames["subject"])[pairs["a"].to_numpy()] == person
    return pairs.filter(mine & (pairs["kind"].to_numpy() == kind))


def test_weighing_is_a_choice() -> None:
    """By weight the angles gather around 60 degrees; without, they stay as they are."""
    frames = made_frames([MadePerson(60, 30)])
    means = []
    for weigh in (True, False):
        config = dataclasses.replace(FREE, max_view_per_moment=16, weigh_views=weigh)
        pairs = mine(frames, config)
        angles = pairs.filter(pairs["kind"].to_numpy() == VIEW)["angle_deg"]
        assert len(angles) == 30 * 16
        means.append(np.abs(angles.to_numpy() - 60).mean())
    assert means[0] < 16 < 20 < means[1]


def test_who_stays_is_the_seeds_choice_alone(rigs: pa.Table) -> None:
    config = dataclasses.replace(FREE, max_per_subject=50)
    ends = [("kind", "ascending"), ("a", "ascending"), ("b", "ascending")]
    once = mine(rigs, config).sort_by(ends)
    shuffled = rigs.take(np.random.default_rng(0).permutation(rigs.num_rows))
    assert mine(shuffled, config).sort_by(ends).equals(once)
    for change in ({"max_per_subject": 50}, {"max_view_per_moment": 16}):
        config = dataclasses.replace(FREE, max_pose_per_frame=0, **change)
        other = mine(rigs, dataclasses.replace(config, seed=1))
        assert other.num_rows == mine(rigs, config).num_rows
        assert not other.sort_by(ends).equals(mine(rigs, config).sort_by(ends))


def test_strata_are_bins_of_angles_and_of_octaves_of_time() -> None:
    """The second measure orders what is within a bin; unknown comes first."""
    none = np.zeros(4, np.int64)
    angle, gap = np.array([5.0, 29.0, 31.0, 90.0]), np.array([0.2, 0.39, 0.81, 102.4])
    distance, overlap = np.array([0.1, np.nan, 0.3, 0.4]), np.array([0.5, 0.6, np.nan, 0.8])
    pairs = Pairs(none, none, angle, gap, distance, overlap, none, none > 0)
    config = dataclasses.replace(FREE, time_gap_s=(0.2, 102.4))  # nine doublings
    stratum, within = strata(VIEW, pairs, config)
    assert stratum.tolist() == [0, 2, 3, 8] and within.tolist() == [0.5, 0.6, -1, 0.8]
    stratum, within = strata(POSE, pairs, config)
    assert stratum.tolist() == [0, 0, 2, 8] and within.tolist() == [0.1, -1, 0.3, 0.4]


def test_a_systematic_sample_is_exact() -> None:
    rng = np.random.default_rng(0)
    group = rng.integers(0, 40, 5000)
    stratum, within, drawn = rng.integers(0, 5, 5000), rng.random(5000), rng.random(5000)
    for cap in (1, 7, 119, 1000):
        keep = spread_draw(group, cap, stratum, within, drawn)
        size = np.bincount(group)
        assert np.array_equal(np.bincount(group[keep], minlength=40), np.minimum(size, cap))
        for each in range(40):
            here = group == each
            share = min(1, cap / size[each])
            for bin_ in range(5):
                stretch = here & (stratum == bin_)
                for part in (stretch, stretch & (within < 0.5), stretch & (within < 0.1)):
                    assert abs((part & keep).sum() - share * part.sum()) <= 1
    # whatever a pair's place in the order, it stays as often as any other
    group, place = np.divmod(np.arange(40_000), 10)
    keep = spread_draw(group, 3, place, place, rng.random(40_000))
    assert np.abs(keep.reshape(-1, 10).mean(0) - 0.3).max() < 0.04
    none = np.zeros(0, np.int64)
    assert len(spread_draw(none, 3, none, none, none)) == 0
