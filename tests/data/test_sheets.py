"""Contact sheets: the pictures asked for, drawn where the labels say."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hpse_dist.data.collection import Collection, CollectionConfig, write_collection
from hpse_dist.data.pairs import PairsConfig, write_pairs
from hpse_dist.data.sheets import TILE_PX, _pair_lines, _place, write_sheets
from tests.data import made_rig
from tests.data.plain_shards import plain_shards  # noqa: F401  a fixture

SHEETS = ["frames.png", "pairs_view.png", "pairs_pose.png", "pairs.png"]

pytestmark = pytest.mark.usefixtures("plain_shards")


def made(folder, pairs: PairsConfig, **frames) -> Collection:
    config = CollectionConfig(crop_px=64, label_px=16, min_side_px=20)
    records = made_rig.frames(subjects=2, moments=3, cameras=3, **frames)
    return write_pairs(write_collection(folder, records, config, made_rig.PROVENANCE), pairs)


def test_a_sheet_per_kind_and_one_of_frames(tmp_path):
    collection = made(tmp_path / "made", PairsConfig())
    paths = write_sheets(collection, count=6)
    assert [path.name for path in paths] == SHEETS
    for path in paths[:3]:
        sheet = np.asarray(Image.open(path))
        assert sheet.shape[1] > 6 * TILE_PX and sheet.shape[0] > 2 * TILE_PX  # 4 tiles, 2 rows
        tile = sheet[40 : 40 + TILE_PX, 10 : 10 + TILE_PX]
        assert tile.std() > 20  # a picture, not paper
    assert write_sheets(collection, count=6) == paths
    assert sorted(path.name for path in (tmp_path / "made").glob(".*")) == []


def test_no_labels_and_no_pairs_of_a_kind(tmp_path):
    collection = made(tmp_path / "made", PairsConfig(max_pose_per_frame=0), labels=False)
    paths = write_sheets(collection, tmp_path / "sheets", count=2)
    assert [path.name for path in paths] == ["frames.png", "pairs_view.png", "pairs.png"]


def test_the_spread_is_drawn_from_the_manifest(tmp_path):
    collection = made(tmp_path / "made", PairsConfig(max_view_per_moment=1))
    drawn = np.asarray(Image.open(write_sheets(collection, count=1)[-1]).convert("RGB"))
    blue, grey = (drawn == (0, 114, 178)).all(axis=2), (drawn == (196, 193, 186)).all(axis=2)
    assert blue.sum() > 500 and grey.sum() > 5000, "what is kept, before what there was"
    collection.manifest["pairs"].pop("spread")  # as mined by a program of before
    assert [path.name for path in write_sheets(collection, count=1)] == SHEETS[:3]


def test_other_pairs_make_the_sheets_stale(tmp_path):
    collection = made(tmp_path / "made", PairsConfig())
    write_sheets(collection)
    write_pairs(collection, PairsConfig())
    assert (collection.folder / "sheets").is_dir()
    write_pairs(collection, PairsConfig(seed=1))
    assert not (collection.folder / "sheets").exists()


def test_the_measures_are_written_on_a_pair():
    a = {"subject": "s1", "track": "", "camera": "cam0", "time": 1.5}
    b = {**a, "camera": "cam2"}
    pair = {"kind": 0, "angle_deg": 42.4, "time_gap_s": 0.0, "pose_distance": 0.1, "overlap": 0.5}
    assert _pair_lines(pair, a, b) == ["angle 42°, overlap 0.50", "s1 cam0 | cam2, 1.50 s"]
    pair = {**pair, "kind": 1, "time_gap_s": 0.61, "overlap": None}
    later = {**a, "time": 2.11}
    hard = {**pair, "difficulty": 0.344}
    assert _pair_lines(hard, a, later)[0] == "time gap 0.61 s, pose 0.10, hard 0.34"
    assert _pair_lines(pair, a, later) == ["time gap 0.61 s, pose 0.10", "s1 1.50 s | 2.11 s, cam0"]


def test_a_kind_without_candidates_takes_no_room(tmp_path):
    both = made(tmp_path / "both", PairsConfig())
    view = made(tmp_path / "view", PairsConfig(max_pose_per_frame=0))
    heights = [len(np.asarray(Image.open(write_sheets(one, count=1)[-1]))) for one in (both, view)]
    assert heights[1] < 0.6 * heights[0]
    none = made(tmp_path / "none", PairsConfig(max_pose_per_frame=0, max_view_per_moment=0))
    assert [path.name for path in write_sheets(none, count=1)] == ["frames.png"]


def test_captions_of_frames_that_nobody_knows_begin_at_the_left() -> None:
    unknown = {"subject": "", "track": None, "camera": "", "time": 0.0}
    assert _place(unknown) == "0.00 s"
    assert _place(unknown | {"track": "a/0", "time": 1.5}) == "a/0 1.50 s"
