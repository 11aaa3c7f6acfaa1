"""Human3.6M as most people have it: frames cut from the videos, and a JSON annotation of them.

    root/images/s_01_act_02_subact_01_ca_01/s_01_act_02_subact_01_ca_01_000001.jpg
    root/annotations/Human36M_subject1_camera.json
    root/annotations/Human36M_subject1_joint_3d.json

The dataset's own poses are NASA CDF files, which this does not read. The JSON (of Moon et al.'s
PoseNet and its successors) holds the same joints of the world and the cameras' calibration; what
its Human36M_subject1_data.json adds, file names and boxes, follows from these. The lenses'
distortion is not in it: near the picture's border joints are a few pixels off. In three clips of
subject 9 (act_05_subact_02, act_10_subact_02, act_13_subact_01) the motion capture has slipped and
its joints stand beside the person, which no check here can see.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpse_dist.data.importers.json_stream import read_json
from hpse_dist.data.importers.official import Bad, numbers
from hpse_dist.data.importers.views3d import (
    Moment,
    Sight,
    Stills,
    need,
    person_record,
    side_by_side,
    whole_positive,
)
from hpse_dist.records import FrameRecord, Provenance, Reject

RATE = 50.0
_GET = (
    "get Human3.6M's videos from its site, cut them into frames, and get Human36M's annotations "
    "of 3DMPPE_POSENET_RELEASE or I2L-MeshNet; put images and annotations under source.root"
)


@dataclass(frozen=True)
class Human36mConfig:
    """Which of Human3.6M's frames."""

    root: Path
    """The folder that holds images and annotations."""
    subjects: tuple[int, ...] = (1, 5, 6, 7, 8, 9, 11)
    """Numbers of the subjects."""
    test_subjects: tuple[int, ...] = (9, 11)
    """Those of them whose split is test, as in the dataset's protocols 1 and 2."""
    cameras: tuple[int, ...] = (1, 2, 3, 4)
    """Numbers of the cameras."""
    every: int = 5
    """Every n-th of 50 frames per second."""

    def __post_init__(self) -> None:
        whole_positive(every=self.every)
        if not self.cameras or set(self.cameras) - {1, 2, 3, 4}:
            raise ValueError(f"cameras must be among 1, 2, 3 and 4, found {self.cameras}")


Config = Human36mConfig


def frames(config: Human36mConfig) -> Iterator[FrameRecord | Reject]:
    """A record for each camera and moment; the cameras of a moment come one after another."""
    folder = config.root / "annotations"
    need(config.root / "images", "Human3.6M's folder of frames", _GET)
    for subject in config.subjects:
        cameras = folder / f"Human36M_subject{subject}_camera.json"
        joints = folder / f"Human36M_subject{subject}_joint_3d.json"
        need(cameras, "Human3.6M's file of cameras", _GET)
        need(joints, "Human3.6M's file of joints", _GET)
        try:
            sights = read_cameras(cameras, config.cameras)
            actions = _table(read_json(joints), "the joints of a subject")
        except Bad as error:
            yield Reject(f"annotations, subject {subject}", str(error))
            continue
        for action in sorted(actions, key=int):
            for part, moments in _entries(actions[action]):
                where = f"s_{subject:02d}_act_{int(action):02d}_subact_{part:02d}"
                try:
                    yield from _sequence(where, subject, moments, sights, config)
                except Bad as error:
                    yield Reject(where, str(error))


def provenance(config: Human36mConfig) -> Provenance:
    """Licence and origin of Human3.6M."""
    return Provenance(
        importer="human36m",
        licence="Human3.6M licence: academic use only",
        commercial=False,
        citation="Ionescu et al., Human3.6M: Large Scale Datasets and Predictive Methods for 3D "
        "Human Sensing in Natural Environments, TPAMI 2014",
        joint_set="h36m17",
        details={"annotation": "JSON of Moon et al., ICCV 2019"},
    )


def read_cameras(path: Path, wanted: tuple[int, ...]) -> dict[int, Sight]:
    """The wanted cameras by number; raises Bad."""
    found = _table(read_json(path), "the cameras of a subject")
    sights = {}
    for number in wanted:
        where = f"{path.name}, camera {number}"
        if str(number) not in found or not isinstance(found[str(number)], dict):
            raise Bad(f"{where} is missing")
        entry = found[str(number)]
        focal = numbers(entry.get("f"), (2,), f"{where}, f")
        middle = numbers(entry.get("c"), (2,), f"{where}, c")
        turn = numbers(entry.get("R"), (3, 3), f"{where}, R")
        shift = _shift(numbers(entry.get("t"), (3,), f"{where}, t") / 1000, turn, where)
        matrix = np.array([[focal[0], 0, middle[0]], [0, focal[1], middle[1]], [0, 0, 1]])
        sights[number] = Sight(matrix, turn, shift)
    return sights


def _shift(given: np.ndarray, turn: np.ndarray, where: str) -> np.ndarray:
    """World to camera (3,) of a JSON's t, in metres; raises Bad.

    Published files have it; older ones, and those that the authors' h36m2coco.py writes, have the
    camera's place instead. Every camera looks across the room's middle, the world's origin, and
    world to camera is where it sees that.
    """
    for shift in (given, -turn @ given):
        if np.hypot(shift[0], shift[1]) < shift[2]:
            return shift
    raise Bad(f"{where}, t is neither world to camera nor the place of a camera that sees the room")


def _table(value: Any, name: str) -> dict[str, Any]:
    """A JSON object whose keys are numbers; raises Bad."""
    if not isinstance(value, dict) or not all(key.isdecimal() for key in value):
        raise Bad(f"{name} are no table by number")
    return value


def _entries(value: Any) -> Iterator[tuple[int, Any]]:
    """Number and content of the parts of an action."""
    for key in sorted(value if isinstance(value, dict) else {}):
        yield int(key) if key.isdecimal() else 0, value[key]


def _sequence(
    where: str,
    subject: int,
    moments: Any,
    sights: dict[int, Sight],
    config: Human36mConfig,
) -> Iterator[FrameRecord | Reject]:
    table = _table(moments, "the moments of an action")
    chosen = sorted(i for i in map(int, table) if i % config.every == 0)
    names = {number: f"{where}_ca_{number:02d}" for number in sights}
    footage = [
        Stills(config.root / "images" / name, name + "_{:06d}.jpg", first=1)
        for name in names.values()
    ]
    split = "test" if subject in config.test_subjects else None
    for i, pictures in zip(chosen, side_by_side(footage, chosen), strict=True):
        try:
            joints = numbers(table[str(i)], (17, 3), "the joints") / 1000
        except (Bad, KeyError) as error:
            yield Reject(f"{where}, frame {i}", str(error))
            continue
        for number, picture in zip(sights, pictures, strict=True):
            source = f"{names[number]}, frame {i}"
            if picture is None:
                yield Reject(source, f"no picture {names[number]}_{i + 1:06d}.jpg")
                continue
            moment = Moment(f"s_{subject:02d}", where, f"ca_{number:02d}", i / RATE, source, split)
            seen = np.column_stack([sights[number].from_world(joints), np.ones(17)])
            yield person_record(moment, picture, seen, sights[number], middle=(0,), margin=0.08)
