"""HUMBI's layout: its text files of cameras, joints in every view, view pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpse_dist.data.importers import humbi
from hpse_dist.data.importers.humbi import HumbiConfig
from hpse_dist.records import FrameRecord
from tests.data.importers import made_people as made
from tests.data.importers.annotated import parted

CAMERAS = (0, 4, 33)
MOMENTS = (1, 7)


def camera_file(blocks: dict[int, np.ndarray]) -> str:
    lines = ["Numcam: 107", f"numframes: {len(blocks)}", f"numP: {len(blocks)}"]
    for number, rows in blocks.items():
        lines += [f"0 {number}", *(" ".join(map(repr, row)) for row in rows.tolist())]
    return "\n".join(lines) + "\n"


def places(moment: int) -> np.ndarray:
    """The last of 25 joints was not found: it is at the origin, outside the person."""
    found = made.person(25, moment)
    found[24] = 0
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    body = tmp_path / "subject_82" / "body"
    inner, outer = {}, {}
    for place, number in enumerate(CAMERAS):
        turn, move = made.camera(place)
        inner[number] = made.MATRIX
        outer[number] = np.vstack([-turn.T @ move, turn])
    for moment in MOMENTS:
        folder = body / f"{moment:08d}"
        (folder / "reconstruction").mkdir(parents=True)
        rows = (" ".join(map(repr, row)) for row in places(moment).tolist())
        (folder / "reconstruction" / "keypoints.txt").write_text("\n".join(rows) + "\n")
        for place, number in enumerate(CAMERAS):
            pixels = made.project(places(moment)[:24], *made.camera(place))
            made.save(folder / "image" / f"image{number:07d}.jpg", made.picture(pixels))
    (body / "intrinsic.txt").write_text(camera_file(inner))
    (body / "extrinsic.txt").write_text(camera_file(outer))
    return tmp_path


def read(root: Path, **changes: Any) -> tuple[list[FrameRecord], dict[str, str]]:
    return parted(humbi.frames(HumbiConfig(root, **changes)))


def test_joints_sit_on_the_person_in_every_camera(root: Path) -> None:
    people, rejects = read(root)
    assert len(people) == 6 and not rejects
    for person in people:
        made.check(person)
        assert person.labels["joints3d"][24, 3] == 0
    assert [(p.camera, round(p.time * 60)) for p in people[2:4]] == [("cam033", 1), ("cam000", 7)]
    angles = made.view_pairs([p for p in people if p.time < 0.1])
    assert any(45 < angle < 55 for angle in angles)
    assert len(read(root, cameras=(4,), every=2)[0]) == 1


def test_units_scale_the_world(root: Path) -> None:
    near, _ = read(root)
    far, _ = read(root, metres=2.0)
    assert np.allclose(far[0].labels["joints2d"], near[0].labels["joints2d"])
    assert np.allclose(far[0].labels["joints3d"][:, :3], 2 * near[0].labels["joints3d"][:, :3])


def test_broken_moments_cameras_and_subjects_are_rejects(root: Path) -> None:
    body = root / "subject_82" / "body"
    (body / "00000001" / "image" / "image0000004.jpg").unlink()
    (body / "00000007" / "reconstruction" / "keypoints.txt").write_text("1 2 x\n" * 25)
    for subject, text in {
        83: "a\nb\nc\n0 1\n1 0 0\n",
        84: "a\nb\nc\n0 x\n1 0 0\n0 1 0\n0 0 1\n",
    }.items():
        other = root / f"subject_{subject}" / "body"
        other.mkdir(parents=True)
        (other / "intrinsic.txt").write_text(text)
        (other / "extrinsic.txt").write_text((body / "extrinsic.txt").read_text())
    people, rejects = read(root)
    assert len(people) == 2
    assert "no picture" in rejects["subject_82/body/00000001/image/image0000004.jpg"]
    assert "not a number" in rejects["subject_82/body/00000007"]
    assert "cut off" in rejects["subject_83/body"]
    assert "line 4: not the number of a camera" in rejects["subject_84/body"]
    _, rejects = read(root, subjects=(82,), cameras=(4, 5))
    assert rejects == {"subject_82/body": "camera 5 is not calibrated"}


def test_what_is_missing_is_named(root: Path) -> None:
    with pytest.raises(ValueError, match=r"subject_1/body: HUMBI's body session is missing; get"):
        read(root, subjects=(1,))
    (root / "subject_82" / "body" / "extrinsic.txt").unlink()
    with pytest.raises(ValueError, match=r"extrinsic\.txt: HUMBI's file of cameras is missing"):
        read(root)
    with pytest.raises(ValueError, match="cameras must be among 0 to 106"):
        HumbiConfig(root, cameras=(107,))
