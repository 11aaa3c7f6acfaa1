"""AIST++: dancers before nine calibrated cameras, with 3D joints in COCO's order.

    root/annotations/cameras/{mapping.txt,setting1.json}
    root/annotations/keypoints3d/gBR_sBM_cAll_d04_mBR0_ch01.pkl   root/annotations/ignore_list.txt
    root/videos/gBR_sBM_c01_d04_mBR0_ch01.mp4

Pictures are undistorted, so that the labels fit a pinhole camera.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from hpse_dist.body.smpl_files import read_pickled_arrays
from hpse_dist.data.importers.json_stream import read_json
from hpse_dist.data.importers.official import Bad, numbers
from hpse_dist.data.importers.rig_cameras import Camera
from hpse_dist.data.importers.views3d import (
    Film,
    Moment,
    Sight,
    need,
    person_record,
    side_by_side,
    whole_positive,
)
from hpse_dist.records import FrameRecord, Provenance, Reject

RATE = 60.0
_GET = (
    "get the annotations of AIST++ and the videos of the AIST Dance Video Database and put them "
    "under source.root as annotations and videos"
)


@dataclass(frozen=True)
class AistConfig:
    """Which of AIST++'s dances, cameras and frames."""

    root: Path
    """The folder that holds annotations and videos."""
    cameras: tuple[str, ...] = tuple(f"c{number:02d}" for number in range(1, 10))
    """Names of the cameras, c01 to c09; a dance without a camera's video is read without it."""
    every: int = 30
    """Every n-th of 60 frames per second."""

    def __post_init__(self) -> None:
        whole_positive(every=self.every)
        known = {f"c{number:02d}" for number in range(1, 10)}
        if not self.cameras or set(self.cameras) - known:
            raise ValueError(f"cameras must be among c01 to c09, found {self.cameras}")


Config = AistConfig


def frames(config: AistConfig) -> Iterator[FrameRecord | Reject]:
    """A record for each camera and moment; the cameras of a moment come one after another."""
    folder = config.root / "annotations"
    mapping = need(folder / "cameras" / "mapping.txt", "AIST++'s list of camera settings", _GET)
    videos = need(config.root / "videos", "AIST's folder of videos", _GET)
    dances = sorted(need(folder / "keypoints3d", "AIST++'s folder of joints", _GET).glob("*.pkl"))
    if not dances or not any(videos.glob("*.mp4")):
        empty = videos if dances else folder / "keypoints3d"
        raise ValueError(f"{empty}: nothing of AIST++ in it; {_GET}")
    setting = dict(_pairs(mapping))
    ignored = folder / "ignore_list.txt"
    bad = set(ignored.read_text(encoding="utf-8").split()) if ignored.is_file() else set()
    settings: dict[str, list[Camera]] = {}
    for dance in dances:
        name = dance.stem
        if name in bad:
            yield Reject(name, "on the dataset's list of wrong labels (ignore_list.txt)")
            continue
        try:
            key = setting.get(name, "")
            if key not in settings:
                settings = {key: read_cameras(folder / "cameras", key, name)}  # one at a time
            yield from _dance(dance, settings[key], config)
        except Bad as error:
            yield Reject(name, str(error))


def provenance(config: AistConfig) -> Provenance:
    """Licence and origin of AIST++."""
    return Provenance(
        importer="aist",
        licence="AIST++ annotations: CC BY 4.0; AIST Dance Video Database: non-commercial research",
        commercial=False,
        citation="Li et al., AI Choreographer: Music Conditioned 3D Dance Generation with AIST++, "
        "ICCV 2021; Tsuchida et al., AIST Dance Video Database, ISMIR 2019",
        joint_set="coco17",
    )


def _pairs(mapping: Path) -> Iterator[tuple[str, str]]:
    for line in mapping.read_text(encoding="utf-8").splitlines():
        words = line.split()
        if len(words) == 2:
            yield words[0], words[1]


def read_cameras(folder: Path, setting: str, dance: str) -> list[Camera]:
    """The cameras of a dance's setting, in metres; raises Bad."""
    if not setting.isalnum():  # a name of the list, or of a file elsewhere
        raise Bad(f"cameras/mapping.txt names no setting for {dance}")
    entries = read_json(folder / f"{setting}.json")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise Bad(f"cameras/{setting}.json is no list of cameras")
    cameras = []
    for entry in entries:
        where = f"{setting}.json, camera {entry.get('name')}"
        width, height = numbers(entry.get("size"), (2,), f"{where}, size")
        turn = numbers(entry.get("rotation"), (3,), f"{where}, rotation")
        cameras.append(
            Camera(
                name=str(entry.get("name")),
                size=(int(width), int(height)),
                matrix=numbers(entry.get("matrix"), (3, 3), f"{where}, matrix"),
                distortions=numbers(entry.get("distortions"), (5,), f"{where}, distortions"),
                rotation=cv2.Rodrigues(turn)[0],
                translation=numbers(entry.get("translation"), (3,), f"{where}, translation") / 100,
            )
        )
    return cameras


def _read_joints(dance: Path) -> np.ndarray:
    """(T, 17, 3) metres, NaN where a joint was not found; raises Bad."""
    try:
        found = read_pickled_arrays(dance, ("keypoints3d_optim", "keypoints3d"))
    except ValueError as error:
        raise Bad(str(error)) from None
    joints = found.get("keypoints3d_optim", found.get("keypoints3d"))
    if joints is None or joints.ndim != 3 or joints.shape[1:] != (17, 3):
        raise Bad("it has no keypoints3d of shape (frames, 17, 3)")
    return joints.astype(np.float64) / 100


def _dance(
    dance: Path, cameras: list[Camera], config: AistConfig
) -> Iterator[FrameRecord | Reject]:
    name = dance.stem
    joints = _read_joints(dance)
    films, seeing = [], []
    for camera in (each for each in cameras if each.name in config.cameras):
        film = Film(config.root / "videos" / f"{name.replace('cAll', camera.name)}.mp4")
        if film.path.is_file():
            films.append(film)
            seeing.append(camera)
        else:
            yield Reject(f"{name}, camera {camera.name}", f"no video {film.path.name}")
    subject = next((word for word in name.split("_") if word[:1] == "d"), name)
    chosen = range(0, len(joints), config.every)
    for i, pictures in zip(chosen, side_by_side(films, chosen), strict=False):
        known = np.isfinite(joints[i]).all(axis=1)
        places = np.where(known[:, None], joints[i], 0)
        for camera, picture in zip(seeing, pictures, strict=True):
            source = f"{name}, camera {camera.name}, frame {i}"
            if not isinstance(picture, np.ndarray) or picture.shape[1::-1] != camera.size:
                yield Reject(source, "no picture of this frame, or not of the calibration's size")
                continue
            moment = Moment(subject, name, camera.name, i / RATE, source)
            sight = Sight(camera.from_corner, camera.rotation, camera.translation)
            seen = np.column_stack([sight.from_world(places), known])
            straight = camera.undistort(picture)
            yield person_record(moment, straight, seen, sight, middle=(11, 12))
