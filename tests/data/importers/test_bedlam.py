"""BEDLAM's labels with its own pictures and with AGORA's: joints in space, turned pictures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hpse_dist.data.importers import agora, bedlam
from hpse_dist.data.importers.agora import AgoraConfig
from hpse_dist.data.importers.bedlam import BedlamConfig
from hpse_dist.records import FrameRecord
from tests.data.importers import made_bodies as bodies
from tests.data.importers import made_people as made
from tests.data.importers.annotated import parted

FRAMES, SCENE = 8, "20221010_3_1000_batch01hand_6fps"
LABELS = "training_labels/all_npz_12_training"
MATRIX = np.array([[260.0, 0, 160.0], [0, 262.0, 120.0], [0, 0, 1]])


def labels(model: str = "smplx", people: int = 2) -> dict[str, np.ndarray]:
    """One scene's file: each person's frames one after another, as BEDLAM writes them."""
    random = np.random.default_rng(5)
    count = 22 if model == "smplx" else 24
    rows: dict[str, list[Any]] = {key: [] for key in ("imgname", "pose_cam", "shape", "trans_cam")}
    rows |= {key: [] for key in ("gtkps", "cam_int", "cam_ext", "sub")}
    for person in range(people):
        betas, poses = random.normal(size=10), bodies.poses(FRAMES, person)
        for i in range(FRAMES):
            near, away = random.normal(size=3) * 0.1, np.array([0.0, 0.1, 3.2 + i % 4])
            pose = np.zeros(165 if model == "smplx" else 72)
            pose[: 3 * count] = poses[i][: 3 * count]
            joints = bodies.joints(poses[i], bodies.rest(person, count), near + away)
            seen = made.project(joints, np.eye(3), np.zeros(3)) - made.MATRIX[:2, 2]
            pixels = np.zeros((127, 3))
            pixels[:count] = np.column_stack([seen + MATRIX[:2, 2], np.ones(count)])
            camera = np.eye(4)
            camera[:3, 3] = away
            name = f"seq_000000/seq_000000_{5 * i:04d}.png"
            given = (name, pose, betas, near, pixels, MATRIX, camera, f"rp_{person}")
            for key, value in zip(rows, given, strict=True):
                rows[key].append(value)
    return {key: np.array(value) for key, value in rows.items()}


def write(root: Path, content: dict[str, np.ndarray], scene: str = SCENE) -> Path:
    (root / LABELS).mkdir(parents=True, exist_ok=True)
    np.savez(root / LABELS / f"{scene}.npz", **content)
    for name in {*content["imgname"].tolist()}:
        here = content["gtkps"][content["imgname"] == name][:, :22, :2].reshape(-1, 2)
        made.save(root / "training_images" / scene / "png" / name, made.picture(here))
    return root


def read(root: Path, **changes: Any) -> tuple[list[FrameRecord], dict[str, str]]:
    return parted(bedlam.frames(BedlamConfig(root, **changes)))


@pytest.mark.parametrize(("model", "count"), [("smplx", 22), ("smpl", 24)])
def test_joints_sit_on_people_and_reproject(tmp_path: Path, model: str, count: int) -> None:
    content = labels(model)
    people, rejects = read(write(tmp_path, content), model=model)
    assert len(people) == 2 * FRAMES and not rejects
    for row, person in enumerate(people):
        seen, space = person.labels["joints2d"], person.labels["joints3d"]
        assert seen.shape == (count, 3) and person.intrinsics is not None
        rays = space[:, :3] @ person.intrinsics.T
        assert np.abs(rays[:, :2] / rays[:, 2:] - seen[:, :2]).max() < 0.5
        assert np.allclose(seen[:, :2], content["gtkps"][row, :count, :2])
        transl = content["trans_cam"][row] + content["cam_ext"][row, :3, 3]
        skeleton = bodies.rest(row // FRAMES, count)
        true = bodies.joints(content["pose_cam"][row][:72], skeleton, transl)
        assert np.abs(space[:, :3] - true).max() < 1e-3
        assert ("body_pose" in person.labels) == (model == "smpl")
        if model == "smpl":
            assert np.allclose(person.labels["transl"], transl)
    assert [(p.subject, p.time * 30) for p in people[:2]] == [("rp_0", 0.0), ("rp_0", 5.0)]
    assert people[0].sequence == f"{SCENE}/seq_000000"
    assert len(read(tmp_path, model=model, every=10)[0]) == FRAMES


def test_labels_of_smpl_with_other_joints_are_refused(tmp_path: Path) -> None:
    content = labels("smpl")
    content["gtkps"] = content["gtkps"][:, :44]
    with pytest.raises(ValueError, match=r"44 2D joints \(gtkps\) .*df_full_body_smpl\.py"):
        read(write(tmp_path, content), model="smpl")


def test_pictures_stored_on_their_side_are_turned(tmp_path: Path) -> None:
    content = labels(people=1)
    root = write(tmp_path, content)
    for path in (root / "training_images").rglob("*.png"):
        upright = Image.open(path)
        upright.transpose(Image.Transpose.ROTATE_90).save(path)  # which turning clockwise undoes
    people, _ = read(root)
    for person in people:
        assert isinstance(person.image, np.ndarray) and person.image.shape[:2] == made.SIZE[::-1]
        for x, y in person.labels["joints2d"][:, :2].round().astype(int):
            if 1 < x < made.SIZE[0] - 1 and 1 < y < made.SIZE[1] - 1:
                assert person.image[y - 1 : y + 2, x - 1 : x + 2].max() > 200
    Image.new("RGB", (50, 60)).save(path)
    assert any("its camera 320 x 240" in reason for reason in read(root)[1].values())


def test_broken_rows_and_files_are_rejects(tmp_path: Path) -> None:
    content = labels()
    content["gtkps"][3, :, 0] += 40
    content["trans_cam"][1, 2] = 5e-4 - content["cam_ext"][1, 2, 3]  # in the lens
    content["pose_cam"][FRAMES + 1, 5] = np.nan
    content["trans_cam"][FRAMES + 2, 0], content["cam_ext"][FRAMES + 2, 0, 3] = np.inf, -np.inf
    content["imgname"] = content["imgname"].astype("<U60")
    root = write(tmp_path, content)
    content["imgname"][5] = "../../../etc/passwd"
    content["imgname"][6] = "seq_000000/seq_000000_9999.png"
    np.savez(root / LABELS / f"{SCENE}.npz", **content)
    for name, bad in {
        "short": {key: value for key, value in content.items() if key != "cam_ext"},
        "objects": {**content, "sub": np.array([{}] * len(content["sub"]))},
        "shapes": {**content, "gtkps": content["gtkps"][:3]},
    }.items():
        np.savez(root / LABELS / f"{name}.npz", **bad)
        (root / "training_images" / name / "png").mkdir(parents=True)
    people, rejects = read(root)
    said = "\n".join(f"{source}: {reason}" for source, reason in rejects.items())
    for expected in (
        r"0005\.png, row 1: the body is behind the camera",
        r"0015\.png, row 3: its 2D joints lie \d+ px from the body's",
        "row 5: the file name .* leads out of the dataset's folder",
        "row 6: there is no picture",
        r"short\.npz: lacks cam_ext",
        r"objects\.npz: cannot be read as an \.npz of numbers: .*allow_pickle=False",
        r"shapes\.npz: gtkps is float64",
    ):
        assert re.search(expected, said), expected
    assert len(people) == 2 * FRAMES - 4
    blind = [p for p in people if p.subject == "rp_1" and "joints3d" not in p.labels]
    assert [p.source.split()[-1] for p in blind] == [str(FRAMES + 1), str(FRAMES + 2)]


def test_wrong_units_are_said_and_a_shape_seen_once_has_no_depth(tmp_path: Path) -> None:
    content = labels(people=1)
    millimetres = {**content, "trans_cam": content["trans_cam"] * 1000}
    millimetres["cam_ext"] = content["cam_ext"] * 1000
    people, rejects = read(write(tmp_path, millimetres))
    assert not people and all("the units are not metres" in reason for reason in rejects.values())
    people, rejects = read(write(tmp_path, {**content, "cam_ext": -content["cam_ext"]}))
    assert not people and all("behind the camera" in reason for reason in rejects.values())
    once = {key: value[:1] for key, value in content.items()}
    ((person,), rejects) = read(write(tmp_path, once))
    assert "joints3d" not in person.labels and not rejects


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"all_npz_12_training: BEDLAM's folder of labels is miss"):
        read(tmp_path)
    write(tmp_path, labels(people=1))
    with pytest.raises(ValueError, match=r"other\.npz: BEDLAM's labels of this scene is missing"):
        read(tmp_path, scenes=("other",))
    with pytest.raises(ValueError, match=r"its bodies are of smplx; set source.model to smplx"):
        read(tmp_path, model="smpl")
    with pytest.raises(ValueError, match=r"agora-bfh\.npz: AGORA's file of labels is missing"):
        (tmp_path / "training_images" / "images").mkdir()
        list(agora.frames(AgoraConfig(tmp_path)))


def test_agora_is_read_from_the_same_form(tmp_path: Path) -> None:
    content = labels(people=1)
    del content["sub"]
    content["cam_ext"][:, :3, 3] += content.pop("trans_cam")
    content["imgname"] = np.array([f"ag_trainset_{i}_1280x720.png" for i in range(FRAMES)])
    content["shape"] = np.pad(content["shape"], ((0, 0), (0, 1)))  # children's have 11 numbers
    (tmp_path / LABELS).mkdir(parents=True)
    for part in ("bfh", "body"):
        np.savez(tmp_path / LABELS / f"agora-{part}.npz", **content)
    for name, pixels in zip(content["imgname"], content["gtkps"], strict=True):
        made.save(tmp_path / "training_images/images" / name, made.picture(pixels[:22, :2]))
    np.savez(tmp_path / LABELS / "agora-body.npz", **{**content, "imgname": content["shape"]})
    people, rejects = parted(agora.frames(AgoraConfig(tmp_path)))
    assert len(people) == FRAMES and all("joints3d" in person.labels for person in people)
    assert people[3].sequence == "agora/ag_trainset_3_1280x720.png" and people[3].time == 0.0
    assert people[3].subject == "" and people[3].track == "agora-bfh 3"
    assert rejects == {"agora-body.npz": "imgname or sub is no list of names"}
    assert agora.provenance(AgoraConfig(tmp_path)).joint_set == "smplx22"
