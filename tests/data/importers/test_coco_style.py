"""COCO keypoints and COCO-WholeBody in their official layout: numbers, order, what is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpse_dist.body.joints import JOINT_SETS
from hpse_dist.data.importers import coco, coco_wholebody
from tests.data.importers.annotated import (
    HEIGHT,
    WIDTH,
    parted,
    picture,
    places,
    triples,
    write_json,
)

SURE = [2, 1, 0] + [2] * 14


def person(number: int, image: Any, **changes: Any) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [30.5, 20.0, 150.0, 160.0],
        "segmentation": [[30, 20, 180, 20, 180, 180, 30, 180]],
        "keypoints": triples(places(17, number), SURE),
        "num_keypoints": 16,
        **changes,
    }


def write(root: Path, people: list[Any], name: str = "person_keypoints_val2017") -> None:
    names = {1: "000000000001.jpg", 2: "000000000002.jpg", 3: "../../../etc/passwd"}
    images = [{"id": i, "file_name": n, "width": WIDTH, "height": HEIGHT} for i, n in names.items()]
    write_json(root / "annotations" / f"{name}.json", {"images": images, "annotations": people})
    for i in (1, 2):
        picture(root / "val2017" / names[i])


def read(root: Path, **changes: Any) -> tuple[list[Any], dict[str, str]]:
    return parted(coco.frames(coco.Config(root, splits=("val",), **changes)))


def test_people_of_one_picture_come_together_with_their_numbers(tmp_path: Path) -> None:
    write(tmp_path, [person(7, 1), person(8, 2), person(9, 1)])
    frames, rejects = read(tmp_path)
    assert [frame.source.rpartition(" ")[2] for frame in frames] == ["7", "9", "8"]
    frame = frames[0]
    assert frame.box == (30.5, 20.0, 180.5, 180.0) and frame.split == "val"
    joints, xy = frame.labels["joints2d"], places(17, 7)
    assert joints[:3, 2].tolist() == [1.0, 0.5, 0.0]  # in sight, hidden, not labelled
    assert np.allclose(joints[3:, :2], xy[3:] + 0.5) and not joints[2].any()
    assert frame.mask.shape == (HEIGHT, WIDTH) and frame.mask.sum() == pytest.approx(
        150 * 160, rel=0.02
    )
    assert frame.mask[21, 31] and not frame.mask[18, 100]
    assert not rejects and read(tmp_path, masks=False)[0][0].mask is None


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"keypoints": [1, 2, 3]}, "keypoints has 3 numbers, not 51"),
        ({"keypoints": ["a"] * 51}, "not a number"),
        ({"keypoints": [float("nan")] * 51}, "NaN or infinity"),
        ({"keypoints": [10**400] * 51}, "beyond all bounds"),
        ({"keypoints": [7] * 51}, "visibility other than 0..2"),
        ({"keypoints": [0] * 51}, "no joint is labelled"),
        ({"keypoints": None}, "not a list"),
        ({"bbox": {"x": 1}}, "bbox is"),
        ({"bbox": [5, 5, 0, 10]}, "box is empty"),
        ({"iscrowd": 1}, "a crowd"),
        ({"segmentation": {"size": [5, 5], "counts": [25]}}, "the mask has shape"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [3]}}, "do not add up"),
        ({"segmentation": {"size": [10**6, 10**6], "counts": "0"}}, "not believed"),
        ({"segmentation": [[1, 2, 3]]}, "not a polygon"),
    ],
)
def test_a_broken_person_is_a_reject_with_its_reason(
    tmp_path: Path, broken: dict[str, Any], reason: str
) -> None:
    write(tmp_path, [person(7, 1, **broken), person(8, 1)])
    frames, rejects = read(tmp_path)
    assert len(frames) == 1 and len(rejects) == 1
    ((source, said),) = rejects.items()
    assert source.endswith("person 7") and reason in said


def test_names_that_lead_out_and_people_of_no_picture_are_rejects(tmp_path: Path) -> None:
    write(tmp_path, [person(7, 3), person(8, 99), person(9, [1]), "no person", person(10, 1)])
    (tmp_path / "val2017" / "000000000001.jpg").unlink()
    frames, rejects = read(tmp_path)
    said = sorted(rejects.values())
    assert not frames and len(said) == 5
    assert any("leads out of the dataset's folder" in reason for reason in said)
    assert any("image_id 99 is no picture" in reason for reason in said)
    assert any("there is no picture" in reason for reason in said)
    assert sum("no object that has" in reason for reason in said) == 2


def test_what_is_missing_is_named_with_its_origin(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"person_keypoints_train2017\.json is missing; .*cocodat"):
        list(coco.frames(coco.Config(tmp_path)))
    write(tmp_path, [person(7, 1)])
    (tmp_path / "annotations" / "person_keypoints_val2017.json").write_text('{"images": [{"id"')
    with pytest.raises(ValueError, match="no whole JSON file"):
        read(tmp_path)


def test_whole_bodies_have_133_places(tmp_path: Path) -> None:
    more = {"foot_kpts": 6, "face_kpts": 68, "lefthand_kpts": 21, "righthand_kpts": 21}
    xy = {key: places(count, i) for i, (key, count) in enumerate(more.items())}
    parts = {key: triples(values, [1.0] * len(values)) for key, values in xy.items()}
    without = {key: values for key, values in parts.items() if key != "face_kpts"}
    write(tmp_path, [person(7, 1, **parts), person(8, 1, **without)], "coco_wholebody_val_v1.0")
    config = coco_wholebody.Config(tmp_path, splits=("val",))
    frames, rejects = parted(coco_wholebody.frames(config))
    joint_set = coco_wholebody.provenance(config).joint_set
    names = JOINT_SETS[joint_set or ""]
    joints = frames[0].labels["joints2d"]
    assert joints.shape == (len(names), 3) == (133, 3) and joints[17:, 2].all()
    for name, key, row in [
        ("left_big_toe", "foot_kpts", 0),
        ("chin", "face_kpts", 8),
        ("left_eye_rim1", "face_kpts", 45),
        ("left_hand_root", "lefthand_kpts", 0),
        ("right_hand_pinky4", "righthand_kpts", 20),
    ]:
        assert np.allclose(joints[names.index(name), :2], xy[key][row] + 0.5), name
    assert list(rejects.values()) == ["face_kpts is None, not a list of 204 numbers"]


REAL = Path(__file__).parents[4] / "shared" / "real" / "coco"


@pytest.mark.skipif(not REAL.is_dir(), reason="no real samples beside the checkout")
def test_real_people_are_inside_their_boxes() -> None:
    frames, rejects = read(REAL, annotations="test_coco.json", pictures=".")
    assert len(frames) == 12 and set(rejects.values()) == {"no joint is labelled"}
    for frame in frames:
        x0, y0, x1, y1 = frame.box
        x, y, _ = frame.labels["joints2d"][frame.labels["joints2d"][:, 2] == 1].T
        assert ((x > x0 - 2) & (x < x1 + 2) & (y > y0 - 2) & (y < y1 + 2)).all()
