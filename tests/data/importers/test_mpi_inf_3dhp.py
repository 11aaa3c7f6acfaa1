"""MPI-INF-3DHP's layout, from frames and from videos; cameras of one moment give view pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from hpse_dist.body.joints import JOINT_SETS
from hpse_dist.data.importers import mpi_inf_3dhp
from hpse_dist.data.importers.mpi_inf_3dhp import Mpi3dhpConfig
from hpse_dist.data.importers.official import Bad
from hpse_dist.records import FrameRecord, Reject
from tests.data.importers import made_people as made

FRAMES, CAMERAS = 3, (0, 4)


def calibration() -> str:
    lines = ["Skeletool Camera Calibration File V1.0"]
    for place, name in enumerate(CAMERAS):
        inner, outer = np.eye(4), np.eye(4)
        inner[:3, :3] = made.MATRIX
        outer[:3, :3], outer[:3, 3] = made.camera(place)
        outer[:3, 3] *= 1000
        lines += [f"name          {name}", "  sensor      10 10", "  size        320 240"]
        lines += [
            "  animated    0",
            f"  intrinsic   {' '.join(map(repr, inner.ravel().tolist()))} ",
        ]
        lines += [
            f"  extrinsic   {' '.join(map(repr, outer.ravel().tolist()))} ",
            "  radial      0",
        ]
    return "\n".join(lines)


def annotation(broken: int | None = None) -> dict[str, Any]:
    """annot.mat of two cameras; the 3D joints of a `broken` frame are somewhere else."""
    cells2, cells3 = np.empty((2, 1), object), np.empty((2, 1), object)
    for place in range(2):
        rotation, translation = made.camera(place)
        worlds = [made.person(28, i) for i in range(FRAMES)]
        cells2[place, 0] = np.stack(
            [made.project(w, rotation, translation).ravel() for w in worlds]
        )
        seen = np.stack([(w @ rotation.T + translation).ravel() * 1000 for w in worlds])
        if broken is not None:
            seen[broken] += 200
        cells3[place, 0] = seen
    return {"annot2": cells2, "annot3": cells3, "cameras": np.array([CAMERAS])}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "S1" / "Seq2"
    folder.mkdir(parents=True)
    (folder / "camera.calibration").write_text(calibration())
    scipy.io.savemat(folder / "annot.mat", annotation())
    for place, name in enumerate(CAMERAS):
        for i, image in enumerate(pictures(place)):
            made.save(folder / "imageFrames" / f"video_{name}" / f"frame_{i + 1:06d}.jpg", image)
    return tmp_path


def pictures(place: int) -> list[np.ndarray]:
    return [
        made.picture(made.project(made.person(28, i), *made.camera(place))) for i in range(FRAMES)
    ]


def read(root: Path, **changes: Any) -> list[FrameRecord | Reject]:
    given = {"subjects": (1,), "sequences": (2,), "cameras": CAMERAS, "every": 1, **changes}
    return list(mpi_inf_3dhp.frames(Mpi3dhpConfig(root, **given)))


@pytest.mark.parametrize("joint_set", ["mpi17", "mpi28"])
def test_joints_sit_on_the_person_in_every_camera(root: Path, joint_set: str) -> None:
    records = read(root, joint_set=joint_set)
    assert len(records) == 6
    for record in records:
        assert isinstance(record, FrameRecord)
        made.check(record)
    assert [(r.camera, r.time) for r in records[:3]] == [  # type: ignore[union-attr]
        ("video_0", 0.0),
        ("video_4", 0.0),
        ("video_0", 0.02),
    ]
    place = JOINT_SETS[joint_set].index("right_wrist")
    right_wrist = made.person(28, 0)[16]  # joint 17 of the dataset's own list
    rotation, translation = made.camera(0)
    assert np.allclose(
        records[0].labels["joints3d"][place, :3],  # type: ignore[union-attr]
        rotation @ right_wrist + translation,
    )


def test_two_cameras_of_a_moment_make_a_view_pair(root: Path) -> None:
    angles = made.view_pairs([r for r in read(root) if isinstance(r, FrameRecord)])
    assert len(angles) == FRAMES and all(45 < angle < 55 for angle in angles)


def test_videos_serve_as_well_and_may_end_early(root: Path) -> None:
    folder = root / "S1" / "Seq2"
    (folder / "imageFrames").rename(folder / "elsewhere")
    for place, name in enumerate(CAMERAS):
        images = pictures(place)[: FRAMES - place]
        made.film(folder / "imageSequence" / f"video_{name}.avi", images, 50)
    records = read(root)
    for record in records[:5]:
        assert isinstance(record, FrameRecord)
        made.check(record)
    last = records[5]
    assert isinstance(last, Reject) and "the footage ends" in last.reason
    assert last.source == "S1/Seq2, camera 4, frame 2"


def test_labels_that_contradict_one_another_are_rejected(root: Path) -> None:
    folder = root / "S1" / "Seq2"
    scipy.io.savemat(folder / "annot.mat", annotation(broken=1))
    rejects = [record for record in read(root) if isinstance(record, Reject)]
    assert [reject.source[-7:] for reject in rejects] == ["frame 1", "frame 1"]
    assert "do not project" in rejects[0].reason
    (folder / "annot.mat").write_bytes(b"MATLAB 5.0 MAT-file, no more")
    (reject,) = read(root)
    assert isinstance(reject, Reject) and "MATLAB" in reject.reason


def test_labels_of_another_shape_are_rejected(root: Path) -> None:
    wrong = annotation() | {"cameras": np.array([[np.inf, 1.0]])}
    scipy.io.savemat(root / "S1" / "Seq2" / "annot.mat", wrong)
    (reject,) = read(root)
    assert isinstance(reject, Reject) and "cameras holds NaN or infinity" in reject.reason
    for cells in (np.zeros(3, dtype=object), np.zeros((3, 0), dtype=object)):
        with pytest.raises(Bad, match="annot2 has no cell of camera 1"):
            mpi_inf_3dhp._joints(cells, 1, 2, "annot2")


def test_what_is_missing_is_named(root: Path) -> None:
    with pytest.raises(ValueError, match=r"S1/Seq1/annot.mat: .*get_dataset\.sh"):
        read(root, sequences=(1,))
    (root / "S1" / "Seq2" / "imageFrames" / "video_4").rename(root / "elsewhere")
    with pytest.raises(ValueError, match=r"imageSequence/video_4.avi: .*video is missing"):
        read(root)
