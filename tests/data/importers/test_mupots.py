"""MuPoTS-3D's layout; its camera is solved from the joints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from hpse_dist.data.importers import mupots
from hpse_dist.data.importers.mupots import MupotsConfig
from hpse_dist.records import FrameRecord, Reject
from tests.data.importers import made_people as made

FRAMES = 3


def annotation() -> np.ndarray:
    """Two people; the second is not valid in frame 1 and contradicts itself in frame 2."""
    cells = np.empty((FRAMES, 2), object)
    rotation, translation = made.camera(0)
    for i in range(FRAMES):
        for person in range(2):
            world = made.person(17, 5 * i + person)
            seen = 1000 * (world @ rotation.T + translation)
            pixels = made.project(world, rotation, translation)
            if (i, person) == (2, 1):
                pixels = pixels + np.array([8, 0])
            cells[i, person] = {
                "annot2": pixels.T,
                "annot3": seen.T,
                "univ_annot3": seen.T,
                "isValidFrame": np.array([[float((i, person) != (1, 1))]]),
            }
    return cells


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for i in range(FRAMES):
        worlds = np.concatenate([made.person(17, 5 * i + person) for person in range(2)])
        pixels = made.project(worlds, *made.camera(0))
        made.save(tmp_path / "TS1" / f"img_{i:06d}.jpg", made.picture(pixels))
    scipy.io.savemat(tmp_path / "TS1" / "annot.mat", {"annotations": annotation()})
    return tmp_path


def read(root: Path, **changes: Any) -> list[FrameRecord | Reject]:
    return list(mupots.frames(MupotsConfig(root, **{"clips": (1,), **changes})))


def test_joints_sit_on_the_people_and_the_camera_is_found(root: Path) -> None:
    records = read(root)
    people = [record for record in records if isinstance(record, FrameRecord)]
    assert len(people) == 4
    for record in people:
        made.check(record)
        assert record.intrinsics is not None and record.split == "test"
        assert np.allclose(record.intrinsics, made.MATRIX, atol=1e-6)
    reasons = [(r.source, r.reason) for r in records if isinstance(r, Reject)]
    assert [source for source, _ in reasons] == [
        "TS1/img_000001.jpg, person 1",
        "TS1/img_000002.jpg, person 1",
    ]
    assert "isValidFrame" in reasons[0][1] and "do not project" in reasons[1][1]


def test_broken_and_missing_files(root: Path) -> None:
    (root / "TS1" / "img_000000.jpg").unlink()
    first = read(root)[0]
    assert isinstance(first, Reject) and first.reason == "no picture of this frame"
    scipy.io.savemat(root / "TS1" / "annot.mat", {"annotations": np.zeros((2, 2))})
    (reject,) = read(root)
    assert isinstance(reject, Reject) and reject.reason == "nobody in it has joints"
    entry = {"isValidFrame": 1, "annot3": np.full((3, 17), 1e-320), "annot2": np.ones((2, 17))}
    assert mupots._read(np.array(entry, dtype=object)) == "joints behind the camera"
    with pytest.raises(ValueError, match=r"TS2/annot.mat: .*mupots-3d-eval\.zip"):
        read(root, clips=(2,))
