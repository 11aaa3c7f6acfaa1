"""HO-3D's layout with hands of our own."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hpse_dist.body.model import load_hand
from hpse_dist.data.importers import ho3d
from hpse_dist.data.importers.ho3d import Ho3dConfig
from hpse_dist.records import FrameRecord, Reject
from tests.data.importers.made_hands import assert_on_dots, draw_dots, seen_by
from tests.fabricate import tiny_hand_folder

K = np.array([[614.0, 0, 320], [0, 613, 240], [0, 0, 1]])
NAMES = ("ABF11/0003", "ABF10/0003", "ABF10/0000", "MC1/0000")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A take before two cameras and one before one, and a picture of the evaluation set."""
    root = tmp_path / "HO3D_v3"
    mano = load_hand(tiny_hand_folder(tmp_path), "right", flat_mean=True)
    rng = np.random.default_rng(0)
    for i, name in enumerate((*NAMES, "SM1/0000")):
        part = "train" if name in NAMES else "evaluation"
        pose, betas = 0.3 * rng.normal(size=48), rng.normal(size=10)
        trans = np.array([0.03, -0.02, -0.6])  # before a camera that looks along -z
        four = [torch.from_numpy(v)[None].float() for v in (pose[:3], pose[3:], betas, trans)]
        joints = mano(*four).joints[0].detach().numpy()
        places = seen_by(K, joints * [1, -1, -1])
        sequence, number = name.split("/")
        ending = ".png" if i == 3 else ".jpg"
        kept = places if part == "train" else places[:1]
        draw_dots(root / part / sequence / "rgb" / f"{number}{ending}", (640, 480), kept)
        meta: dict[str, Any] = {"camMat": K, "objName": "003_cracker_box", "objRot": None}
        if part == "train":
            meta |= {"handJoints3D": joints, "handPose": pose, "handBeta": betas}
            meta |= {"handTrans": trans}
        else:
            meta |= {"handJoints3D": joints[0], "handBoundingBox": [200, 150, 400, 330]}
        write_meta(root / part / sequence / "meta" / f"{number}.pkl", meta)
    (root / "train.txt").write_text("\n".join(NAMES) + "\n")
    (root / "evaluation.txt").write_text("SM1/0000\n")
    return root


def write_meta(path: Path, meta: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(meta, protocol=2))


def read(config: Ho3dConfig) -> tuple[list[FrameRecord], list[Reject]]:
    found = list(ho3d.frames(config))
    return (
        [one for one in found if isinstance(one, FrameRecord)],
        [one for one in found if isinstance(one, Reject)],
    )


def test_joints_are_where_the_pictures_have_them(root: Path) -> None:
    records, rejects = read(Ho3dConfig(root))
    assert not rejects
    order = [(r.subject, r.sequence, r.camera, round(30 * r.time)) for r in records]
    abf = [("ABF", "ABF1", camera, frame) for camera, frame in (("0", 0), ("0", 3), ("1", 3))]
    assert order == [*abf, ("MC", "MC1", "", 0)]
    for record in records:
        assert isinstance(record.image, Path)
        assert_on_dots(record.image, record.labels["joints2d"])
        shown, (x0, y0, x1, y1) = record.labels["joints2d"][:, :2], record.box
        assert (shown > [x0, y0]).all() and (shown < [x1, y1]).all()


def test_the_part_to_be_judged_by(root: Path) -> None:
    records, rejects = read(Ho3dConfig(root, part="evaluation"))
    assert not rejects and len(records) == 1
    assert records[0].split == "test" and records[0].box == (200.0, 150.0, 400.0, 330.0)
    assert records[0].labels["joints3d"][:, 3].tolist() == [1.0] + [0.0] * 20
    assert isinstance(records[0].image, Path)
    assert_on_dots(records[0].image, records[0].labels["joints2d"])


def test_manos_parameters_give_the_joints(root: Path, tmp_path: Path) -> None:
    mano = load_hand(tmp_path, "right")
    records, _ = read(Ho3dConfig(root, mano=tmp_path))
    for record in records:
        names = ("hand_orient", "hand_pose", "hand_betas", "hand_transl")
        labels = (torch.from_numpy(record.labels[name])[None] for name in names)
        joints = mano(*labels).joints[0].detach().numpy()
        assert np.abs(joints - record.labels["joints3d"][:, :3]).max() < 1e-5


class Hostile:
    """What a pickle must not do."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


def test_broken_records_are_rejects(root: Path, tmp_path: Path) -> None:
    meta = {"camMat": K, "handJoints3D": None}
    write_meta(root / "train/ABF10/meta/0000.pkl", meta)
    write_meta(root / "train/ABF10/meta/0003.pkl", {"camMat": Hostile()})
    (root / "train/ABF11/meta/0003.pkl").unlink()
    (root / "train/MC1/rgb/0000.png").unlink()
    with (root / "train.txt").open("a") as file:
        file.write("../../0000\n")
    records, rejects = read(Ho3dConfig(root))
    assert not records and not Path("ran").exists()
    reasons = " | ".join(reject.reason for reject in rejects)
    assert len(rejects) == 5 and "was refused" in reasons and "is missing" in reasons
    assert "not <sequence>/<number>" in reasons and "the picture is missing" in reasons


def test_a_missing_file_is_named(root: Path) -> None:
    (root / "train.txt").unlink()
    with pytest.raises(ValueError, match=r"train\.txt is missing: .*HO3D_v3"):
        read(Ho3dConfig(root))
    assert ho3d.provenance(Ho3dConfig(root)).joint_set == "mano21"
