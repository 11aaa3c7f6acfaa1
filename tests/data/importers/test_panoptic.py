"""CMU Panoptic's layout: bent pictures are straightened, moments are seen by several cameras."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from hpse_dist.data.importers import panoptic
from hpse_dist.data.importers.panoptic import PanopticConfig
from hpse_dist.records import FrameRecord, Reject
from tests.data.importers import made_people as made

CAMERAS = ("00_00", "00_12")
LENS = np.array([-0.25, 0.12, 0.001, -0.002, 0.02])
NAME = "171204_pose1"


def cameras() -> dict[str, Any]:
    entries = []
    for place, name in enumerate(CAMERAS):
        rotation, translation = made.camera(place)
        entries.append(
            {
                "name": name,
                "type": "hd",
                "resolution": list(made.SIZE),
                "panel": 0,
                "node": place,
                "K": made.MATRIX.tolist(),
                "distCoef": LENS.tolist(),
                "R": rotation.tolist(),
                "t": [[100 * value] for value in translation.tolist()],
            }
        )
    return {"calibDataSource": "made", "cameras": entries}


def scene(frame: int) -> dict[str, Any]:
    """Two people, the second without a right ear."""
    bodies = []
    for person in range(2):
        joints = np.column_stack([100 * made.person(19, 7 * frame + person), np.full(19, 0.6)])
        joints[18, 3] = -1 if person else 0.6
        bodies.append({"id": person, "joints19": joints.ravel().tolist()})
    return {"version": 0.7, "univTime": 1.0, "fpsType": "hd_29_97", "bodies": bodies}


def bent(frame: int, place: int) -> np.ndarray:
    """The lens's picture of everybody's known joints."""
    people = [made.person(19, 7 * frame), made.person(19, 7 * frame + 1)[:18]]
    rotation, translation = made.camera(place)
    spots, _ = cv2.projectPoints(
        np.concatenate(people), cv2.Rodrigues(rotation)[0], translation, made.MATRIX, LENS
    )
    return made.picture(spots[:, 0])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / NAME
    (folder / "hdPose3d_stage1_coco19").mkdir(parents=True)
    (folder / f"calibration_{NAME}.json").write_text(json.dumps(cameras()))
    for frame in (2, 3, 4):
        path = folder / "hdPose3d_stage1_coco19" / f"body3DScene_{frame:08d}.json"
        path.write_text(json.dumps(scene(frame)))
        for place, name in enumerate(CAMERAS):
            path = folder / "hdImgs" / name / f"{name}_{frame:08d}.jpg"
            made.save(path, bent(frame, place))
    return tmp_path


def read(root: Path, **changes: Any) -> list[FrameRecord | Reject]:
    given = {"cameras": CAMERAS, "every": 2, **changes}
    return list(panoptic.frames(PanopticConfig(root, **given)))


def test_joints_sit_on_straightened_pictures(root: Path) -> None:
    records = read(root)
    assert len(records) == 8
    for record in records:
        assert isinstance(record, FrameRecord)
        made.check(record)
        known = record.labels["joints3d"][:, 3] > 0
        assert known.sum() == (18 if record.subject.endswith("/1") else 19)
    order = [(r.subject, r.camera) for r in records[:4]]  # type: ignore[union-attr]
    assert order == [(f"{NAME}/{p}", camera) for p in range(2) for camera in CAMERAS]


def test_joints_lie_in_the_middle_of_what_they_mark(root: Path) -> None:
    """OpenCV's cameras count from the first pixel's middle, records from its corner."""
    records = [record for record in read(root) if isinstance(record, FrameRecord)]
    beside = np.concatenate([made.apart(record) for record in records])
    assert np.abs(np.median(beside, axis=0)).max() < 0.2


def test_two_cameras_of_a_moment_make_a_view_pair(root: Path) -> None:
    angles = made.view_pairs([r for r in read(root) if isinstance(r, FrameRecord)])
    assert len(angles) == 4 and all(40 < angle < 60 for angle in angles)


def test_a_broken_scene_and_a_missing_picture_are_rejects(root: Path) -> None:
    folder = root / NAME
    (folder / "hdImgs" / "00_12" / "00_12_00000002.jpg").unlink()
    path = folder / "hdPose3d_stage1_coco19" / "body3DScene_00000004.json"
    path.write_text(json.dumps({"bodies": [{"id": 0, "joints19": ["a"] * 76}]}))
    records = read(root)
    rejects = [(r.source, r.reason) for r in records if isinstance(r, Reject)]
    assert len(records) == 5 and len(rejects) == 3
    assert rejects[0][0] == f"{NAME}, camera 00_12, frame 2, person 0"
    assert "joints19 holds what is not a number" in rejects[2][1]
    calibration = folder / f"calibration_{NAME}.json"
    calibration.write_text('{"cameras": [{"name": ["00_05"]}, {"name": {}}]}')
    (reject,) = read(root)
    assert isinstance(reject, Reject) and reject.reason == "it has no camera 00_00, 00_12"
    calibration.write_text('{"cameras": 3}')
    (reject,) = read(root)
    assert isinstance(reject, Reject) and reject.reason == "it has no list of cameras"


def test_what_is_missing_is_named(root: Path) -> None:
    with pytest.raises(ValueError, match=r"hdVideos/hd_00_05.mp4: .*video is missing"):
        doubled = cameras()
        doubled["cameras"].append({**doubled["cameras"][0], "name": "00_05"})
        (root / NAME / f"calibration_{NAME}.json").write_text(json.dumps(doubled))
        read(root, cameras=("00_05",))
    (root / NAME / f"calibration_{NAME}.json").unlink()
    with pytest.raises(ValueError, match=rf"calibration_{NAME}.json: .*getData\.sh"):
        read(root)
    with pytest.raises(ValueError, match="no name of a camera or sequence"):
        PanopticConfig(root, sequences=("../other",))
