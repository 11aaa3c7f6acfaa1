"""SURREAL's layout: the mirror undone, joints, parts and bodies of the person in the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import scipy.io

from hpse_dist.body.joints import PART_NAMES, SMPL24, left_right_order
from hpse_dist.data.importers import surreal
from hpse_dist.data.importers.surreal import SurrealConfig
from hpse_dist.records import FrameRecord
from tests.data.importers import made_bodies as bodies
from tests.data.importers import made_people as made
from tests.data.importers.annotated import parted
from tests.fabricate import tiny_body_file

FRAMES, NAME = 3, "01_01_c0001"
EXTRINSIC = np.array([[0, 0, -1, -1.9293], [0, 1, 0, 0.9839], [-1, 0, 0, 6.7456]])
"""As SURREAL's own main.m prints it for a camera at CAMERA."""
CAMERA = np.array([6.7456, -0.9839, -1.9293])
INTRINSIC = np.array([[600.0, 0, 160], [0, 600, 120], [0, 0, 1]])
SWAP = np.array(left_right_order(SMPL24))


def rest(pelvis: np.ndarray | None = None) -> np.ndarray:
    """A resting skeleton that is its own mirror image."""
    found = bodies.rest()
    found = (found + found[SWAP] * [-1, 1, 1]) / 2
    return found if pelvis is None else found - found[0] + pelvis


def seen(world: np.ndarray) -> np.ndarray:
    """(J, 2) pixels, by the dataset's own matrices."""
    rays = np.column_stack([world, np.ones(len(world))]) @ EXTRINSIC.T @ INTRINSIC.T
    return rays[:, :2] / rays[:, 2:]


def clip() -> dict[str, Any]:
    """What an _info.mat holds; SMPL's world has y up, the dataset's minus y."""
    poses = bodies.poses(FRAMES, 4)
    turn, joints = 0.7, []
    for pose in poses:
        root = (
            cv2.Rodrigues(np.array([np.pi / 2, 0, 0]))[0] @ cv2.Rodrigues(np.array([0, 0, turn]))[0]
        )
        turned = pose.copy()
        turned[:3] = cv2.Rodrigues(root @ cv2.Rodrigues(pose[:3])[0])[0][:, 0]
        places = bodies.joints(turned, rest(), np.array([-0.9, -0.95, -1.6]))
        joints.append(places)
    places = np.stack(joints)
    return {
        "pose": poses.T.astype(np.float32),
        "shape": np.tile(np.linspace(-1, 1, 10)[:, None], (1, FRAMES)),
        "joints3D": places.transpose(2, 1, 0),
        "joints2D": np.stack([seen(each).round() for each in places]).transpose(2, 1, 0),
        "gender": np.ones((FRAMES, 1), np.uint8),
        "zrot": np.full((FRAMES, 1), turn),
        "camLoc": CAMERA[:, None],
        "sequence": NAME,
    }


def write(root: Path, content: dict[str, Any], name: str = NAME, frames: int = FRAMES) -> Path:
    folder = root / "cmu" / "train" / "run0" / "01_01"
    folder.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(folder / f"{name}_info.mat", content)
    drawn = clip()["joints2D"]
    images = [made.picture(drawn[:, :, i].T) for i in range(frames)]
    made.film(folder / f"{name}.avi", images, 30)
    (folder / f"{name}.avi").rename(folder / f"{name}.mp4")  # OpenCV looks inside
    parts: np.ndarray = np.zeros((240, 320), np.uint8)
    parts[20:220, 40:280] = 1
    parts[100:120, 60:80] = 1 + SMPL24.index("left_elbow")
    scipy.io.savemat(folder / f"{name}_segm.mat", {f"segm_{i + 1}": parts for i in range(FRAMES)})
    return root


def read(root: Path, **changes: Any) -> tuple[list[FrameRecord], dict[str, str]]:
    given = {"splits": ("train",), "every": 1, **changes}
    return parted(surreal.frames(SurrealConfig(root, **given)))


def test_the_matrices_are_those_of_the_datasets_own_script() -> None:
    assert seen(np.array([[-0.8645, -1.0915, -1.0260]])).round().tolist() == [[89, 112]]


def test_joints_are_on_the_right_side_of_the_person_in_the_picture(tmp_path: Path) -> None:
    people, rejects = read(write(tmp_path, clip()))
    assert len(people) == FRAMES and not rejects
    for i, person in enumerate(people):
        made.check(person)
        given = clip()["joints2D"][:, :, i].T
        assert np.abs(person.labels["joints2d"][SWAP, :2] - given).max() <= 0.5
        assert np.linalg.det(person.rotation) == pytest.approx(1)
    assert people[0].subject == "run0/01_01_c0001/male" and people[0].split == "train"


def test_parts_are_ours_and_mirrored(tmp_path: Path) -> None:
    people, _ = read(write(tmp_path, clip()))
    parts = people[0].labels["part_map"]
    assert parts[110, 70] == PART_NAMES.index("right_lower_arm")  # the file says left
    assert parts[30, 50] == PART_NAMES.index("torso") and parts[0, 0] == 0
    assert people[0].mask is not None and (people[0].mask == (parts > 0)).all()
    bare = read(tmp_path, parts=False)[0][0]
    assert bare.mask is None and "part_map" not in bare.labels


def test_the_body_stands_in_the_camera_where_its_joints_are(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    file = tiny_body_file(folder)
    for gender in ("MALE", "FEMALE"):
        (folder / f"SMPL_{gender}.npz").write_bytes(file.read_bytes())
    people, _ = read(write(tmp_path, clip()), body=folder)
    labels = people[1].labels
    pose = np.concatenate([labels["global_orient"], labels["body_pose"]])
    pelvis = labels["joints3d"][0, :3] - labels["transl"]  # where this body file has it
    found = bodies.joints(pose, rest(pelvis), labels["transl"])
    assert np.abs(found - labels["joints3d"][:, :3]).max() < 1e-5
    assert "betas" in labels and "betas" not in read(tmp_path)[0][0].labels


def test_broken_clips_and_frames_are_rejects(tmp_path: Path) -> None:
    content = clip()
    content["joints2D"][0, 5, 1] += 9
    root = write(tmp_path, content, frames=FRAMES - 1)
    short = {key: value for key, value in clip().items() if key != "camLoc"}
    for name, bad in {
        "01_01_c0002": short,
        "01_01_c0003": {**clip(), "joints3D": np.ones((3, 24))},
        "01_01_c0004": {**clip(), "pose": np.ones((3, 3))},
        "01_01_c0005": {**clip(), "shape": {"a": 1.0}},
        "01_01_c0006": {**clip(), "gender": {"a": 1.0}},
    }.items():
        write(root, bad, name)
    people, rejects = read(root)
    assert len(people) == 1
    assert "do not project onto" in rejects["train/run0/01_01_c0001, frame 1"]
    assert "the video ends" in rejects["train/run0/01_01_c0001, frame 2"]
    assert "lacks camLoc" in rejects["train/run0/01_01_c0002_info.mat"]
    assert "joints3D" in rejects["train/run0/01_01_c0003_info.mat"]
    assert "pose has shape" in rejects["train/run0/01_01_c0004_info.mat"]
    assert "shape holds what is not" in rejects["train/run0/01_01_c0005_info.mat"]
    assert "gender holds what is not" in rejects["train/run0/01_01_c0006_info.mat"]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cmu/train/run0: SURREAL's folder is missing; get SURR"):
        read(tmp_path)
    folder = write(tmp_path, clip()) / "cmu" / "train" / "run0" / "01_01"
    (folder / f"{NAME}_segm.mat").unlink()
    with pytest.raises(ValueError, match=r"c0001_segm\.mat: .* or set source\.parts to false"):
        read(tmp_path)
    (folder / f"{NAME}.mp4").unlink()
    with pytest.raises(ValueError, match=r"c0001\.mp4: SURREAL's video is missing"):
        read(tmp_path, parts=False)
    with pytest.raises(ValueError, match="val is some of test"):
        SurrealConfig(tmp_path, splits=("val", "test"))
