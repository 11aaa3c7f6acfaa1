"""HUMBI: hundreds of people in a ring of 107 calibrated cameras; its body sessions.

    root/subject_1/body/intrinsic.txt   root/subject_1/body/extrinsic.txt
    root/subject_1/body/00000001/image/image0000004.jpg
    root/subject_1/body/00000001/reconstruction/keypoints.txt

Camera files have three lines of counts, then for each camera "0 <number>" and its matrix; the
extrinsic one the camera's place, then world to camera. 3D keypoints are OpenPose's 25. The SMPL
fits are scaled bodies, which SMPL's parameters alone cannot say: they are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpse_dist.data.importers.official import Bad, check_shared_keys, numbers
from hpse_dist.data.importers.views3d import Moment, Sight, Stills, need, person_record
from hpse_dist.records import FrameRecord, Provenance, Reject
from hpse_dist.safety import one_line

_GET = (
    "get the body sessions from humbi-data.net and unpack them in source.root, as "
    "subject_<number>/body"
)


@dataclass(frozen=True)
class HumbiConfig:
    """Which of HUMBI's subjects, cameras and moments."""

    root: Path
    """The folder that holds subject_1, subject_2, ..."""
    subjects: tuple[int, ...] = ()
    """Numbers of subjects; empty takes all that are there."""
    cameras: tuple[int, ...] = ()
    """Numbers of cameras, 0 to 106; empty takes all that are calibrated."""
    every: int = 1
    """Every n-th of a subject's moments."""
    frame_rate: float = 60.0
    """How many of the moments' numbers make a second."""
    metres: float = 1.0
    """How many metres one unit of the files is; they do not say it, and 1 is taken as such."""

    def __post_init__(self) -> None:
        check_shared_keys(self)
        if set(self.cameras) - set(range(107)):
            raise ValueError(f"cameras must be among 0 to 106, found {self.cameras}")
        if self.metres <= 0:
            raise ValueError(f"metres must be above 0, found {self.metres}")


Config = HumbiConfig


def frames(config: HumbiConfig) -> Iterator[FrameRecord | Reject]:
    """A record for each camera and moment; the cameras of a moment come one after another."""
    root = need(config.root, "HUMBI's folder", _GET)
    there = sorted(
        int(path.parent.name.removeprefix("subject_"))
        for path in root.glob("subject_*/body")
        if path.parent.name.removeprefix("subject_").isdecimal()
    )
    if not config.subjects and not there:
        raise ValueError(f"{root}: no subject_<number>/body in it; {_GET}")
    for subject in config.subjects or there:
        folder = need(root / f"subject_{subject}" / "body", "HUMBI's body session", _GET)
        files = [
            need(folder / f"{kind}.txt", "HUMBI's file of cameras", _GET)
            for kind in ("intrinsic", "extrinsic")
        ]
        try:
            cameras = read_cameras(*files)
            lacking = [number for number in config.cameras if number not in cameras]
            if lacking:
                raise Bad(f"camera {lacking[0]} is not calibrated")
        except Bad as error:
            yield Reject(f"subject_{subject}/body", str(error))
            continue
        yield from _session(folder, f"subject_{subject}", cameras, config)


def provenance(config: HumbiConfig) -> Provenance:
    """Licence and origin of HUMBI."""
    return Provenance(
        importer="humbi",
        licence="HUMBI licence: non-commercial research, after registration",
        commercial=False,
        citation="Yu et al., HUMBI: A Large Multiview Dataset of Human Body Expressions, CVPR 2020",
        joint_set="body25",
        details={"metres": config.metres},
    )


def read_cameras(intrinsic: Path, extrinsic: Path) -> dict[int, Sight]:
    """The cameras by number, lengths in the files' unit; raises Bad."""
    inner, outer = _blocks(intrinsic, 3), _blocks(extrinsic, 4)
    cameras = {}
    for number in inner.keys() & outer.keys():
        place, turn = outer[number][0], outer[number][1:]
        if abs(np.linalg.det(turn) - 1) > 1e-2:
            raise Bad(f"extrinsic.txt, camera {number}: its rotation is none")
        cameras[number] = Sight(inner[number], turn, -turn @ place)
    if not cameras:
        raise Bad("intrinsic.txt and extrinsic.txt have no camera in common")
    return dict(sorted(cameras.items()))


def _blocks(path: Path, height: int) -> dict[int, np.ndarray]:
    """(height, 3) of each camera's lines after "0 <number>"."""
    lines = _lines(path)[3:]
    if len(lines) % (height + 1):
        raise Bad(f"{path.name} is cut off: {len(lines)} lines of cameras, {height + 1} for each")
    blocks = {}
    for start in range(0, len(lines), height + 1):
        head = lines[start]
        if len(head) != 2 or not head[1].isdecimal():
            raise Bad(f"{path.name}, line {start + 4}: not the number of a camera")
        rows = lines[start + 1 : start + 1 + height]
        blocks[int(head[1])] = _matrix(rows, (height, 3), f"{path.name}, camera {head[1]}")
    return blocks


def _lines(path: Path) -> list[list[str]]:
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise Bad(f"{path.name} cannot be read: {one_line(str(error))}") from None
    return [line.split() for line in text.splitlines() if line.strip()]


def _matrix(rows: list[list[str]], shape: tuple[int, int], what: str) -> np.ndarray:
    try:
        values = [[float(word) for word in row] for row in rows]
    except ValueError:
        raise Bad(f"{what} holds what is not a number") from None
    return numbers(values, shape, what)


def _session(
    folder: Path, subject: str, cameras: dict[int, Sight], config: HumbiConfig
) -> Iterator[FrameRecord | Reject]:
    moments = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name.isdecimal())
    if not moments:
        raise ValueError(f"{folder}: no folder 00000001 of a moment in it; {_GET}")
    for name in moments[:: config.every]:
        where = f"{subject}/body/{name}"
        try:
            path = folder / name / "reconstruction" / "keypoints.txt"
            places = _matrix(_lines(path), (25, 3), "keypoints.txt") * config.metres
        except Bad as error:
            yield Reject(where, str(error))
            continue
        stills = Stills(folder / name / "image", "image{:07d}.jpg")
        chosen = config.cameras or tuple(cameras)
        for number, picture in zip(chosen, stills.pictures(chosen), strict=True):
            source = f"{where}/image/{stills.pattern.format(number)}"
            time = int(name) / config.frame_rate
            moment = Moment(subject, f"{subject}/body", f"cam{number:03d}", time, source)
            if picture is None:
                yield Reject(source, "no picture of this camera and moment")
            else:
                yield _record(moment, picture, places, cameras[number], config.metres)


def _record(
    moment: Moment, picture: Path, places: np.ndarray, camera: Sight, metres: float
) -> FrameRecord | Reject:
    sight = Sight(camera.intrinsics, camera.rotation, camera.translation * metres)
    known = places.any(axis=1)  # what was not found is at the world's origin
    joints = np.column_stack([sight.from_world(places), known])
    return person_record(moment, picture, joints, sight, middle=(8,))
