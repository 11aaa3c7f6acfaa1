"""MuPoTS-3D: 20 clips of two or three people, the test set of multi-person 3D pose.

    root/TS1/annot.mat   root/TS1/img_000000.jpg

The camera's matrix is not among the files: it follows from 3D and 2D joints, of which one is the
other's projection. The world is the camera's frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpse_dist.data.importers.matlab import read_mat
from hpse_dist.data.importers.official import NEAR_M, Bad, numbers
from hpse_dist.data.importers.views3d import (
    Moment,
    Sight,
    Stills,
    need,
    person_record,
    whole_positive,
)
from hpse_dist.records import FrameRecord, Provenance, Reject

RATE = 30.0  # taken as such: the dataset does not say it
MOST_PX = 2.0  # how far 3D joints may project from the 2D joints of the same file
_GET = "get mupots-3d-eval.zip from its site and set source.root to its folder MultiPersonTestSet"


@dataclass(frozen=True)
class MupotsConfig:
    """Which of MuPoTS-3D's clips."""

    root: Path
    """The folder that holds TS1 to TS20."""
    clips: tuple[int, ...] = tuple(range(1, 21))
    """Numbers of the clips; 1 to 5 are indoors."""
    every: int = 1
    """Every n-th frame."""

    def __post_init__(self) -> None:
        whole_positive(every=self.every)
        if not self.clips or set(self.clips) - set(range(1, 21)):
            raise ValueError(f"clips must be among 1 to 20, found {self.clips}")


Config = MupotsConfig


def frames(config: MupotsConfig) -> Iterator[FrameRecord | Reject]:
    """A record for each person and frame; all of them are of the split test."""
    for clip in config.clips:
        folder = config.root / f"TS{clip}"
        need(folder / "annot.mat", "MuPoTS-3D's file of joints", _GET)
        try:
            yield from _clip(folder, config.every)
        except Bad as error:
            yield Reject(folder.name, str(error))


def provenance(config: MupotsConfig) -> Provenance:
    """Licence and origin of MuPoTS-3D."""
    return Provenance(
        importer="mupots",
        licence="MuPoTS-3D licence: non-commercial academic research",
        commercial=False,
        citation="Mehta et al., Single-Shot Multi-Person 3D Pose Estimation From Monocular RGB, "
        "3DV 2018",
        joint_set="mpi17",
        details={"intrinsics": "solved from the 3D and 2D joints of each clip"},
    )


def solve_intrinsics(places: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """(3, 3) matrix that projects places (N, 3) onto pixels (N, 2), by least squares.

    u = f x / z + c for each axis: two numbers of it each. Raises Bad for fewer than two rays.
    """
    matrix = np.eye(3)
    for axis in range(2):
        rays = np.column_stack([places[:, axis] / places[:, 2], np.ones(len(places))])
        solution, _, rank, _ = np.linalg.lstsq(rays, pixels[:, axis], rcond=None)
        if rank < 2:
            raise Bad("too few joints to know the camera from")
        matrix[axis, axis], matrix[axis, 2] = solution
    return matrix


def _clip(folder: Path, every: int) -> Iterator[FrameRecord | Reject]:
    cells = read_mat(folder / "annot.mat", ("annotations",))["annotations"]
    if cells.ndim != 2:
        raise Bad(f"annotations has shape {cells.shape}, not frames x people")
    people: dict[tuple[int, int], tuple[np.ndarray, np.ndarray] | str] = {}
    for frame in range(0, len(cells), every):
        for person in range(cells.shape[1]):
            people[frame, person] = _read(cells[frame, person])
    usable = [entry for entry in people.values() if not isinstance(entry, str)]
    if not usable:
        raise Bad("nobody in it has joints")
    matrix = _median_intrinsics(usable)
    sight = Sight(matrix, np.eye(3), np.zeros(3))
    stills = Stills(folder, "img_{:06d}.jpg")
    for (frame, person), entry in people.items():
        source = f"{folder.name}/img_{frame:06d}.jpg, person {person}"
        subject = f"{folder.name}/{person}"
        moment = Moment(subject, folder.name, "camera", frame / RATE, source, "test")
        (picture,) = stills.pictures([frame])
        if isinstance(entry, str):
            yield Reject(source, entry)
        elif picture is None:
            yield Reject(source, "no picture of this frame")
        else:
            yield _record(moment, picture, entry, sight)


def _median_intrinsics(people: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The clip's camera, from those people of whom it follows; one wrong person moves it little."""
    solved = [solve_intrinsics(places, pixels) for places, pixels in people[:2000]]
    return np.median(solved, axis=0)


def _read(cell: np.ndarray) -> tuple[np.ndarray, np.ndarray] | str:
    """Joints (17, 3) in metres and (17, 2) in pixels; or why there are none."""
    try:
        entry = np.ravel(cell)[0]
        if not numbers(np.ravel(entry["isValidFrame"])[:1], (1,), "isValidFrame")[0]:
            return "the dataset marks it as not valid (isValidFrame)"
        places = numbers(entry["annot3"].T, (17, 3), "annot3") / 1000
        pixels = numbers(entry["annot2"].T, (17, 2), "annot2")
    except (Bad, IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        return f"its labels cannot be read: {error}"
    return (places, pixels) if (places[:, 2] >= NEAR_M).all() else "joints behind the camera"


def _record(
    moment: Moment, picture: Path, entry: tuple[np.ndarray, np.ndarray], sight: Sight
) -> FrameRecord | Reject:
    places, pixels = entry
    apart = np.linalg.norm(sight.project(places) - pixels, axis=1)
    if not (apart < MOST_PX).all():
        return Reject(moment.source, "the 3D joints do not project onto the 2D joints (annot.mat)")
    ones: np.ndarray = np.ones((17, 1))
    joints, spots = np.hstack([places, ones]), np.hstack([pixels, ones])
    return person_record(moment, picture, joints, sight, middle=(14,), margin=0.06, pixels=spots)
