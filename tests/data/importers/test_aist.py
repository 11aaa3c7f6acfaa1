"""AIST++'s layout: a dance, its setting of cameras, one video for each."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from hpse_dist.data.importers import aist
from hpse_dist.data.importers.aist import AistConfig
from hpse_dist.records import FrameRecord, Reject
from tests.data.importers import made_people as made

DANCE = "gBR_sBM_cAll_d04_mBR0_ch01"
LENS = np.array([-0.2, 0.05, 0.001, -0.001, 0.0])
FRAMES = 3


def bent(frame: int, place: int) -> np.ndarray:
    rotation, translation = made.camera(place)
    turn = cv2.Rodrigues(rotation)[0]
    joints = made.person(17, frame)[: 16 if frame == 2 else 17]
    return made.picture(cv2.projectPoints(joints, turn, translation, made.MATRIX, LENS)[0][:, 0])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "annotations"
    (folder / "cameras").mkdir(parents=True)
    (folder / "keypoints3d").mkdir()
    cameras = []
    for place in range(2):
        rotation, translation = made.camera(place)
        cameras.append(
            {
                "name": f"c{place + 1:02d}",
                "size": list(made.SIZE),
                "matrix": made.MATRIX.tolist(),
                "rotation": cv2.Rodrigues(rotation)[0][:, 0].tolist(),
                "translation": (100 * translation).tolist(),
                "distortions": LENS.tolist(),
            }
        )
        images = [bent(i, place) for i in range(FRAMES)]
        name = DANCE.replace("cAll", f"c{place + 1:02d}")
        made.film(tmp_path / "videos" / f"{name}.mp4", images, 60)
    (folder / "cameras" / "setting1.json").write_text(json.dumps(cameras))
    (folder / "cameras" / "mapping.txt").write_text(f"{DANCE} setting1\nother ../setting1\n")
    joints = np.stack([100 * made.person(17, i) for i in range(FRAMES)])
    joints[2, 16] = np.nan
    content = {"keypoints3d": np.zeros((FRAMES, 17, 3)), "keypoints3d_optim": joints}
    (folder / "keypoints3d" / f"{DANCE}.pkl").write_bytes(pickle.dumps(content))
    return tmp_path


def read(root: Path, **changes: Any) -> list[FrameRecord | Reject]:
    return list(aist.frames(AistConfig(root, **{"every": 2, **changes})))


def test_joints_sit_on_the_dancer_and_cameras_pair(root: Path) -> None:
    records = read(root)
    people = [record for record in records if isinstance(record, FrameRecord)]
    assert len(people) == len(records) == 4
    for record in people:
        made.check(record)
    assert [(p.subject, p.camera, p.time) for p in people[1:3]] == [
        ("d04", "c02", 0.0),
        ("d04", "c01", 2 / 60),
    ]
    assert people[2].labels["joints3d"][16, 3] == 0
    angles = made.view_pairs(people)
    assert len(angles) == 2 and all(40 < angle < 60 for angle in angles)


def test_joints_lie_in_the_middle_of_what_they_mark(root: Path) -> None:
    people = [record for record in read(root) if isinstance(record, FrameRecord)]
    beside = np.concatenate([made.apart(record) for record in people])
    assert np.abs(np.median(beside, axis=0)).max() < 0.2


def test_broken_and_ignored_dances_are_rejected(root: Path) -> None:
    folder = root / "annotations"
    (folder / "ignore_list.txt").write_text(f"{DANCE}\n")
    (folder / "keypoints3d" / "a.pkl").write_bytes(b"cos\nsystem\n(S'touch hurt'\ntR.")
    (folder / "keypoints3d" / "other.pkl").write_bytes(pickle.dumps({}))
    (folder / "cameras" / "mapping.txt").write_text("a setting1\nother ../setting1\n")
    reasons = {r.source: r.reason for r in read(root) if isinstance(r, Reject)}
    assert "os.system" in reasons["a"] and "ignore_list" in reasons[DANCE]
    assert reasons["other"] == "cameras/mapping.txt names no setting for other"


def test_a_missing_video_is_a_reject_and_missing_cameras_are_named(root: Path) -> None:
    name = DANCE.replace("cAll", "c02")
    (root / "videos" / f"{name}.mp4").unlink()
    rejects = [r.reason for r in read(root) if isinstance(r, Reject)]
    assert rejects == [f"no video {name}.mp4"]
    (root / "annotations" / "cameras" / "mapping.txt").unlink()
    with pytest.raises(ValueError, match=r"cameras/mapping.txt: .*annotations of AIST"):
        read(root)
