"""MPI-INF-3DHP's training set: 8 people, 14 calibrated cameras at once, a green studio.

    root/S1/Seq1/annot.mat   root/S1/Seq1/camera.calibration
    root/S1/Seq1/imageSequence/video_0.avi or root/S1/Seq1/imageFrames/video_0/frame_000001.jpg

Frames extracted by others start at number 1. The test set's files are MATLAB 7.3 (HDF5), which this
does not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from hpse_dist.body.joints import JOINT_SETS
from hpse_dist.data.importers.matlab import read_mat
from hpse_dist.data.importers.official import Bad, numbers
from hpse_dist.data.importers.views3d import (
    Film,
    Moment,
    Sight,
    Stills,
    find_footage,
    need,
    person_record,
    side_by_side,
    whole_positive,
)
from hpse_dist.records import FrameRecord, Provenance, Reject

MOST_PX = 2.0  # how far 3D joints may project from the 2D joints of the same file
_GET = "get it with the dataset's get_dataset.sh and set source.root to the folder of S1 .. S8"


@dataclass(frozen=True)
class Mpi3dhpConfig:
    """Which of MPI-INF-3DHP's frames."""

    root: Path
    """The folder that holds S1, S2, ..."""
    subjects: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    """Numbers of the subjects."""
    sequences: tuple[int, ...] = (1, 2)
    """Numbers of their sequences: 1 everyday clothes, 2 plain ones."""
    cameras: tuple[int, ...] = (0, 1, 2, 4, 5, 6, 7, 8)
    """Numbers of the cameras, 0 to 13; as they are, without those at the ceiling."""
    every: int = 10
    """Every n-th frame."""
    joint_set: Literal["mpi17", "mpi28"] = "mpi17"
    """17: those of the test set and of its protocol; 28: all."""

    def __post_init__(self) -> None:
        whole_positive(every=self.every)
        if not self.cameras or set(self.cameras) - set(range(14)):
            raise ValueError(f"cameras must be among 0 to 13, found {self.cameras}")


Config = Mpi3dhpConfig


def frames(config: Mpi3dhpConfig) -> Iterator[FrameRecord | Reject]:
    """A record for each camera and moment; the cameras of a moment come one after another."""
    for subject in config.subjects:
        for number in config.sequences:
            folder = config.root / f"S{subject}" / f"Seq{number}"
            name = f"S{subject}/Seq{number}"
            need(folder / "annot.mat", "MPI-INF-3DHP's file of joints", _GET)
            need(folder / "camera.calibration", "MPI-INF-3DHP's file of cameras", _GET)
            try:
                yield from _sequence(folder, name, config)
            except Bad as error:
                yield Reject(name, str(error))


def provenance(config: Mpi3dhpConfig) -> Provenance:
    """Licence and origin of MPI-INF-3DHP."""
    return Provenance(
        importer="mpi_inf_3dhp",
        licence="MPI-INF-3DHP licence: non-commercial academic research",
        commercial=False,
        citation="Mehta et al., Monocular 3D Human Pose Estimation In The Wild Using Improved CNN "
        "Supervision, 3DV 2017",
        joint_set=config.joint_set,
    )


def frame_rate(subject: int, sequence: int) -> float:
    """Pictures per second, as the dataset's mpii_get_sequence_info lists them."""
    return 50.0 if subject in (3, 5) or (subject, sequence) == (1, 2) else 25.0


def read_cameras(path: Path) -> dict[int, Sight]:
    """The cameras of a Skeletool camera.calibration by number; raises Bad."""
    found: dict[int, dict[str, np.ndarray]] = {}
    name = -1
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        key, *values = line.split() or [""]
        if key == "name" and values and values[0].isdecimal():
            name = int(values[0][:9])
        elif key in ("intrinsic", "extrinsic"):
            where = f"camera.calibration, camera {name}, {key}"
            try:
                row = [float(value) for value in values]
            except ValueError:
                raise Bad(f"{where} holds what is not a number") from None
            found.setdefault(name, {})[key] = numbers(row, (16,), where).reshape(4, 4)
    cameras = {}
    for name, both in found.items():
        if len(both) < 2:
            raise Bad(f"camera.calibration, camera {name}: intrinsic or extrinsic is missing")
        turn = both["extrinsic"]
        cameras[name] = Sight(both["intrinsic"][:3, :3], turn[:3, :3], turn[:3, 3] / 1000)
    return cameras


def _joints(cells: np.ndarray, row: int, width: int, name: str) -> np.ndarray:
    """(N, 28, width) of one camera's cell of annot.mat."""
    if cells.ndim != 2 or row >= len(cells) or cells.shape[1] == 0:
        raise Bad(f"annot.mat, {name} has no cell of camera {row}")
    values = numbers(cells[row, 0], (None, 28 * width), f"annot.mat, {name} of camera {row}")
    return values.reshape(len(values), 28, width)


def _sequence(folder: Path, name: str, config: Mpi3dhpConfig) -> Iterator[FrameRecord | Reject]:
    sights = read_cameras(folder / "camera.calibration")
    annotation = read_mat(folder / "annot.mat", ("annot2", "annot3", "cameras"))
    named = numbers(annotation["cameras"].ravel(), (None,), "annot.mat, cameras")
    rows = {int(camera): row for row, camera in enumerate(named)}
    lacking = [camera for camera in config.cameras if camera not in rows or camera not in sights]
    if lacking:
        raise Bad(f"annot.mat or camera.calibration lacks camera {lacking[0]}")
    pixels = [_joints(annotation["annot2"], rows[c], 2, "annot2") for c in config.cameras]
    places = [_joints(annotation["annot3"], rows[c], 3, "annot3") for c in config.cameras]
    chosen = range(0, min(len(each) for each in (*pixels, *places)), config.every)
    footage = [_footage(folder, camera) for camera in config.cameras]
    for i, pictures in zip(chosen, side_by_side(footage, chosen), strict=True):
        for column, (camera, picture) in enumerate(zip(config.cameras, pictures, strict=True)):
            source = f"{name}, camera {camera}, frame {i}"
            if picture is None:
                yield Reject(source, "no picture of this frame: the footage ends before the labels")
                continue
            yield _record(
                _moment(name, camera, i, source),
                picture,
                places[column][i] / 1000,
                pixels[column][i],
                sights[camera],
                config.joint_set,
            )


def _moment(name: str, camera: int, i: int, source: str) -> Moment:
    subject, sequence = name.split("/")
    rate = frame_rate(int(subject[1:]), int(sequence[3:]))
    return Moment(subject, name, f"video_{camera}", i / rate, source)


def _footage(folder: Path, camera: int) -> Stills | Film:
    stills = [Stills(folder / "imageFrames" / f"video_{camera}", "frame_{:06d}.jpg", first=1)]
    films = [Film(folder / "imageSequence" / f"video_{camera}.avi", (1, 1))]
    found = find_footage(stills, films)
    if found is None:
        raise ValueError(
            f"{films[0].path}: MPI-INF-3DHP's video is missing, and so is the folder "
            f"{stills[0].folder} of its frames; {_GET}, or leave the camera out of source.cameras"
        )
    return found


def _record(
    moment: Moment,
    picture: np.ndarray | Path,
    places: np.ndarray,
    pixels: np.ndarray,
    sight: Sight,
    joint_set: str,
) -> FrameRecord | Reject:
    """A record, if 3D and 2D joints (28, 3) and (28, 2) of the files agree."""
    apart = np.linalg.norm(sight.project(places) - pixels, axis=1)
    if not (apart < MOST_PX).all():
        return Reject(moment.source, "the 3D joints do not project onto the 2D joints (annot.mat)")
    names = JOINT_SETS[joint_set]
    order = [JOINT_SETS["mpi28"].index(joint) for joint in names]
    ones: np.ndarray = np.ones((len(order), 1))
    return person_record(
        moment,
        picture,
        np.concatenate([places[order], ones], axis=1),
        sight,
        middle=(names.index("pelvis"),),
        margin=0.06,
        pixels=np.concatenate([pixels[order], ones], axis=1),
    )
