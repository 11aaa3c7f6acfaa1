"""Pair mining against a slow, plain statement of its rules, on a made rig."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hpse_dist.data.crops import CollectionConfig, Pictures, prepare_frame
from hpse_dist.data.descriptors import covisibility, pose_distances, surface_cells
from hpse_dist.data.mining.made import MadePerson, made_frames
from hpse_dist.data.pairs import POSE, VIEW, PairsConfig, mine, pair_counts, view_weight
from hpse_dist.data.shards import FRAME_SCHEMA
from hpse_dist.geometry.boxes import iou
from hpse_dist.records import FrameRecord
from tests.data import made_rig

CONFIG = CollectionConfig(crop_px=16, min_side_px=10)
ALL = PairsConfig(max_view_per_moment=1000, max_pose_per_frame=3)


def table(records: list[FrameRecord], shards: list[int] | None = None, **columns: Any) -> pa.Table:
    """frames.parquet of some records without writing one."""
    rows = []
    for index, record in enumerate(records):
        about = prepare_frame(record, CONFIG, Pictures()).about
        about.update(sample_id=index, shard=shards[index] if shards else 0, row=index)
        rows.append({**about, "split": "train", **columns})
    return pa.Table.from_pylist(rows, FRAME_SCHEMA)


@pytest.fixture(scope="module")
def records() -> list[FrameRecord]:
    return list(made_rig.frames(subjects=2, moments=8, cameras=5))


def of_kind(pairs: pa.Table, kind: int) -> list[dict[str, Any]]:
    return [pair for pair in pairs.to_pylist() if pair["kind"] == kind]


def test_cross_view_pairs_are_all_those_within_the_limits(records):
    config = dataclasses.replace(ALL, view_angle_deg=(20, 70), both_orders=False)
    found = of_kind(mine(table(records), config), VIEW)
    expected = {}
    for (a, one), (b, two) in itertools.combinations(enumerate(records), 2):
        same = (one.subject, one.sequence, one.time) == (two.subject, two.sequence, two.time)
        steps = abs(int(one.camera[3:]) - int(two.camera[3:]))  # cameras stand 30 degrees apart
        if same and steps in (1, 2):
            expected[a, b] = 30 * steps
    assert {(pair["a"], pair["b"]) for pair in found} == set(expected)
    for pair in found:
        angle = expected[pair["a"], pair["b"]]
        cosine = np.cos(np.radians(angle))
        assert np.isclose(pair["angle_deg"], angle, atol=1e-3)
        assert np.isclose(pair["weight"], 4 * cosine * (1 - cosine), atol=1e-5)
        assert pair["time_gap_s"] == 0 and 0 <= pair["overlap"] <= 1


def test_angle_is_between_directions_to_the_person_not_between_axes(records):
    """A person near the second camera's side is seen under another angle than the axes have."""
    centre = np.array([0.8, 0.0, -1.2])
    near = [dataclasses.replace(record, centre=centre) for record in records[:2]]
    eyes = [-record.rotation.T @ record.translation - centre for record in near]
    cosine = eyes[0] @ eyes[1] / np.linalg.norm(eyes[0]) / np.linalg.norm(eyes[1])
    (pair,) = of_kind(mine(table(near), dataclasses.replace(ALL, both_orders=False)), VIEW)
    assert np.isclose(pair["angle_deg"], np.degrees(np.arccos(cosine)), atol=1e-3)
    assert abs(pair["angle_deg"] - 30) > 5
    unplaced = [dataclasses.replace(record, centre=None) for record in near]
    (pair,) = of_kind(mine(table(unplaced), dataclasses.replace(ALL, both_orders=False)), VIEW)
    assert np.isclose(pair["angle_deg"], 30, atol=1e-3)


def test_cap_keeps_the_weighty_angles_more_often(records):
    many = list(made_rig.frames(subjects=1, moments=50, cameras=4))
    config = dataclasses.replace(ALL, max_view_per_moment=1, both_orders=False)
    found = of_kind(mine(table(many), config), VIEW)
    assert len(found) == 50  # one per moment
    steps = np.round([pair["angle_deg"] / 30 for pair in found]).astype(int)
    # of 3 pairs at 30 degrees (weight 0.46), 2 at 60 (1), 1 at 90 (0): 2 / 3.39 are at 60
    assert 0.42 < (steps == 2).mean() < 0.76 and (steps == 3).sum() == 0


def test_cross_pose_pairs_hold_every_rule(records):
    config = dataclasses.replace(ALL, pose_distance=(0.35, 0.6), time_gap_s=(0.3, 1.2))
    pairs = mine(table(records), config)
    found = of_kind(pairs, POSE)
    assert found
    later = [0] * len(records)
    for pair in found:
        one, two = records[pair["a"]], records[pair["b"]]
        assert (one.subject, one.sequence, one.camera) == (two.subject, two.sequence, two.camera)
        assert np.isclose(pair["time_gap_s"], abs(one.time - two.time))
        assert 0.3 - 1e-5 <= pair["time_gap_s"] <= 1.2 + 1e-5
        assert 0.35 <= pair["pose_distance"] <= 0.6
        assert pair["angle_deg"] == pytest.approx(0, abs=1e-3) and pair["weight"] == 1
        points = [record.labels["joints3d"][:, :3] for record in (one, two)]
        points = [p - p.mean(axis=0) for p in points]
        points = [p / np.linalg.norm(p, axis=1).mean() for p in points]
        moved = np.linalg.norm(points[0] - points[1], axis=1).mean()
        assert np.isclose(pair["pose_distance"], moved, atol=1e-5)
        later[pair["a"]] += one.time < two.time
    assert max(later) == 3
    ends = [(pair["a"], pair["b"]) for pair in found]
    assert len(set(ends)) == len(ends) and {(b, a) for a, b in ends} == set(ends)
    assert pair_counts(pairs)["dropped"]["pose: too alike"] > 0


def test_time_gaps_are_spread_log_uniformly():
    long = list(made_rig.frames(subjects=1, moments=250, cameras=1, gap_s=0.04))
    config = PairsConfig(max_pose_per_frame=3, pose_distance=(0, 9), both_orders=False)
    gaps = mine(table(long), config)["time_gap_s"].to_numpy()
    middle = np.sqrt(0.2 * 3.0)  # as many below the geometric mean as above
    assert 0.42 < (gaps < middle).mean() < 0.58
    assert gaps.min() < 0.25 and gaps.max() > 2.7


def test_pairs_stay_in_their_split_sequence_and_shard(records):
    whole, names = table(records), pa.array(["train", "val"] * (len(records) // 2))
    for column in ("split", "sequence"):
        mixed = whole.set_column(whole.schema.get_field_index(column), column, names)
        found = mine(mixed, ALL)
        assert {*found["kind"].to_pylist()} == {VIEW, POSE}
        for pair in found.to_pylist():
            assert (pair["a"] - pair["b"]) % 2 == 0, column
    shards = [i // 20 for i in range(len(records))]
    for pair in mine(table(records, shards), ALL).to_pylist():
        assert pair["a"] // 20 == pair["b"] // 20


@pytest.mark.parametrize("both_orders", [True, False])
def test_pairs_lie_shard_after_shard_and_each_order_after_the_other(records, both_orders):
    shards = [3 - i // 20 for i in range(len(records))]
    pairs = mine(table(records, shards), dataclasses.replace(ALL, both_orders=both_orders))
    places = [
        (shards[pair["a"]], pair["kind"], pair["a"] > pair["b"], sorted((pair["a"], pair["b"])))
        for pair in pairs.to_pylist()
    ]
    assert places == sorted(places)
    assert len({place[:3] for place in places}) == 4 * 2 * (1 + both_orders)


def test_a_shards_pairs_are_its_own():
    """Whatever lies beside it: poses and surfaces are read from the middle of the table."""
    frames = made_frames([MadePerson(6, 30), MadePerson(5, 20), MadePerson(1, 40)])
    shards = np.repeat([0, 1, 2], [180, 100, 40])
    place = frames.schema.get_field_index("shard")
    frames = frames.set_column(place, frames.schema.field(place), pa.array(shards, pa.int32()))
    alone = [mine(frames.filter(shards == shard), ALL) for shard in range(3)]
    assert mine(frames, ALL).equals(pa.concat_tables(alone).replace_schema_metadata())


def test_cross_view_pairs_are_of_one_millisecond():
    rig = made_frames([MadePerson(12, 9, gap_s=0.002)])
    assert {pair["time_gap_s"] for pair in of_kind(mine(rig, ALL), VIEW)} == {0.0}


def test_joints_in_the_picture_are_held_to_the_rule_of_joints():
    frames = made_frames([MadePerson(1, 30)])
    kinds = pa.array(["joints2d"] * 30)
    frames = frames.set_column(frames.schema.get_field_index("pose_kind"), "pose_kind", kinds)
    config = dataclasses.replace(ALL, pose_distance=(0, 5), silhouette_distance=(5, 9))
    distances = mine(frames, config)["pose_distance"].to_numpy()
    assert len(distances) > 20 and (distances < 5).all()


def test_one_camera_at_one_moment_is_one_view(records):
    """Two crops of a person from one picture, which a detector may well give."""
    twice = [record for record in records[:3] for _ in range(2)]
    config = dataclasses.replace(ALL, view_angle_deg=(0, 90), both_orders=False)
    found = of_kind(mine(table(twice), config), VIEW)
    assert len(found) == 3 * 2 * 2
    assert all(twice[pair["a"]].camera != twice[pair["b"]].camera for pair in found)


def test_people_without_a_name_pair_along_their_track_only(records):
    nameless = [
        dataclasses.replace(record, subject="", sequence="q", track=record.subject)
        for record in records
    ]
    pairs = mine(table(nameless), ALL)
    assert not of_kind(pairs, VIEW) and of_kind(pairs, POSE)
    for pair in pairs.to_pylist():
        assert nameless[pair["a"]].track == nameless[pair["b"]].track
    lost = [dataclasses.replace(record, subject="", sequence="q") for record in records]
    assert mine(table(lost), ALL).num_rows == 0


def test_unknown_cameras_poses_and_surfaces(records):
    bare = [
        dataclasses.replace(record, labels={}, mask=None, rotation=None, translation=None)
        for record in records
    ]
    pairs = mine(table(bare), ALL)
    assert not of_kind(pairs, VIEW) and of_kind(pairs, POSE)
    for pair in pairs.to_pylist():
        assert pair["angle_deg"] is None and pair["pose_distance"] is None
        assert 0 < pair["overlap"] <= 1  # of the boxes
    assert mine(table(bare), dataclasses.replace(ALL, unknown_pose=False)).num_rows == 0
    seen = [dataclasses.replace(record, labels={}) for record in records]
    silhouettes = of_kind(mine(table(seen), ALL), POSE)
    assert silhouettes and all(0.05 <= pair["pose_distance"] <= 0.8 for pair in silhouettes)


def test_same_table_same_pairs_in_any_row_order(records):
    frames = table(records)
    once, order = mine(frames, ALL), np.random.default_rng(0).permutation(len(records))
    again = mine(frames.take(order), ALL)
    assert once.sort_by([("kind", "ascending"), ("a", "ascending"), ("b", "ascending")]).equals(
        again.sort_by([("kind", "ascending"), ("a", "ascending"), ("b", "ascending")])
    )
    assert not mine(frames, dataclasses.replace(ALL, seed=1)).equals(once)


def test_least_overlap_of_surfaces():
    rig = made_frames([MadePerson(12, 3)])  # the nearer two cameras, the more do both see
    overlaps = [pair["overlap"] for pair in of_kind(mine(rig, ALL), VIEW)]
    fewest, limit, most = np.unique(overlaps)[[0, len(np.unique(overlaps)) // 2, -1]]
    assert fewest < limit < most
    some = of_kind(mine(rig, dataclasses.replace(ALL, min_view_overlap=float(limit))), VIEW)
    kept = [overlap for overlap in overlaps if overlap >= limit]
    assert sorted(pair["overlap"] for pair in some) == sorted(kept)


def test_a_surface_that_is_not_known_drops_no_pair():
    rig = made_frames([MadePerson(12, 1)])
    surfaces = rig["surface"].to_pylist()
    surfaces[6] = None
    place = rig.schema.get_field_index("surface")
    rig = rig.set_column(place, "surface", pa.array(surfaces, pa.binary()))
    kept = of_kind(mine(rig, dataclasses.replace(ALL, min_view_overlap=1.0)), VIEW)
    assert kept == [pair for pair in of_kind(mine(rig, ALL), VIEW) if 6 in (pair["a"], pair["b"])]
    assert {pair["overlap"] for pair in kept} == {None}


def test_overlap_is_of_surfaces_where_they_are_known_and_else_of_boxes():
    config = dataclasses.replace(ALL, pose_distance=(0, 9))
    rig, video = (made_frames([MadePerson(cameras, 9)]) for cameras in (3, 1))
    found = of_kind(mine(rig, config), POSE)
    assert {pair["overlap"] for pair in found} == {1.0}  # a camera sees one half at all times
    boxes = np.array(video["box"].to_pylist())
    found = of_kind(mine(video, config), POSE)
    overlaps = [iou(boxes[pair["a"]], boxes[pair["b"]]) for pair in found]
    assert [pair["overlap"] for pair in found] == pytest.approx(overlaps) and max(overlaps) < 1


def test_no_frames_and_lone_frames(records):
    assert mine(FRAME_SCHEMA.empty_table(), ALL).num_rows == 0
    assert mine(table(records[:1]), ALL).num_rows == 0
    none = PairsConfig(max_view_per_moment=0, max_pose_per_frame=0)
    assert mine(table(records), none).num_rows == 0


def test_pose_distance_is_of_common_joints_and_blind_to_place():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(3, 24, 3))
    b = a + np.array([0.5, 0, -0.2])
    assert np.allclose(pose_distances("joints3d", a.reshape(3, -1), b.reshape(3, -1)), 0)
    b[1, :21] = np.nan  # three joints in common say nothing
    b[2, 0] += 24.0
    distances = pose_distances("joints3d", a.reshape(3, -1), b.reshape(3, -1))
    assert distances[0] < 1e-9 and np.isnan(distances[1]) and distances[2] > 1


def test_covisibility_counts_surface_cells():
    u = np.tile(np.linspace(0, 1, 64), (64, 1))
    surface, everywhere = np.stack([u, u.T]), np.ones((64, 64), np.uint8)
    left = everywhere.copy()
    left[:, 32:] = 0
    cells = [
        np.frombuffer(surface_cells(parts, surface), np.uint8)[None] for parts in (everywhere, left)
    ]
    assert covisibility(cells[0], cells[0]).item() == 1
    assert np.isclose(covisibility(*cells).item(), 0.5, atol=0.02)
    assert surface_cells(everywhere * 0, surface) is None


def test_view_weight():
    assert np.allclose(view_weight(np.array([0, 60, 90])), [0, 1, 0])


@pytest.mark.parametrize(
    "change",
    [
        {"view_angle_deg": (10, 120)},
        {"view_angle_deg": (40, 40)},
        {"time_gap_s": (0, 3)},
        {"time_gap_s": (0.2, float("inf"))},
        {"pose_distance": (0.5, 0.1)},
        {"silhouette_distance": (-0.1, 0.1)},
        {"min_view_overlap": 1.5},
        {"max_per_subject": 0},
        {"max_per_sequence": -3},
        {"max_per_camera_pair": 0},
    ],
)
def test_impossible_configs(change: dict):
    with pytest.raises(ValueError, match=f"{next(iter(change))} must"):
        PairsConfig(**change)
