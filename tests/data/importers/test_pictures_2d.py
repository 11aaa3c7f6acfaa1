"""CrowdPose, AI Challenger, MPII, LSP, Penn Action and J-HMDB in their official layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from hpse_dist.data.importers import ai_challenger, crowdpose, jhmdb, lsp, mpii, penn_action
from tests.data.importers.annotated import (
    HEIGHT,
    WIDTH,
    parted,
    picture,
    places,
    triples,
    write_json,
)


def test_crowdpose(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "1.jpg")
    one = {"id": 5, "image_id": 1, "bbox": [30, 20, 150, 160], "iscrowd": 0}
    keypoints = triples(places(14), [2, 1, 0] + [2] * 11)
    people = [{**one, "keypoints": keypoints}, {**one, "keypoints": keypoints[:-1]}]
    images = [{"id": 1, "file_name": "1.jpg", "width": WIDTH, "height": HEIGHT}]
    content = {"images": images, "annotations": people}
    write_json(tmp_path / "json" / "crowdpose_val.json", content)
    config = crowdpose.Config(tmp_path, splits=("val",))
    (frame,), rejects = parted(crowdpose.frames(config))
    assert frame.labels["joints2d"][:3, 2].tolist() == [1, 1, 0] and frame.mask is None
    assert np.allclose(frame.labels["joints2d"][3:, :2], places(14)[3:] + 0.5)
    less = crowdpose.Config(tmp_path, splits=("val",), occluded_confidence=0.5)
    assert parted(crowdpose.frames(less))[0][0].labels["joints2d"][:3, 2].tolist() == [1, 0.5, 0]
    assert list(rejects.values()) == ["keypoints has 41 numbers, not 42"]
    with pytest.raises(ValueError, match=r"crowdpose_train\.json is missing; get CrowdPose's"):
        list(crowdpose.frames(crowdpose.Config(tmp_path)))


def test_ai_challenger(tmp_path: Path) -> None:
    folder = tmp_path / "ai_challenger_keypoint_train_20170909"
    picture(folder / "keypoint_train_images_20170902" / "ab.jpg")
    keypoints = triples(places(14), [1, 2, 3] + [1] * 11)
    about = {
        "image_id": "ab",
        "human_annotations": {"human1": [30, 20, 180, 180], "human2": [9, 9, 3, 3]},
        "keypoint_annotations": {"human1": keypoints, "human2": keypoints},
    }
    content = [about, {**about, "image_id": "../ab"}, 3]
    write_json(folder / "keypoint_train_annotations_20170909.json", content)
    config = ai_challenger.Config(tmp_path, splits=("train",))
    (frame,), rejects = parted(ai_challenger.frames(config))
    assert frame.box == (30, 20, 180, 180)
    assert frame.labels["joints2d"][:3, 2].tolist() == [1, 0.5, 0]
    assert np.allclose(frame.labels["joints2d"][3:, :2], places(14)[3:] + 0.5)
    assert len(rejects) == 3 and rejects["train/ab.jpg, human2"] == "the box is empty"
    assert any("leads out" in reason for reason in rejects.values())
    assert "it is no object" in rejects.values()
    with pytest.raises(ValueError, match=r"annotations_20170911\.json is missing; get AI"):
        list(ai_challenger.frames(ai_challenger.Config(tmp_path, splits=("val",))))


def write_lsp(root: Path, version: str) -> np.ndarray:
    """Two people's joints and one picture; returns the (14, 2) places of each."""
    xy = places(14)
    flag = np.array([0.0, 1.0] * 7)
    one = np.column_stack([xy + 1, flag])  # Matlab counts from 1
    both = np.stack([one, one])  # (2, 14, 3)
    order = (2, 1, 0) if version == "lsp" else (1, 2, 0)
    root.mkdir(exist_ok=True)
    savemat(root / "joints.mat", {"joints": both.transpose(order)})
    picture(root / "images" / ("im0001.jpg" if version == "lsp" else "im00001.jpg"))
    return xy


@pytest.mark.parametrize("version", ["lsp", "lspet"])
def test_lsp(tmp_path: Path, version: Any) -> None:
    xy = write_lsp(tmp_path, version)
    (frame,), rejects = parted(lsp.frames(lsp.Config(tmp_path, version)))
    joints = frame.labels["joints2d"]
    assert joints[:2, 2].tolist() == ([1, 0.5] if version == "lsp" else [0, 1])
    assert np.allclose(joints[1::2, :2], xy[1::2] + 0.5) and frame.split == "train"
    assert len(rejects) == 1 and "no picture 'im0" in next(iter(rejects.values()))
    other: Any = "lspet" if version == "lsp" else "lsp"
    with pytest.raises(ValueError, match=r"is source\.version"):
        list(lsp.frames(lsp.Config(tmp_path, other)))
    with pytest.raises(ValueError, match=r"joints\.mat is missing; get lsp_dataset"):
        list(lsp.frames(lsp.Config(tmp_path / "images")))


def structs(rows: list[dict[str, Any]]) -> np.ndarray:
    """A Matlab struct array."""
    made = np.empty((1, len(rows)), [(name, object) for name in rows[0]])
    for i, row in enumerate(rows):
        made[0, i] = tuple(row.values())
    return made


def write_mpii(root: Path) -> np.ndarray:
    """Two pictures of a video with one person each, one of them with a second who has no joints, a
    name that leads out, and a picture for testing. Returns the (16, 2) places, from 1."""
    xy = places(16) + 1
    points = structs(
        [
            {"x": x, "y": y, "id": i, "is_visible": [0, 1, np.zeros((0, 0))][min(i, 2)]}
            for i, (x, y) in enumerate(xy)
        ]
    )
    head = {"x1": 10, "y1": 12, "x2": 50, "y2": 60}
    good = {**head, "annopoints": structs([{"point": points}])}
    bad = {**head, "annopoints": np.zeros((0, 0))}
    rows = [
        {"image": structs([{"name": name}]), "annorect": people, "frame_sec": sec, "vididx": 3}
        for name, people, sec in [
            ("late.jpg", structs([good]), 9),
            ("early.jpg", structs([good, bad]), 4),
            ("../out.jpg", structs([good]), 5),
            ("test.jpg", structs([good]), 6),
        ]
    ]
    release = {"annolist": structs(rows), "img_train": np.array([[1, 1, 1, 0]])}
    savemat(root / mpii.FILE, {"RELEASE": release})
    for name in ("late.jpg", "early.jpg", "test.jpg"):
        picture(root / "images" / name)
    return xy


def test_mpii(tmp_path: Path) -> None:
    xy = write_mpii(tmp_path)
    frames, rejects = parted(mpii.frames(mpii.Config(tmp_path)))
    assert [(f.time, f.sequence) for f in frames] == [(4, "video 3"), (9, "video 3")]
    joints = frames[0].labels["joints2d"]
    assert joints[:3, 2].tolist() == [0.5, 1, 1] and np.allclose(joints[:, :2], xy - 0.5)
    assert frames[0].box[0] < 9.5 and frames[0].box[1] < 11.5
    assert any("leads out" in reason for reason in rejects.values())
    assert rejects["early.jpg, person 2"] == "no joint is labelled"
    with pytest.raises(ValueError, match=r"u12_1\.mat is missing; get mpii"):
        list(mpii.frames(mpii.Config(tmp_path / "images")))


def write_penn_action(root: Path) -> np.ndarray:
    """A video of four pictures with three boxes, and a broken file; returns (4, 13, 2) places."""
    xy = np.stack([places(13, i) for i in range(4)]) + 1
    sure = np.ones((4, 13))
    sure[1, 2] = 0
    labels = {"x": xy[..., 0], "y": xy[..., 1], "visibility": sure, "train": -1}
    boxes = np.array([[31, 21, 180, 180]] * 3, float)
    (root / "labels").mkdir(parents=True)
    savemat(root / "labels" / "0007.mat", {**labels, "bbox": boxes})
    (root / "labels" / "0008.mat").write_bytes(b"MATLAB 5.0 no more")
    for i in range(1, 5):
        picture(root / "frames" / "0007" / f"{i:06d}.jpg")
    return xy


def test_penn_action(tmp_path: Path) -> None:
    xy = write_penn_action(tmp_path)
    frames, rejects = parted(penn_action.frames(penn_action.Config(tmp_path, frame_rate=10)))
    assert [f.time for f in frames] == pytest.approx([0, 0.1, 0.2]) and frames[0].split == "test"
    assert frames[0].box == (30, 20, 180, 180) and frames[0].track == "0007"
    assert np.allclose(frames[1].labels["joints2d"][3:, :2], xy[1, 3:] - 0.5)
    assert frames[1].labels["joints2d"][2].tolist() == [0, 0, 0]
    assert rejects["0007, frame 4"] == "there is no box for this picture"
    assert "0008.mat cannot be read" in rejects["0008.mat"]
    with pytest.raises(ValueError, match=r"frames is missing; get Penn_Action"):
        list(penn_action.frames(penn_action.Config(tmp_path / "labels")))


def write_jhmdb(root: Path) -> np.ndarray:
    """Three clips, of which the second's joints are transposed and the third is in no split; the
    splits are not written. Returns (3, 15, 2) places."""
    xy = np.stack([places(15, i) for i in range(3)]) + 1  # (T, 15, 2)
    for clip in ("a", "b", "c"):
        folder = root / "joint_positions" / "run" / clip
        folder.mkdir(parents=True)
        stored = xy.transpose(2, 1, 0) if clip != "b" else xy
        savemat(folder / "joint_positions.mat", {"pos_img": stored})
        for i in (1, 2, 3):
            picture(root / "Rename_Images" / "run" / clip / f"{i:05d}.png")
    masks = root / "puppet_mask" / "run" / "a"
    masks.mkdir(parents=True)
    mask = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    mask[50:60, 70:90, 1] = 4
    savemat(masks / "puppet_mask.mat", {"part_mask": mask})
    return xy


def write_jhmdb_splits(root: Path) -> None:
    (root / "splits").mkdir()
    (root / "splits" / "run_test_split1.txt").write_text("a.avi 1\nb.avi 2\n")


def test_jhmdb(tmp_path: Path) -> None:
    xy = write_jhmdb(tmp_path)
    with pytest.raises(ValueError, match=r"run_test_split1\.txt is missing; get joint_positions"):
        list(jhmdb.frames(jhmdb.Config(tmp_path)))
    write_jhmdb_splits(tmp_path)
    frames, rejects = parted(jhmdb.frames(jhmdb.Config(tmp_path)))
    assert [f.time for f in frames] == pytest.approx([0, 1 / 30, 2 / 30])
    assert np.allclose(frames[2].labels["joints2d"][:, :2], xy[2] - 0.5)
    assert frames[1].mask is not None and frames[1].mask.sum() == 200
    assert frames[0].split == "train" and frames[0].track == "run/a"
    assert "pos_img has shape" in rejects["run/b"] and "does not name" in rejects["run/c"]
