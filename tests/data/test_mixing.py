"""Which collections go together in one batch, and which fields it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpse_dist.data.collection import Collection, CollectionConfig, write_collection
from hpse_dist.data.mixing import check_crops, check_joint_count, one_layout, provided_by
from tests.data import made_rig
from tests.data.plain_shards import plain_shards  # noqa: F401  a fixture

pytestmark = pytest.mark.usefixtures("plain_shards")


def made(folder: Path, *names: str, joints: int = 24, **changes: Any) -> Collection:
    """Two frames with these labels."""
    record = made_rig.frame(0, 0, 0.0, 0)
    labels = {name: record.labels[name] for name in names}
    if "joints2d" in labels:
        labels["joints2d"] = labels["joints2d"][:joints]
    record.labels = labels
    if not names:
        record.intrinsics = None
    config = CollectionConfig(
        **{"crop_px": 32, "label_px": 16, "min_side_px": 20, "image_mode": "raw"} | changes
    )
    return write_collection(folder, [record, record], config, made_rig.PROVENANCE)


def test_a_batch_has_what_all_have_and_what_a_row_can_say_it_lacks(tmp_path: Path) -> None:
    smpl = ("global_orient", "body_pose", "betas", "transl")
    body = made(tmp_path / "body", "joints2d", *smpl, "part_map", "uv_map")
    bare = made(tmp_path / "bare")
    alone = {*provided_by([body], pairs=False)}
    both = {*provided_by([body, bare], pairs=False)}
    flagged = {"joints2d", *smpl, "has_body", "part_map", "uv_map", "has_parts"}
    assert flagged < both and alone - both == {"intrinsics"}, "nothing says that it lacks these"
    assert "has_hand" not in both
    pairs = {*provided_by([body, bare], pairs=True)}
    assert pairs - both == {"image_ref", "pair_kind", "pair_weight"}


def test_pictures_and_labels_of_two_sizes_do_not_mix(tmp_path: Path) -> None:
    one, bare = made(tmp_path / "one", "joints2d"), made(tmp_path / "bare")
    few = made(tmp_path / "few", "joints2d", joints=17, crop_px=48)
    check_crops([one, bare])
    with pytest.raises(ValueError, match=r"few: its crops have 48 pixels, those of .*one 32; they"):
        check_crops([one, bare, few])
    assert one_layout("joints2d", [bare, one]) == ((24, 3), np.dtype(np.float32))
    with pytest.raises(ValueError, match=r"joints2d has different shapes .* \(17, 3\) and \(24,"):
        one_layout("joints2d", [one, bare, few])
    check_joint_count(one, ["joints2d", "joints3d"], 24, "task.num_joints")
    check_joint_count(few, ["image"], 24, "task.num_joints")
    with pytest.raises(ValueError, match=r"few: joints2d has 17 joints and task\.num_joints is 24"):
        check_joint_count(few, ["joints2d"], 24, "task.num_joints")
