"""InterHand2.6M's layout with hands of our own, and the real sample where it is at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from hpse_dist.body.joints import INTERHAND21, JOINT_SETS
from hpse_dist.body.model import load_hand
from hpse_dist.data.importers import interhand
from hpse_dist.data.importers.interhand import InterHandConfig
from hpse_dist.protocols import PROTOCOLS
from hpse_dist.records import FrameRecord, Reject
from hpse_dist.tasks.hand_mesh import HandMesh
from tests.data.importers.made_hands import assert_on_dots, draw_dots, hand, seen_by, write_json
from tests.fabricate import tiny_hand_folder

SIZE = (334, 512)
REAL = Path(__file__).parents[4] / "shared" / "real" / "interhand"
CAMERAS = {"400002": (-0.3, 0.1, 0.2), "400012": (0.25, -0.5, -0.1)}  # turn, Rodrigues
RIGHT = {"pose": 0.2 * np.ones(48), "shape": 0.5 * np.ones(10), "trans": np.array([0.03, 0, 1.0])}


def studio() -> dict[str, Any]:
    """One capture's cameras, all looking at a point one metre before the world's origin."""
    table: dict[str, Any] = {key: {} for key in ("campos", "camrot", "focal", "princpt")}
    for name, turn in CAMERAS.items():
        rotation = cv2.Rodrigues(np.array(turn))[0]
        place = np.array([0, 0, 1.0]) - rotation.T @ [0, 0, 0.9]
        table["campos"][name] = (1000 * place).tolist()
        table["camrot"][name] = rotation.tolist()
        table["focal"][name] = [1250.0, 1240.0]
        table["princpt"][name] = [165.0, 250.0]
    return table


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two moments before two cameras: a right hand, then two hands; the left wrist is not known."""
    root = tmp_path / "InterHand2.6M"
    cameras, moments = studio(), {}
    images, annotations = [], []
    for frame, side in ((12, "right"), (6, "interacting")):
        world = hand(frame, 42) * 0.7 + [0, 0, 1.0]
        valid = [[1]] * 21 + ([[0]] * 21 if side == "right" else [[1]] * 20 + [[0]])
        moments[str(frame)] = {
            "world_coord": (1000 * world).tolist(),
            "joint_valid": [[bool(v[0])] for v in valid],
            "hand_type": side,
            "hand_type_valid": True,
        }
        for camera in CAMERAS:
            number = len(images)
            rotation = np.array(cameras["camrot"][camera])
            seen = (1000 * world - cameras["campos"][camera]) @ rotation.T  # millimetres
            k = np.array([[1250.0, 0, 165], [0, 1240, 250], [0, 0, 1]])
            known = np.array(valid)[:, 0] > 0
            name = f"Capture7/ROM01/cam{camera}/image{frame}.jpg"
            draw_dots(root / "images/train" / name, SIZE, seen_by(k, seen)[known])
            about = {"capture": 7, "subject": 3, "seq_name": "ROM01", "camera": camera}
            images.append(
                {"id": number, "file_name": name, "width": 334, "height": 512, "frame_idx": frame}
                | about
            )
            annotations.append(
                {"id": number, "image_id": number, "bbox": [60.0, 100.0, 200.0, 300.0]}
                | {"joint_valid": valid, "hand_type": side, "hand_type_valid": 1}
            )
    fitted = {key: value.tolist() for key, value in RIGHT.items()}
    for kind, content in (
        ("data", {"images": images, "annotations": annotations}),
        ("camera", {"7": cameras}),
        ("joint_3d", {"7": moments}),
        ("MANO_NeuralAnnot", {"7": {"12": {"right": fitted, "left": None}}}),
    ):
        write_json(root / f"annotations/train/InterHand2.6M_train_{kind}.json", content)
    return root


def read(config: InterHandConfig) -> tuple[list[FrameRecord], list[Reject]]:
    found = list(interhand.frames(config))
    return (
        [one for one in found if isinstance(one, FrameRecord)],
        [one for one in found if isinstance(one, Reject)],
    )


def change(root: Path, kind: str, edit: Any) -> None:
    path = root / f"annotations/train/InterHand2.6M_train_{kind}.json"
    content = json.loads(path.read_text())
    edit(content)
    write_json(path, content)


def test_joints_are_where_the_pictures_have_them(root: Path) -> None:
    records, rejects = read(InterHandConfig(root))
    assert not rejects
    found = [(record.time * 90, record.camera) for record in records]  # train counts 90 a second
    assert found == [(6, "400002"), (6, "400012"), (12, "400002"), (12, "400012")]
    for record in records:
        assert isinstance(record.image, Path) and record.subject == "subject3"
        assert_on_dots(record.image, record.labels["joints2d"])
        assert record.rotation is not None and record.translation is not None
        assert record.box == (60.0, 100.0, 260.0, 400.0) and record.split == "train"
        joints, known = record.labels["joints3d"][:, :3], record.labels["joints3d"][:, 3] > 0
        world = (joints - record.translation) @ record.rotation
        assert np.abs(world[known].mean(axis=0) - record.centre).max() < 1e-5
    assert records[0].labels["joints3d"][:, 3].sum() == 41
    assert records[2].labels["joints3d"][:, 3].sum() == 21
    one = interhand.provenance(InterHandConfig(root))
    assert one.joint_set == "interhand42" and len(JOINT_SETS["interhand42"]) == 42


def test_right_hands_with_manos_parameters(root: Path, tmp_path: Path) -> None:
    mano = load_hand(tiny_hand_folder(tmp_path), "right")
    config = InterHandConfig(root, hands="right", mano=tmp_path)
    records, rejects = read(config)
    assert not rejects and len(records) == 4
    # in the order of the tasks that learn from both, the wrist first
    joint_set = interhand.provenance(config).joint_set
    assert joint_set == PROTOCOLS[HandMesh.protocols[0]].joint_set
    order = [INTERHAND21.index(joint) for joint in JOINT_SETS[joint_set]]
    for both, right in zip(read(InterHandConfig(root))[0], records, strict=True):
        assert np.array_equal(both.labels["joints3d"][order], right.labels["joints3d"])
    assert all(record.labels["joints2d"].shape == (21, 3) for record in records)
    assert ["hand_pose" in record.labels for record in records] == [False, False, True, True]
    x0, y0, x1, y1 = records[2].box
    shown = records[2].labels["joints2d"][:, :2]
    assert (shown > [x0, y0]).all() and (shown < [x1, y1]).all()

    def vertices(orient: Any, pose: Any, betas: Any, transl: Any) -> np.ndarray:
        four = [
            torch.as_tensor(v, dtype=torch.float32)[None] for v in (orient, pose, betas, transl)
        ]
        return mano(*four).vertices[0].detach().numpy()

    pose = RIGHT["pose"]
    world = vertices(pose[:3], pose[3:], RIGHT["shape"], RIGHT["trans"])
    for record in records[2:]:
        names = ("hand_orient", "hand_pose", "hand_betas", "hand_transl")
        own = vertices(*(record.labels[name] for name in names))
        assert np.abs(own - (world @ record.rotation.T + record.translation)).max() < 1e-5  # type: ignore[union-attr,operator]


def test_moments_can_be_thinned(root: Path) -> None:
    records, _ = read(InterHandConfig(root, every=2, frames_per_s=30.0))
    assert [record.time for record in records] == [0.2, 0.2]


def test_test_counts_thirty_a_second(root: Path) -> None:
    for place in root.rglob("*train*"):
        if place.is_file():
            place.rename(place.with_name(place.name.replace("train", "test")))
    for place in ("annotations", "images"):
        (root / place / "train").rename(root / place / "test")
    records, _ = read(InterHandConfig(root, split="test"))
    assert [record.time for record in records] == [0.2, 0.2, 0.4, 0.4]


def test_broken_records_are_rejects(root: Path) -> None:
    def data(content: Any) -> None:
        content["images"][0]["file_name"] = "../../elsewhere.jpg"
        content["images"][1]["camera"] = "400099"
        content["images"][2]["width"] = "wide"
        content["annotations"][3]["bbox"] = [1, 2, 3]
        content["annotations"].append({"image_id": 77})
        content["images"].append({"file_name": ""})

    change(root, "data", data)
    records, rejects = read(InterHandConfig(root))
    reasons = {reject.reason for reject in rejects}
    assert not records
    assert "the file name '../../elsewhere.jpg' leads out of the dataset's folder" in reasons
    assert "400099 is missing" in reasons
    assert "width is 'wide', not a whole number" in reasons
    assert "bbox has 3 numbers, not 4" in reasons and "it has no annotation" in reasons
    assert "no picture has the id 77" in reasons and "file_name is '', not a name" in reasons


def test_broken_tables_are_rejects(root: Path) -> None:
    def camera(content: Any) -> None:
        content["7"]["camrot"]["400002"] = [[1, 0, 0], [0, 1, 0], [0, 0, 2]]

    def joints(content: Any) -> None:
        content["7"]["6"]["world_coord"][0] = "here"
        del content["7"]["12"]["joint_valid"]

    change(root, "camera", camera)
    _, rejects = read(InterHandConfig(root))
    assert len(rejects) == 2 and "camrot is no rotation" in rejects[0].reason
    change(root, "joint_3d", joints)
    (root / "images/train/Capture7/ROM01/cam400012/image6.jpg").unlink()
    records, rejects = read(InterHandConfig(root))
    reasons = {reject.reason for reject in rejects}
    assert not records
    assert "world_coord holds lists of different lengths, not 42 x 3 numbers" in reasons
    assert "joint_valid is missing" in reasons


@pytest.mark.parametrize("kind", ["data", "camera", "joint_3d"])
def test_a_missing_file_is_named(root: Path, kind: str) -> None:
    (root / f"annotations/train/InterHand2.6M_train_{kind}.json").unlink()
    with pytest.raises(ValueError, match=rf"_{kind}\.json is missing; .*InterHand2\.6M"):
        read(InterHandConfig(root))
    with pytest.raises(ValueError, match="images/val is missing"):
        read(InterHandConfig(root, split="val"))
    with pytest.raises(ValueError, match="hands right"):
        InterHandConfig(root, mano=root)


@pytest.mark.skipif(not REAL.is_dir(), reason="needs shared/real/interhand beside the checkout")
def test_the_real_sample() -> None:
    config = InterHandConfig(REAL, "test", annotations="test_interhand2.6m", images=".")
    records, rejects = read(config)
    assert not rejects and len(records) == 4
    for record in records:  # the dataset's own boxes are drawn around the same joints
        x0, y0, x1, y1 = record.box
        shown = record.labels["joints2d"][record.labels["joints2d"][:, 2] > 0, :2]
        assert (shown > [x0, y0]).all() and (shown < [x1, y1]).all()
        spread = (shown.max(axis=0) - shown.min(axis=0)) / [x1 - x0, y1 - y0]
        assert spread.min() > 0.6
