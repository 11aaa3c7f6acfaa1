"""EMDB's layout: 3D joints found without a body model, bodies in the camera, rejects."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpse_dist.data.importers import emdb
from hpse_dist.data.importers.emdb import EmdbConfig
from hpse_dist.records import FrameRecord
from tests.data.importers import made_bodies as bodies
from tests.data.importers import made_people as made
from tests.data.importers.annotated import parted

FRAMES = 12
REST = bodies.rest()


def sequence() -> dict[str, Any]:
    """What a P0_<sequence>_data.pkl holds; the last frame's person is out of sight."""
    random = np.random.default_rng(3)
    poses = bodies.poses(FRAMES, 3)
    trans = random.uniform((-0.4, -0.4, 0.8), (0.4, 0.4, 1.3), (FRAMES, 3))
    cameras = np.tile(np.eye(4), (FRAMES, 1, 1))
    pixels = np.zeros((FRAMES, 24, 2))
    for i in range(FRAMES):
        turn, move = made.camera(i % 4)
        cameras[i, :3, :3], cameras[i, :3, 3] = turn, move
        pixels[i] = made.project(bodies.joints(poses[i], REST, trans[i]), turn, move)
    boxes = np.concatenate([pixels.min(axis=1) - 9, pixels.max(axis=1) + 9], axis=1)
    return {
        "gender": "female",
        "name": "P0_00_walk",
        "emdb1": True,
        "emdb2": np.bool_(False),
        "n_frames": FRAMES,
        "good_frames_mask": np.arange(FRAMES) < FRAMES - 1,
        "camera": {"intrinsics": made.MATRIX, "extrinsics": cameras, "width": 320, "height": 240},
        "smpl": {
            "poses_root": poses[:, :3],
            "poses_body": poses[:, 3:].astype(np.float32),
            "trans": trans,
            "betas": random.normal(size=10),
        },
        "kp2d": pixels,
        "bboxes": {"bboxes": boxes, "invalid_idxs": np.array([FRAMES - 1])},
    }


def write(root: Path, content: dict[str, Any], name: str = "00_walk") -> Path:
    folder = root / "P0" / name
    for i, pixels in enumerate(sequence()["kp2d"]):
        made.save(folder / "images" / f"{i:05d}.jpg", made.picture(pixels))
    (folder / f"P0_{name}_data.pkl").write_bytes(pickle.dumps(content))
    return root


def read(root: Path, **changes: Any) -> tuple[list[FrameRecord], dict[str, str]]:
    return parted(emdb.frames(EmdbConfig(root, **changes)))


def test_joints_sit_on_the_person_and_in_space(tmp_path: Path) -> None:
    content = sequence()
    people, rejects = read(write(tmp_path, content))
    assert len(people) == FRAMES - 1 and "not in sight" in rejects["P0/00_walk/images/00011.jpg"]
    for i, record in enumerate(people):
        made.check(record)
        world = bodies.joints(bodies.poses(FRAMES, 3)[i], REST, content["smpl"]["trans"][i])
        camera = content["camera"]["extrinsics"][i]
        expected = world @ camera[:3, :3].T + camera[:3, 3]
        assert np.abs(record.labels["joints3d"][:, :3] - expected).max() < 1e-4
        assert np.allclose(record.box, content["bboxes"]["bboxes"][i])
    assert {(p.subject, p.sequence, p.split) for p in people} == {
        ("P0/female", "P0/00_walk", "test")
    }
    assert len(read(tmp_path, every=4)[0]) == 3


def test_the_body_stands_in_the_camera_as_it_did_in_the_world(tmp_path: Path) -> None:
    people, _ = read(write(tmp_path, sequence()))
    labels = people[5].labels
    pose = np.concatenate([labels["global_orient"], labels["body_pose"]])
    found = bodies.joints(pose, REST, labels["transl"])
    assert np.abs(found - labels["joints3d"][:, :3]).max() < 1e-4
    assert labels["betas"].shape == (10,)
    assert "betas" not in read(tmp_path, body=False)[0][0].labels


def test_parts_are_chosen(tmp_path: Path) -> None:
    write(tmp_path, sequence())
    assert len(read(tmp_path, part="emdb1")[0]) == FRAMES - 1
    assert read(tmp_path, part="emdb2") == ([], {})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.pop("kp2d"), "lacks kp2d"),
        (lambda c: c["smpl"].pop("trans"), "lacks smpl/trans"),
        (lambda c: c.update(camera=7), "lacks camera/intrinsics, camera/extrinsics"),
        (lambda c: c.update(kp2d=c["kp2d"][:3]), "kp2d has 3 x 24 x 2 numbers"),
        (lambda c: c["smpl"].update(trans=c["smpl"]["trans"] * 1000), "px .median|behind"),
        (lambda c: c["good_frames_mask"].fill(False), "no frame in which the person"),
    ],
)
def test_a_broken_sequence_is_a_reject(tmp_path: Path, change: Any, reason: str) -> None:
    content = sequence()
    change(content)
    people, rejects = read(write(write(tmp_path, sequence()), content, "01_bad"))
    assert len(people) == FRAMES - 1
    said = rejects["P0/01_bad/P0_01_bad_data.pkl"]
    assert re.search(reason, said), said


def test_pickles_run_nothing_and_wrong_frames_are_rejected(tmp_path: Path) -> None:
    content = sequence()
    content["kp2d"][4] += 30
    root = write(tmp_path, content)
    (root / "P0" / "01_bad" / "images").mkdir(parents=True)
    hostile = root / "P0" / "01_bad" / "P0_01_bad_data.pkl"
    hostile.write_bytes(b"cos\nsystem\n(S'touch hurt'\ntR.")
    (root / "P0/00_walk/images/00002.jpg").unlink()
    people, rejects = read(root)
    assert len(people) == FRAMES - 3
    assert "os.system" in rejects["P0/01_bad/P0_01_bad_data.pkl"]
    assert "no picture" in rejects["P0/00_walk/images/00002.jpg"]
    assert "px from the body's" in rejects["P0/00_walk/images/00004.jpg"]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"_data\.pkl in it; ask for EMDB"):
        read(tmp_path)
    (write(tmp_path, sequence()) / "P0/00_walk/images").rename(tmp_path / "away")
    with pytest.raises(ValueError, match=r"00_walk/images: EMDB's folder of pictures is missing"):
        read(tmp_path)
