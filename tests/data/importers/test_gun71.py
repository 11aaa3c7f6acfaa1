"""GUN-71's layout: grasps by the numbers in pictures' names, subjects apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpse_dist.data.importers import gun71
from hpse_dist.data.importers.gun71 import Gun71Config
from hpse_dist.records import FrameRecord
from tests.data.importers.annotated import HEIGHT, WIDTH, parted, picture


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for subject in range(1, 9):
        picture(tmp_path / f"Subject{subject}" / "G01_mug_rgb.jpg")
    picture(tmp_path / "Subject1" / "more" / "G52_pen.jpg")
    picture(tmp_path / "Subject1" / "G73_lid.jpg")
    picture(tmp_path / "Subject1" / "G01_mug_depth.png")
    picture(tmp_path / "Subject2" / "G51_none.jpg")
    picture(tmp_path / "Subject2" / "notes.jpg")
    (tmp_path / "Subject2" / "G02_bad.jpg").write_bytes(b"\xff\xd8 no picture")
    return tmp_path


def read(root: Path, **changes: Any) -> tuple[list[FrameRecord], dict[str, str]]:
    return parted(gun71.frames(Gun71Config(root, **changes)))


def test_grasps_are_classes_and_subjects_splits(root: Path) -> None:
    people, rejects = read(root)
    found = {person.source: int(person.labels["label"]) for person in people}
    assert found["Subject1/G01_mug_rgb.jpg"] == 0 and found["Subject1/G73_lid.jpg"] == 70
    assert found["Subject1/more/G52_pen.jpg"] == 50  # 51 was never taken
    names = gun71.provenance(Gun71Config(root)).details["classes"]
    assert len(names) == 71 and names[50] == "grasp 52"
    assert {p.subject for p in people if p.split == "val"} == {"Subject8"} and len(people) == 10
    assert people[0].box == (0.0, 0.0, WIDTH, HEIGHT)
    assert set(rejects) == {f"Subject2/{n}.jpg" for n in ("G51_none", "notes", "G02_bad")}
    assert "cannot be read" in rejects["Subject2/G02_bad.jpg"]
    assert "which of the 71 grasps" in rejects["Subject2/notes.jpg"]


def test_what_is_missing_is_named(root: Path) -> None:
    with pytest.raises(ValueError, match=r"Subject9 is missing; get GUN-71 from gregrogez"):
        read(root, subjects=("Subject9",), held_out=())
    (root / "Subject3" / "G01_mug_rgb.jpg").unlink()
    with pytest.raises(ValueError, match=r"Subject3: no picture \(\.jpg\) in it"):
        read(root)
    with pytest.raises(ValueError, match="held_out must be some of subjects"):
        Gun71Config(root, subjects=("Subject1",))
