"""CMU Panoptic Studio: groups of people in a dome, seen by 31 calibrated HD cameras.

    root/<sequence>/calibration_<sequence>.json
    root/<sequence>/hdPose3d_stage1_coco19/body3DScene_00000000.json
    root/<sequence>/hdImgs/00_00/00_00_00000000.jpg    or    root/<sequence>/hdVideos/hd_00_00.mp4

The lenses bend straight lines: pictures are undistorted, so that the labels fit a pinhole camera.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpse_dist.data.importers.json_stream import read_json
from hpse_dist.data.importers.official import Bad, numbers
from hpse_dist.data.importers.rig_cameras import Camera
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
from hpse_dist.data.pictures import Unreadable, read_picture
from hpse_dist.records import FrameRecord, Provenance, Reject

RATE = 29.97
_POSES = "hdPose3d_stage1_coco19"
_GET = (
    "get the sequence with panoptic-toolbox's getData.sh, unpack it with extractAll.sh and set "
    "source.root to the folder of the sequences"
)


@dataclass(frozen=True)
class PanopticConfig:
    """Which of CMU Panoptic's sequences, cameras and frames."""

    root: Path
    """The folder that holds a folder for each sequence."""
    sequences: tuple[str, ...] = ()
    """Names of the sequences, as 160422_ultimatum1; empty takes every folder that has joints."""
    cameras: tuple[str, ...] = ("00_03", "00_06", "00_12", "00_13", "00_23")
    """Names of the HD cameras, 00_00 to 00_30; these five are most papers'. Each takes 20 MB."""
    every: int = 30
    """Every n-th frame."""
    least_confidence: float = 0.1
    """Joints of less are taken as unknown."""

    def __post_init__(self) -> None:
        whole_positive(every=self.every)
        if not self.cameras:
            raise ValueError("cameras must name at least one camera")
        for name in (*self.cameras, *self.sequences):
            if not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"{name!r} is no name of a camera or sequence")


Config = PanopticConfig


def frames(config: PanopticConfig) -> Iterator[FrameRecord | Reject]:
    """Records moment by moment: of each person one after another what every camera sees."""
    need(config.root, "the folder of CMU Panoptic's sequences", _GET)
    names = config.sequences or sorted(p.parent.name for p in config.root.glob(f"*/{_POSES}"))
    if not names:
        raise ValueError(f"{config.root}: no <sequence>/{_POSES} in it; {_GET}")
    for name in names:
        folder = config.root / name
        poses = need(folder / _POSES, "CMU Panoptic's folder of joints", _GET)
        calibration = folder / f"calibration_{name}.json"
        need(calibration, "CMU Panoptic's file of cameras", _GET)
        try:
            cameras = read_cameras(calibration, config.cameras)
        except Bad as error:
            yield Reject(f"{name}/{calibration.name}", str(error))
            continue
        footage = [_footage(folder, camera.name) for camera in cameras]
        yield from _sequence(name, poses, cameras, footage, config)


def provenance(config: PanopticConfig) -> Provenance:
    """Licence and origin of CMU Panoptic."""
    return Provenance(
        importer="panoptic",
        licence="CMU Panoptic Studio licence: non-commercial research",
        commercial=False,
        citation="Joo et al., Panoptic Studio: A Massively Multiview System for Social Interaction "
        "Capture, TPAMI 2017",
        joint_set="panoptic19",
    )


def read_cameras(path: Path, wanted: tuple[str, ...]) -> list[Camera]:
    """The wanted cameras of a calibration_<sequence>.json, in metres; raises Bad."""
    content = read_json(path)
    entries = content.get("cameras") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise Bad("it has no list of cameras")
    found = {str(entry.get("name")): entry for entry in entries}
    lacking = [name for name in wanted if name not in found]
    if lacking:
        raise Bad(f"it has no camera {', '.join(lacking)}")
    return [_camera(name, found[name]) for name in wanted]


def _camera(name: str, entry: dict[str, Any]) -> Camera:
    width, height = numbers(entry.get("resolution"), (2,), f"camera {name}, resolution")
    return Camera(
        name=name,
        size=(int(width), int(height)),
        matrix=numbers(entry.get("K"), (3, 3), f"camera {name}, K"),
        distortions=numbers(entry.get("distCoef"), (5,), f"camera {name}, distCoef"),
        rotation=numbers(entry.get("R"), (3, 3), f"camera {name}, R"),
        translation=numbers(entry.get("t"), (3,), f"camera {name}, t") / 100,
    )


def read_people(path: Path) -> dict[int, np.ndarray]:
    """Joints (19, 4) in the world, metres and confidence, by the person's id; raises Bad."""
    content = read_json(path)
    bodies = content.get("bodies") if isinstance(content, dict) else None
    if not isinstance(bodies, list):
        raise Bad("it has no list of bodies")
    people = {}
    for body in bodies:
        if not isinstance(body, dict) or not isinstance(body.get("id"), int):
            raise Bad("a body has no id")
        joints = numbers(body.get("joints19"), (76,), f"body {body['id']}, joints19").reshape(19, 4)
        joints[:, :3] /= 100
        joints[:, 3] = joints[:, 3].clip(0, 1)  # -1 where it was never found
        people[body["id"]] = joints
    return people


def _footage(folder: Path, camera: str) -> Stills | Film:
    stills = [
        Stills(folder / "hdImgs" / camera, f"{camera}_{{:08d}}.{kind}") for kind in ("jpg", "png")
    ]
    if not next(stills[0].folder.glob("*.jpg"), None):
        stills.reverse()
    films = [Film(folder / "hdVideos" / f"hd_{camera}.mp4")]
    found = find_footage(stills, films)
    if found is None:
        raise ValueError(
            f"{films[0].path}: CMU Panoptic's video is missing, and so is the folder "
            f"{stills[0].folder} of its frames; {_GET}, or leave the camera out of source.cameras"
        )
    return found


def _sequence(
    name: str,
    poses: Path,
    cameras: list[Camera],
    footage: list[Stills | Film],
    config: PanopticConfig,
) -> Iterator[FrameRecord | Reject]:
    labelled = sorted(
        int(path.stem[-8:])
        for path in poses.glob("body3DScene_*.json")
        if path.stem[-8:].isdigit() and len(path.stem) == len("body3DScene_") + 8
    )
    chosen = [number for number in labelled if number % config.every == 0]
    if not chosen:
        raise ValueError(f"{poses}: no body3DScene_<number>.json of a chosen frame in it; {_GET}")
    for i, pictures in zip(chosen, side_by_side(footage, chosen), strict=True):
        source = f"{name}/{_POSES}/body3DScene_{i:08d}.json"
        try:
            people = read_people(poses / f"body3DScene_{i:08d}.json")
        except Bad as error:
            yield Reject(source, str(error))
            continue
        straight = [_straight(c, p) for c, p in zip(cameras, pictures, strict=True)]
        for person, joints in people.items():
            joints[:, 3] *= joints[:, 3] >= config.least_confidence
            for camera, picture in zip(cameras, straight, strict=True):
                where = f"{name}, camera {camera.name}, frame {i}, person {person}"
                moment = Moment(f"{name}/{person}", name, camera.name, i / RATE, where)
                yield _record(moment, camera, picture, joints)


def _straight(camera: Camera, picture: np.ndarray | Path | None) -> np.ndarray | None:
    """The undistorted picture, None where there is none or it is not of the camera's size."""
    if isinstance(picture, Path):
        with contextlib.suppress(Unreadable):
            picture = read_picture(picture)
    if not isinstance(picture, np.ndarray) or picture.shape[1::-1] != camera.size:
        return None
    return camera.undistort(picture)


def _record(
    moment: Moment, camera: Camera, picture: np.ndarray | None, joints: np.ndarray
) -> FrameRecord | Reject:
    if picture is None:
        return Reject(moment.source, "no picture of this frame, or not of the calibration's size")
    sight = Sight(camera.from_corner, camera.rotation, camera.translation)
    seen = np.concatenate([sight.from_world(joints[:, :3]), joints[:, 3:]], axis=1)
    return person_record(moment, picture, seen, sight, middle=(6, 12))
