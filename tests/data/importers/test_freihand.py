"""FreiHAND's layout with hands of our own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hpse_dist.body.joints import FREIHAND21, MANO21
from hpse_dist.body.model import load_hand
from hpse_dist.data.importers import freihand
from hpse_dist.data.importers.freihand import FreiHandConfig
from hpse_dist.protocols import PROTOCOLS
from hpse_dist.records import FrameRecord, Reject
from hpse_dist.tasks.hand_mesh import HandMesh
from tests.data.importers.made_hands import assert_on_dots, draw_dots, hand, seen_by, write_json
from tests.fabricate import tiny_hand_folder

NUM = 3
K = np.array([[480.0, 0, 112], [0, 470, 108], [0, 0, 1]])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three hands before four backgrounds, posed by a made-up MANO; two hands to be judged by."""
    root = tmp_path / "FreiHAND_pub_v2"
    mano = load_hand(tiny_hand_folder(tmp_path), "right")
    rng = np.random.default_rng(0)
    xyz, theta = [], []
    for i in range(NUM):
        orient, pose, betas = (0.3 * rng.normal(size=n).astype(np.float32) for n in (3, 45, 10))
        place = np.array([0.02, 0.01 * i, 0.6], np.float32)
        four = (torch.from_numpy(value)[None] for value in (orient, pose, betas, place))
        joints = mano(*four).joints[0].detach().numpy()
        xyz.append(joints[[MANO21.index(joint) for joint in FREIHAND21]].tolist())
        theta.append([[*map(float, (*orient, *pose, *betas)), 112.0, 108.0, 1.0]])
        mask = np.zeros((224, 224), np.uint8)
        mask[:100] = 255
        (root / "training" / "mask").mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(root / "training" / "mask" / f"{i:08d}.jpg")
        for k in range(4):
            path = root / "training" / "rgb" / f"{i + NUM * k:08d}.jpg"
            draw_dots(path, (224, 224), seen_by(K, joints))
    write_json(root / "training_K.json", [K.tolist()] * NUM)
    write_json(root / "training_xyz.json", xyz)
    write_json(root / "training_mano.json", theta)
    judged = [(hand(i) + np.array([0, 0, 0.7])).tolist() for i in range(2)]
    for i, joints in enumerate(judged):
        path = root / "evaluation" / "rgb" / f"{i:08d}.jpg"
        draw_dots(path, (224, 224), seen_by(K, np.array(joints)))
    write_json(root / "evaluation_K.json", [K.tolist()] * 2)
    write_json(root / "evaluation_xyz.json", judged)
    return root


def read(config: FreiHandConfig) -> tuple[list[FrameRecord], list[Reject]]:
    found = list(freihand.frames(config))
    return (
        [one for one in found if isinstance(one, FrameRecord)],
        [one for one in found if isinstance(one, Reject)],
    )


def test_each_hand_before_its_backgrounds(root: Path) -> None:
    records, rejects = read(FreiHandConfig(root))
    assert not rejects and len(records) == 4 * NUM
    names = [record.source[-12:-4] for record in records]
    assert names[:5] == ["00000000", "00000003", "00000006", "00000009", "00000001"]
    assert [record.camera for record in records[:4]] == ["gs", "hom", "sample", "auto"]
    assert len({record.subject for record in records[:4]}) == 1
    assert len({record.subject for record in records}) == NUM
    for record in records:
        assert isinstance(record.image, Path)
        assert_on_dots(record.image, record.labels["joints2d"])
        assert record.mask is not None and record.mask[:90].all() and not record.mask[110:].any()
        assert record.split is None and "hand_pose" not in record.labels


def test_the_part_to_be_judged_by(root: Path) -> None:
    records, rejects = read(FreiHandConfig(root, part="evaluation"))
    assert not rejects and [record.split for record in records] == ["test", "test"]
    assert isinstance(records[1].image, Path) and records[1].mask is None
    assert_on_dots(records[1].image, records[1].labels["joints2d"])
    assert not {record.subject for record in records} & {
        record.subject for record in read(FreiHandConfig(root))[0]
    }


def test_manos_parameters_give_the_joints(root: Path, tmp_path: Path) -> None:
    mano = load_hand(tmp_path, "right")
    config = FreiHandConfig(root, backgrounds=("hom",), mano=tmp_path)
    records, _ = read(config)
    assert len(records) == NUM
    # in the order of the tasks that learn from both
    assert freihand.provenance(config).joint_set == PROTOCOLS[HandMesh.protocols[0]].joint_set
    for record in records:
        names = ("hand_orient", "hand_pose", "hand_betas", "hand_transl")
        labels = (torch.from_numpy(record.labels[name])[None] for name in names)
        joints = mano(*labels).joints[0].detach().numpy()
        assert np.abs(joints - record.labels["joints3d"][:, :3]).max() < 1e-5


def test_broken_records_are_rejects(root: Path) -> None:
    (root / "training" / "rgb" / "00000000.jpg").unlink()
    (root / "training" / "rgb" / "00000001.jpg").write_bytes(b"\xff\xd8 no")
    (root / "training" / "mask" / "00000002.jpg").unlink()
    xyz = json.loads((root / "training_xyz.json").read_text())
    xyz[1][4] = ["left", None]
    write_json(root / "training_xyz.json", xyz)
    _, rejects = read(FreiHandConfig(root, backgrounds=("gs", "auto")))
    reasons = {reject.source[-12:-4]: reject.reason for reject in rejects}
    assert reasons["00000000"] == "the picture is missing"
    assert reasons["00000001"].startswith("the picture cannot be read")
    assert reasons["00000002"] == "its mask mask/00000002.jpg: the picture is missing"
    assert reasons["00000010"] == "xyz holds lists of different lengths, not 21 x 3 numbers"


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("training_xyz.json", "training_xyz.json is missing; .*FreiHAND_pub_v2.zip"),
        ("training_K.json", "training_K.json is missing"),
        ("training/rgb", "training/rgb is missing"),
    ],
)
def test_a_missing_file_is_named(root: Path, lost: str, message: str) -> None:
    (root / lost).rename(root / "elsewhere")
    with pytest.raises(ValueError, match=message):
        read(FreiHandConfig(root))


def test_lists_of_different_lengths_are_refused(root: Path) -> None:
    write_json(root / "training_xyz.json", json.loads((root / "training_xyz.json").read_text())[:2])
    with pytest.raises(ValueError, match=r"training_xyz\.json has fewer entries"):
        read(FreiHandConfig(root))
    with pytest.raises(ValueError, match="backgrounds"):
        replace(FreiHandConfig(root), backgrounds=("gs", "gs"))
    assert freihand.provenance(FreiHandConfig(root)).commercial is False
