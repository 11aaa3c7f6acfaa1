"""The account of how 3D joints, cameras and 2D joints agree, and what it warns of."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hpse_dist.data.collection import Collection, CollectionConfig, write_collection
from hpse_dist.data.reprojection import sentences
from hpse_dist.data.sheets import frame_sheet
from hpse_dist.records import FrameRecord
from pipelines.prepare import summary
from tests.data import made_rig
from tests.data.plain_shards import plain_shards  # noqa: F401  a fixture

pytestmark = pytest.mark.usefixtures("plain_shards")
PROVENANCE = dataclasses.replace(made_rig.PROVENANCE, joint_set="smpl24")


def write(folder: Path, change: Any = lambda record: None) -> Collection:
    records: list[FrameRecord] = list(made_rig.frames(subjects=1, moments=2, cameras=3))
    for record in records:
        change(record)
    config = CollectionConfig(crop_px=64, label_px=16, min_side_px=20)
    return write_collection(folder, records, config, PROVENANCE)


def noise(record: FrameRecord) -> None:
    record.labels["joints2d"] = record.labels["joints2d"] + [0.3, 0.4, 0]


def mirrored(record: FrameRecord) -> None:
    record.labels["joints3d"] = record.labels["joints3d"] * [-1, 1, 1, 1]


def wrong_focal_length(record: FrameRecord) -> None:
    assert record.intrinsics is not None
    record.intrinsics = record.intrinsics * [[1.3, 1, 1], [1, 1.3, 1], [1, 1, 1]]


def millimetres(record: FrameRecord) -> None:
    record.labels["joints3d"] = record.labels["joints3d"] * [1000, 1000, 1000, 1]


def test_good_labels_are_accounted_for_and_pass(tmp_path: Path) -> None:
    made = write(tmp_path / "made", noise)
    account = made.manifest["reprojection"]
    assert account["frames"] == made.num_frames == 6
    assert account["median_px"] == pytest.approx(0.5, abs=1e-3) and 0.5 < account["size_m"] < 2.5
    lines = summary(made)
    assert any("3D joints project 0.50 px (median" in line for line in lines)
    assert not any("warning" in line for line in lines)
    exact = sentences(write(tmp_path / "exact").manifest)
    assert (
        exact[0].startswith("2D joints lie exactly where the 3D ones project") and len(exact) == 2
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (mirrored, "of the crop apart: the camera"),
        (wrong_focal_length, "of the crop apart: the camera"),
        (millimetres, "are not in metres"),
    ],
)
def test_wrong_calibration_is_warned_of(tmp_path: Path, change: Any, said: str) -> None:
    lines = summary(write(tmp_path / "made", change))
    assert [line for line in lines if line.startswith("warning") and said in line]


def test_no_joints_in_space_no_account(tmp_path: Path) -> None:
    def flat(record: FrameRecord) -> None:
        del record.labels["joints3d"]

    made = write(tmp_path / "made", flat)
    assert made.manifest["reprojection"] is None and sentences(made.manifest) == []
    del made.manifest["reprojection"]  # a collection of before
    assert sentences(made.manifest) == []


def test_the_sheet_shows_rings_where_3d_joints_project(tmp_path: Path) -> None:
    def greens(sheet: Image.Image) -> int:
        return int((np.asarray(sheet) == [90, 255, 90]).all(axis=2).sum())

    def flat(record: FrameRecord) -> None:
        del record.labels["joints3d"]

    assert greens(frame_sheet(write(tmp_path / "flat", flat))) == 0
    right, wrong = (
        np.asarray(frame_sheet(write(tmp_path / name, change)))
        for name, change in (("made", noise), ("wrong", wrong_focal_length))
    )
    assert greens(Image.fromarray(right)) > 6 * 24 * 8  # a ring has some twenty pixels
    assert (right != wrong).any()
