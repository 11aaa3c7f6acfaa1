"""Labels of one's own, a line each."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from hpse_dist.body.joints import COCO17, PART_NAMES
from hpse_dist.body.model import load_body
from hpse_dist.config import build
from hpse_dist.data.importers import labelled
from hpse_dist.data.importers.labelled_config import LabelledConfig
from hpse_dist.prepare import prepare
from hpse_dist.recipe import DataRecipe
from hpse_dist.records import FrameRecord
from tests.data.importers.annotated import parted
from tests.data.importers.made_hands import assert_on_dots, draw_dots, seen_by
from tests.data.plain_shards import plain_shards  # noqa: F401  a fixture
from tests.fabricate import tiny_body_file

K = np.array([[300.0, 0, 100], [0, 290, 90], [0, 0, 1]])
SIZE = (200, 180)
MOMENTS = (0.0, 0.5, 1.0)
TURNS = {"left": 0.0, "right": 0.7}


def person(time: float) -> np.ndarray:
    """(17, 3) metres in the world, each joint moved a little further with time."""
    pose, motion = np.random.default_rng(0).uniform(-1, 1, (2, 17, 3)) * (0.8, 0.8, 0.3)
    return pose + 0.3 * time * motion


def camera(name: str) -> tuple[np.ndarray, np.ndarray]:
    """World to camera: both look at the person from 4 m."""
    return cv2.Rodrigues(np.array([0, TURNS[name], 0]))[0], np.array([0, 0, 4.0])


def line(name: str, time: float, **more: Any) -> dict[str, Any]:
    rotation, translation = camera(name)
    return {
        "picture": f"{name}/{time:.1f}.png",
        "person": "anna",
        "sequence": "walk",
        "camera": name,
        "time": time,
        "joints3d": person(time).tolist(),
        "intrinsics": K.tolist(),
        "rotation": rotation.tolist(),
        "translation": translation.tolist(),
        **more,
    }


def write(root: Path, lines: list[Any]) -> None:
    text = "\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines)
    (root / "people.jsonl").write_text(text + "\n", encoding="utf-8")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two cameras' pictures of a person at three moments, camera by camera."""
    for name in TURNS:
        rotation, translation = camera(name)
        for time in MOMENTS:
            joints = person(time) @ rotation.T + translation
            draw_dots(tmp_path / f"{name}/{time:.1f}.png", SIZE, seen_by(K, joints))
    write(tmp_path, [line(name, time) for name in TURNS for time in MOMENTS])
    return tmp_path


def config(root: Path, **more: Any) -> LabelledConfig:
    keys = {"joints": "coco17", "joints3d_in": "world", **more}
    return LabelledConfig(root, "mine", **keys)


def read(root: Path, **more: Any) -> tuple[list[FrameRecord], dict[str, str]]:
    return parted(labelled.frames(config(root, **more)))


def one(root: Path, what: dict[str, Any], **more: Any) -> FrameRecord:
    write(root, [what])
    (found,), rejects = read(root, **more)
    assert not rejects
    return found


def test_cameras_and_moments_by_time(root: Path) -> None:
    records, rejects = read(root)
    assert not rejects
    assert [(r.time, r.camera) for r in records] == [(t, c) for t in MOMENTS for c in TURNS]
    for record in records:
        rotation, translation = camera(record.camera)
        deep = record.labels["joints3d"]
        np.testing.assert_allclose(deep[:, :3], person(record.time) @ rotation.T + translation)
        assert record.centre is not None and isinstance(record.image, Path)
        np.testing.assert_allclose(record.centre, person(record.time).mean(axis=0), atol=1e-9)
        assert_on_dots(record.image, record.labels["joints2d"])
        assert record.subject == "anna" and record.sequence == "walk"
    first = records[0]
    seen = first.labels["joints2d"]
    shown = seen[seen[:, 2] > 0, :2]
    assert first.box[0] < shown[:, 0].min() and first.box[3] > shown[:, 1].max()
    assert first.source == "people.jsonl, line 1, left/0.0.png"


@pytest.mark.usefixtures("plain_shards")
def test_pairs_of_views_and_of_moments(root: Path, tmp_path: Path) -> None:
    source = {"name": "labelled", "root": str(root), "licence": "mine", "joints": "coco17"}
    values = {
        "name": "mine",
        "source": source | {"joints3d_in": "world"},
        "collection": {"crop_px": 32, "min_side_px": 20},
        "out": str(tmp_path / "out"),
    }
    made = prepare(build(DataRecipe, values))
    kinds = made.pairs["kind"].to_pylist()
    # 3 moments from 2 cameras, 3 pairs of moments before each of 2; either may be the reference
    assert made.num_frames == 6 and kinds.count(0) == 2 * 3 and kinds.count(1) == 2 * 3 * 2
    assert made.manifest["reprojection"]["median_px"] < 0.01


def test_pixels_may_count_from_a_pixels_middle_and_lengths_in_millimetres(root: Path) -> None:
    what = line("left", 0.0, joints2d=[[10 + i, 20 + i, 0.5] for i in range(17)])
    corner = one(root, what)
    matrix = K - 0.5 * np.array([[0, 0, 1], [0, 0, 1], [0, 0, 0]])
    what |= {"joints2d": [[9.5 + i, 19.5 + i, 0.5] for i in range(17)]}
    for key in ("joints3d", "translation"):
        what[key] = (1000 * np.array(what[key])).tolist()
    middle = one(root, what | {"intrinsics": matrix.tolist()}, pixels="middle", unit_m=0.001)
    for name, value in corner.labels.items():
        np.testing.assert_allclose(middle.labels[name], value, atol=1e-12)
    np.testing.assert_allclose(middle.intrinsics, K)
    np.testing.assert_allclose(middle.translation, corner.translation)
    np.testing.assert_allclose(middle.centre, corner.centre, atol=1e-12)
    assert corner.box == middle.box
    assert one(root, what | {"box": [1, 2, 30, 40]}, pixels="middle").box == (1, 2, 30, 40)


def test_joints_in_an_order_of_their_own(root: Path) -> None:
    names = ("right_wrist", "-", "nose")
    flat = [[5, 6, 0.25], [7, 8, 1], [9, 10, 1]]
    found = one(
        root, {"picture": "left/0.0.png", "joints2d": flat, "box": [0, 0, 9, 9]}, names=names
    )
    joints = found.labels["joints2d"]
    np.testing.assert_allclose(joints[COCO17.index("right_wrist")], flat[0])
    np.testing.assert_allclose(joints[COCO17.index("nose")], flat[2])
    assert (joints[:, 2] > 0).sum() == 2 and joints.shape == (17, 3)
    assert found.sequence == "left/0.0.png" and found.subject == "" and found.time == 0


def test_bodies_hands_maps_and_classes(root: Path) -> None:
    numbers = {"global_orient": 3, "body_pose": 69, "betas": 10, "transl": 3}
    hand = {"hand_orient": 3, "hand_pose": 45, "hand_betas": 10, "hand_transl": 3}
    given = {key: [0.01 * (i + 1)] * n for i, (key, n) in enumerate((numbers | hand).items())}
    parts = np.zeros(SIZE[::-1], np.uint8)
    parts[20:40, 30:50] = PART_NAMES.index("left_foot")
    palette = Image.fromarray(parts, mode="P")
    palette.putpalette([255 - i // 3 for i in range(768)])
    palette.save(root / "parts.png")
    Image.fromarray((parts > 0).astype(np.uint8)).save(root / "mask.png")
    what = line("right", 0.5, mask="mask.png", part_map="parts.png", label="fist", **given)
    del what["joints3d"]
    what["box"] = [20, 20, 90, 90]
    found = one(root, what, body="smpl", hand="mano", classes=("palm", "fist"))
    for key, value in given.items():
        np.testing.assert_allclose(found.labels[key], value)
    assert found.labels["label"] == 1
    np.testing.assert_array_equal(found.labels["part_map"], parts)
    assert found.mask is not None
    np.testing.assert_array_equal(found.mask, parts > 0)
    rotation, translation = camera("right")
    assert found.centre is not None
    np.testing.assert_allclose(rotation @ found.centre + translation, given["transl"])
    assert (
        one(root, what | {"label": 0}, body="smpl", hand="mano", classes=("a",))
        .labels["label"]
        .item()
        == 0
    )
    about = labelled.provenance(config(root, body="smpl", hand="mano", classes=("a",)))
    assert about.details["body_model"] == "smpl" and about.details["hand_model"] == "MANO"
    assert about.details["classes"] == ["a"] and about.joint_set == "coco17"
    assert labelled.provenance(config(root, body="free")).details["body"] == "free"


def test_joints_of_a_body_alone(root: Path) -> None:
    """Of lines with nothing but SMPL's parameters: before the camera, and in the picture."""
    place = tiny_body_file(root)
    rng = np.random.default_rng(1)
    numbers = {"global_orient": 3, "body_pose": 69, "betas": 10}
    given = {key: (0.2 * rng.normal(size=n)).tolist() for key, n in numbers.items()}
    given["transl"] = [0.1, 0.2, 6.0]
    what = line("left", 0.0, **given)
    del what["joints3d"]
    keys = {"joints": "smpl24", "joints3d_in": "camera", "body": "smpl", "body_file": place}
    found = one(root, what, **keys)
    tensors = (torch.tensor([given[key]]) for key in (*numbers, "transl"))
    joints = load_body(str(place))(*tensors).joints[0].numpy()
    np.testing.assert_allclose(found.labels["joints3d"][:, :3], joints, atol=1e-5)
    np.testing.assert_allclose(found.labels["joints2d"][:, :2], seen_by(K, joints), atol=1e-3)
    assert (found.labels["joints3d"][:, 3] == 1).all() and found.centre is not None
    its = one(root, what | {"joints3d": (joints + 1).tolist()}, **keys)
    np.testing.assert_allclose(its.labels["joints3d"][:, :3], joints + 1, atol=1e-5)


MIRROR = np.diag([1.0, 1, -1]).tolist()
BAD: list[tuple[dict[str, Any] | str, str]] = [
    ("{", "no JSON object; write one JSON object for each person"),
    ("[]", "no JSON object"),
    ({"time": None}, "a sequence and no time"),
    ({"joint2d": []}, "'joint2d' is no key of a person; keys are picture, box"),
    ({"picture": "../x.png"}, "leads out"),
    ({"picture": None}, "file name is None"),
    ({"person": ["anna"]}, "person is .* not a name or a number"),
    ({"sequence": "a\nb"}, "signs that none has"),
    ({"time": "1"}, "time is 1, not a number of seconds"),
    ({"time": float("nan")}, "time is nan"),
    ({"split": "dev"}, "split is 'dev', not one of train, val, test"),
    ({"joints3d": None}, "neither a box .* nor joints2d"),
    ({"joints3d": [[0, 0, 0]] * 16}, "joints3d is no list of 17 joints, as many as source.coco17"),
    ({"joints3d": [[0, 0, 0, 2]] * 17}, "confidence outside 0..1"),
    ({"joints3d": [[0, 0, 0, 0]] * 17}, "no joint of joints3d is known"),
    ({"joints3d": [[0, 0, -9]] * 17}, "behind the camera"),
    ({"joints2d": [[0, 0, 0]] * 17}, "no joint is labelled"),
    ({"rotation": None}, "rotation and translation come together"),
    ({"rotation": None, "translation": None}, "3d of the world need rotation and translation"),
    ({"rotation": MIRROR}, "rotation does not turn"),
    ({"rotation": (2 * np.eye(3)).tolist()}, "rotation does not turn"),
    ({"intrinsics": np.zeros((3, 3)).tolist()}, "no camera matrix"),
    ({"body_pose": [0.0] * 69}, "are of a model: set source.body"),
    ({"hand_pose": [0.0] * 45}, "are of a model: set source.hand"),
    ({"label": "fist"}, "not one of source.classes"),
    ({"mask": "none.png"}, "its mask: there is no picture"),
    ({"part_map": "people.jsonl"}, "its part_map: the picture cannot be read"),
    ({"part_map": "left/0.0.png"}, r"its part_map: it has colours \(RGB\)"),
    ({"part_map": "many.png"}, "more than 14 parts; 1.. are torso, head"),
]


@pytest.mark.parametrize(("change", "reason"), BAD, ids=[reason[:30] for _, reason in BAD])
def test_a_line_that_is_wrong_is_a_reject(root: Path, change: Any, reason: str) -> None:
    Image.fromarray(np.full(SIZE[::-1], 15, np.uint8)).save(root / "many.png")
    wrong = line("left", 0.5) | change if isinstance(change, dict) else change
    write(root, [line("left", 0.0), wrong, "  ", line("left", 1.0)])
    records, rejects = read(root)
    assert [record.time for record in records] == [0.0, 1.0]
    ((source, said),) = rejects.items()
    assert source == "people.jsonl, line 2"
    assert re.search(reason, said), said
    assert "\n" not in said


def test_joints_without_an_order_are_refused(root: Path) -> None:
    _, rejects = read(root, joints=None)
    assert all("set source.joints to its name" in reason for reason in rejects.values())
    assert len(rejects) == 6


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"joints": "coco"}, "joints must be one of smpl24, .* found coco"),
        ({"names": ("nose", "noose")}, "names must be of coco17, each once, or -.* found noose"),
        ({"names": ("nose", "nose")}, "each once"),
        ({"joints": None, "names": ("nose",)}, "set joints to it"),
        ({"files": ()}, "at least one file"),
        ({"unit_m": 0.0}, "unit_m must be above 0"),
        ({"classes": ("a", "a")}, "classes must be named once"),
        ({"box_margin": -1.0}, "box_margin must be in"),
        ({"body_file": Path("a")}, "set body to smpl, joints to smpl24"),
        ({"body": "free", "hand": "mano"}, "must both be the free ones"),
    ],
)
def test_recipes_that_cannot_be(tmp_path: Path, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config(tmp_path, **keys)


def test_what_is_missing_is_named(root: Path) -> None:
    for keys, said in (
        ({"files": ("persons.jsonl",)}, r"persons.jsonl is missing; write one JSON object"),
        ({"files": ("../people.jsonl",)}, "source.files: .* leads out"),
    ):
        with pytest.raises(ValueError, match=said):
            read(root, **keys)
    with pytest.raises(ValueError, match="is no folder"):
        list(labelled.frames(replace(config(root), root=root / "none")))
