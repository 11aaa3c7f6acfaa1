"""MuCo-3DHP's layout: several people to a picture, each before one camera."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpse_dist.data.importers import muco
from hpse_dist.data.importers.muco import MucoConfig
from hpse_dist.records import FrameRecord
from tests.data.importers import made_people as made
from tests.data.importers.annotated import parted, write_json

NAMES = ("unaugmented_set/001/0001.jpg", "augmented_set/001/0002.jpg")


def joints(number: int) -> np.ndarray:
    """(21, 3) before the camera, metres."""
    turn, move = made.camera(number)
    return made.person(21, number) @ turn.T + move


def person(number: int, image: int, **changes: Any) -> dict[str, Any]:
    places = joints(number)
    pixels = made.project(places, np.eye(3), np.zeros(3))
    return {
        "id": number,
        "image_id": image,
        "bbox": [1, 1, 100, 100],
        "keypoints_cam": (1000 * places).tolist(),
        "keypoints_img": pixels.tolist(),
        **changes,
    }


def write(root: Path, people: list[Any]) -> Path:
    camera = {"f": [made.MATRIX[0, 0], made.MATRIX[1, 1]], "c": made.MATRIX[:2, 2].tolist()}
    size = {"width": made.SIZE[0], "height": made.SIZE[1]}
    images = [{"id": i, "file_name": name, **size, **camera} for i, name in enumerate(NAMES)]
    images.append({**images[0], "id": 9, "file_name": "../secret.jpg"})
    images.append({**images[0], "id": 8, "f": [1.0]})
    images.append({**images[0], "id": 7, "file_name": ""})
    write_json(root / "MuCo-3DHP.json", {"images": images, "annotations": people})
    drawn = [made.project(joints(n), np.eye(3), np.zeros(3)) for n in range(4)]
    for name in NAMES:
        made.save(root / name, made.picture(np.concatenate(drawn)))
    return root


def read(root: Path, **changes: Any) -> tuple[list[FrameRecord], dict[str, str]]:
    return parted(muco.frames(MucoConfig(root, **changes)))


def test_joints_sit_on_everybody(tmp_path: Path) -> None:
    write(tmp_path, [person(0, 0), person(1, 1), person(2, 0)])
    people, _ = read(tmp_path)
    for one in people:
        made.check(one)
    assert [(p.sequence, p.track) for p in people] == [
        (NAMES[0], "0"),
        (NAMES[0], "1"),
        (NAMES[1], "0"),
    ]
    assert np.allclose(people[1].labels["joints3d"][:, :3], joints(2))
    assert len(read(tmp_path, sets=("unaugmented_set",))[0]) == 2


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"keypoints_cam": [[0, 0, 1]]}, "keypoints_cam has 1 x 3 numbers, not 21 x 3"),
        ({"keypoints_img": None}, "keypoints_img is None"),
        ({"keypoints_cam": (joints(1) * 1000 + [200, 0, 0]).tolist()}, "do not project onto"),
        ({"image_id": 77}, "image_id 77 is no picture"),
        ({"image_id": 9}, "leads out of the dataset's folder"),
        ({"image_id": 8}, "f has 1 numbers, not 2"),
    ],
)
def test_a_broken_person_is_a_reject(tmp_path: Path, broken: dict[str, Any], reason: str) -> None:
    write(tmp_path, [person(0, 0), person(1, 0, **broken)])
    people, rejects = read(tmp_path)
    assert len(people) == 1 and any(reason in said for said in rejects.values())


def test_a_picture_without_a_name_is_a_reject_that_says_so(tmp_path: Path) -> None:
    people, rejects = read(write(tmp_path, [person(0, 0), person(1, 0, image_id=7)]))
    assert len(people) == 1 and "a picture without a name" in rejects and "" not in rejects


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"MuCo-3DHP\.json is missing; get MuCo"):
        read(tmp_path)
    with pytest.raises(ValueError, match="other_set is missing"):
        read(write(tmp_path, [person(0, 0)]), sets=("other_set",))
