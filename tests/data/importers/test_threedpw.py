"""3DPW's layout: SMPL bodies of the world in the camera's frame, rejects and missing files."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from hpse_dist.data.importers import threedpw
from hpse_dist.data.importers.threedpw import ThreeDPWConfig
from hpse_dist.records import FrameRecord, Reject
from tests.data.importers import made_people as made

FRAMES, PEOPLE = 4, 2


def sequence() -> dict[str, Any]:
    """What a <sequence>.pkl holds: two people, four frames, a camera that moves."""
    random = np.random.default_rng(1)
    cameras = np.tile(np.eye(4), (FRAMES, 1, 1))
    for i in range(FRAMES):
        cameras[i, :3, :3], cameras[i, :3, 3] = made.camera(i)
    joints = [np.stack([made.person(24, 10 * p + i) for i in range(FRAMES)]) for p in range(PEOPLE)]
    poses2d = [np.ones((FRAMES, 3, 18)) for _ in range(PEOPLE)]
    poses2d[1][2, 2, 5:] = 0  # five joints found: hidden
    valid = [np.ones(FRAMES, bool) for _ in range(PEOPLE)]
    valid[1][3] = False
    return {
        "sequence": "street_00",
        "jointPositions": [each.reshape(FRAMES, 72) for each in joints],
        "poses": [random.normal(size=(FRAMES, 72)) for _ in range(PEOPLE)],
        "betas": [random.normal(size=10) for _ in range(PEOPLE)],
        "trans": [each[:, 0] - random.normal(size=3) for each in joints],
        "genders": ["m", "f"],
        "campose_valid": valid,
        "poses2d": poses2d,
        "cam_poses": cameras,
        "cam_intrinsics": made.MATRIX,
        "texture_maps": [],
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    content = sequence()
    folder = tmp_path / "sequenceFiles" / "validation"
    folder.mkdir(parents=True)
    (folder / "street_00.pkl").write_bytes(pickle.dumps(content, protocol=2))
    for i in range(FRAMES):
        camera = content["cam_poses"][i]
        places = np.concatenate([each[i].reshape(24, 3) for each in content["jointPositions"]])
        pixels = made.project(places, camera[:3, :3], camera[:3, 3])
        name = f"image_{i:05d}.jpg"
        made.save(tmp_path / "imageFiles" / "street_00" / name, made.picture(pixels))
    return tmp_path


def read(root: Path, **changes: Any) -> list[FrameRecord | Reject]:
    return list(threedpw.frames(ThreeDPWConfig(root, splits=("validation",), **changes)))


def test_joints_sit_on_the_people_and_hidden_ones_are_rejected(root: Path) -> None:
    records = read(root)
    people = [record for record in records if isinstance(record, FrameRecord)]
    for record in people:
        made.check(record)
    assert [(p.subject, p.time * 30) for p in people][:3] == [
        ("street_00/0/m", 0.0),
        ("street_00/1/f", 0.0),
        ("street_00/0/m", 1.0),
    ]
    assert {p.split for p in people} == {"val"} and len(people) == 6
    rejects = [record for record in records if isinstance(record, Reject)]
    assert ["poses2d" in r.reason or "campose_valid" in r.reason for r in rejects] == [True, True]
    assert len(read(root, detected_only=False)) - 1 == len(people) + 1
    assert threedpw.provenance(ThreeDPWConfig(root)).joint_set == "smpl24"


def test_the_body_stands_in_the_camera_as_it_did_in_the_world(root: Path) -> None:
    content = sequence()
    record = read(root)[1]
    assert isinstance(record, FrameRecord)
    rest = content["jointPositions"][1][0][:3] - content["trans"][1][0]
    points = np.random.default_rng(2).normal(size=(5, 3))  # of the unposed body

    def posed(orient: np.ndarray, transl: np.ndarray) -> np.ndarray:
        return (points - rest) @ cv2.Rodrigues(orient)[0].T + rest + transl

    world = posed(content["poses"][1][0, :3], content["trans"][1][0])
    camera = content["cam_poses"][0]
    expected = world @ camera[:3, :3].T + camera[:3, 3]
    labels = record.labels
    assert np.allclose(posed(labels["global_orient"], labels["transl"]), expected, atol=1e-6)
    assert np.array_equal(labels["body_pose"], content["poses"][1][0, 3:])
    bodiless = read(root, body=False)[1]
    assert isinstance(bodiless, FrameRecord) and "betas" not in bodiless.labels


def test_two_people_may_have_shapes_of_10_and_of_300_numbers(root: Path) -> None:
    path, content = root / "sequenceFiles" / "validation" / "street_00.pkl", sequence()
    content["betas"][1] = np.random.default_rng(3).normal(size=300)
    path.write_bytes(pickle.dumps(content, protocol=2))
    people = [record for record in read(root) if isinstance(record, FrameRecord)]
    assert len(people) == 6
    for person, betas in zip(people[:2], content["betas"], strict=True):
        assert np.array_equal(person.labels["betas"], betas[:10])
    del content["betas"][1]
    path.write_bytes(pickle.dumps(content, protocol=2))
    (reject,) = read(root)
    assert isinstance(reject, Reject) and "no betas for each" in reject.reason


def test_broken_files_are_rejected_and_run_nothing(root: Path, tmp_path: Path) -> None:
    folder = root / "sequenceFiles" / "validation"
    (folder / "a_hostile.pkl").write_bytes(b"cos\nsystem\n(S'touch hurt'\ntR.")
    short = sequence()
    del short["cam_poses"]
    (folder / "b_short.pkl").write_bytes(pickle.dumps(short))
    (root / "imageFiles" / "street_00" / "image_00001.jpg").unlink()
    rejects = [record for record in read(root) if isinstance(record, Reject)]
    reasons = {reject.source: reject.reason for reject in rejects}
    assert "os.system" in reasons["validation/a_hostile.pkl"]
    assert reasons["validation/b_short.pkl"] == "lacks cam_poses"
    assert "no picture" in reasons["street_00/image_00001.jpg, person 0"]


def test_a_missing_folder_is_named(root: Path) -> None:
    config = ThreeDPWConfig(root, splits=("train",))
    with pytest.raises(ValueError, match=r"sequenceFiles/train: .*sequenceFiles\.zip"):
        list(threedpw.frames(config))
    with pytest.raises(ValueError, match="splits must be among train, validation, test"):
        ThreeDPWConfig(root, splits=("val",))
