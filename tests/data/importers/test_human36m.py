"""Human3.6M's frames with the JSON annotation that most people have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpse_dist.data.importers import human36m
from hpse_dist.data.importers.human36m import Human36mConfig
from hpse_dist.records import FrameRecord, Reject
from tests.data.importers import made_people as made

WHERE = "s_09_act_02_subact_01"


def camera(place: int) -> dict[str, Any]:
    rotation, translation = made.camera(place)
    focal, middle = np.diag(made.MATRIX)[:2], made.MATRIX[:2, 2]
    return {
        "R": rotation.tolist(),
        "t": (1000 * translation).tolist(),
        "f": focal.tolist(),
        "c": middle.tolist(),
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "annotations"
    folder.mkdir()
    cameras = {str(place + 1): camera(place) for place in range(2)}
    (folder / "Human36M_subject9_camera.json").write_text(json.dumps(cameras))
    moments = {str(i): (1000 * made.person(17, i)).tolist() for i in range(3)}
    (folder / "Human36M_subject9_joint_3d.json").write_text(json.dumps({"2": {"1": moments}}))
    for i in range(3):
        for place in range(2):
            name = f"{WHERE}_ca_{place + 1:02d}"
            pixels = made.project(made.person(17, i), *made.camera(place))
            made.save(tmp_path / "images" / name / f"{name}_{i + 1:06d}.jpg", made.picture(pixels))
    return tmp_path


def read(root: Path, **changes: Any) -> list[FrameRecord | Reject]:
    given = {"subjects": (9,), "cameras": (1, 2), "every": 2, **changes}
    return list(human36m.frames(Human36mConfig(root, **given)))


def test_joints_sit_on_the_person_and_cameras_pair(root: Path) -> None:
    records = read(root)
    people = [record for record in records if isinstance(record, FrameRecord)]
    assert len(people) == len(records) == 4
    for record in people:
        made.check(record)
    assert [(p.camera, p.time, p.split) for p in people[1:3]] == [
        ("ca_02", 0.0, "test"),
        ("ca_01", 0.04, "test"),
    ]
    angles = made.view_pairs(people)
    assert len(angles) == 2 and all(40 < angle < 60 for angle in angles)


def test_a_camera_given_by_its_place_sees_the_same(root: Path) -> None:
    path = root / "annotations" / "Human36M_subject9_camera.json"
    cameras = json.loads(path.read_text())
    for entry in cameras.values():
        entry["t"] = (-np.array(entry["R"]).T @ entry["t"]).tolist()  # as h36m2coco.py writes it
    path.write_text(json.dumps(cameras))
    people = [record for record in read(root) if isinstance(record, FrameRecord)]
    assert len(people) == 4
    for record in people:
        made.check(record)
    cameras["1"]["t"] = [4000, 0, 0]  # on the floor, not at a wall
    cameras["1"]["R"] = np.diag([1, -1, -1]).tolist()
    path.write_text(json.dumps(cameras))
    (reject,) = read(root)
    assert isinstance(reject, Reject) and "camera 1, t is neither" in reject.reason


def test_broken_records_are_rejected(root: Path) -> None:
    name = f"{WHERE}_ca_02"
    (root / "images" / name / f"{name}_000001.jpg").unlink()
    path = root / "annotations" / "Human36M_subject9_joint_3d.json"
    content = json.loads(path.read_text())
    content["2"]["1"]["2"] = [[1, 2]] * 17
    content["2"]["../2"] = {"0": []}
    path.write_text(json.dumps(content))
    reasons = [(r.source, r.reason) for r in read(root) if isinstance(r, Reject)]
    assert (f"{WHERE}_ca_02, frame 0", f"no picture {name}_000001.jpg") in reasons
    assert (f"{WHERE}, frame 2", "the joints has 17 x 2 numbers, not 17 x 3") in reasons
    path.write_text("[]")
    (reject,) = read(root)
    assert isinstance(reject, Reject) and "no table by number" in reject.reason


def test_what_is_missing_is_named(root: Path) -> None:
    with pytest.raises(ValueError, match=r"Human36M_subject1_camera\.json: .*POSENET_RELEASE"):
        read(root, subjects=(1,))
