"""InterHand2.6M's annotation files: pictures, cameras, joints and MANO's parameters."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpse_dist.data.importers.json_stream import json_items, json_pairs
from hpse_dist.data.importers.official import numbers
from hpse_dist.records import Reject

NUM_JOINTS = 42
WHERE = (
    "images and annotations come from mks0601.github.io/InterHand2.6M and belong in source.root; "
    "set source.annotations and source.images where they are kept otherwise"
)
_MM = 0.001


@dataclass(slots=True)
class Picture:
    """One picture with its annotation."""

    name: str
    size: tuple[int, int]
    """Width and height."""
    subject: str
    capture: str
    sequence: str
    camera: str
    frame: int
    box: tuple[float, float, float, float] | None = None
    """x0, y0, x1, y1; None until its annotation has been read."""
    bits: int = 0
    """Bit j: joint j is valid in this picture."""

    @property
    def valid(self) -> np.ndarray:
        """(42,) bool."""
        return (self.bits >> np.arange(NUM_JOINTS)) % 2 == 1

    def moment(self) -> tuple[str, str, str, int, str]:
        """Sorts pictures by who, where and when, a moment's cameras together."""
        return self.subject, self.capture, self.sequence, self.frame, self.camera


@dataclass(frozen=True, eq=False)
class StudioCamera:
    """Pixels, and world to camera in metres."""

    intrinsics: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray


def read_pictures(path: Path) -> Iterator[Picture | Reject]:
    """The pictures of a _data.json in the file's order, rejects first; about 500 bytes each."""
    pictures: dict[int, Picture] = {}
    for number, entry in enumerate(json_items(path, WHERE, "images")):
        source = f"{path.name}, picture {number}"
        try:
            key, picture = _picture(entry)
            if key in pictures:
                raise ValueError(f"a second picture has the id {key}")
            pictures[key] = picture
        except ValueError as error:
            yield Reject(source, str(error))
    for number, entry in enumerate(json_items(path, WHERE, "annotations")):
        source = f"{path.name}, annotation {number}"
        try:
            key = _integer(_field(entry, "image_id"), "image_id")
            if key not in pictures:
                raise ValueError(f"no picture has the id {key}")
            _annotate(pictures[key], entry)
        except ValueError as error:
            yield Reject(source, str(error))
    yield from pictures.values()


class Tables:
    """Cameras, joints and hands by capture and frame, as the files beside _data.json have them."""

    def __init__(self, root: Path, names: str, with_mano: bool) -> None:
        self._cameras: dict[str, Any] = dict(json_pairs(root / f"{names}_camera.json", WHERE))
        self._joints: dict[str, Any] = {}
        for capture, moments in json_pairs(root / f"{names}_joint_3d.json", WHERE):
            self._joints[capture] = _compact(moments)
        self._hands: dict[str, Any] = {}
        if with_mano:
            path = root / f"{names}_MANO_NeuralAnnot.json"
            for capture, moments in json_pairs(path, WHERE):
                self._hands[capture] = moments

    def camera(self, capture: str, name: str) -> StudioCamera:
        """ValueError where it is not known or not a camera."""
        entry = self._cameras.get(capture)

        def values(key: str, shape: tuple[int, ...]) -> np.ndarray:
            return numbers(_field(_field(entry, key), name), shape, f"{key} of camera {name}")

        focal, principal = values("focal", (2,)), values("princpt", (2,))
        place, turn = values("campos", (3,)), values("camrot", (3, 3))
        if min(focal) <= 0 or not np.allclose(turn @ turn.T, np.eye(3), atol=1e-3):
            raise ValueError(f"camera {name} has no focal length or camrot is no rotation")
        intrinsics = np.array([[focal[0], 0, principal[0]], [0, focal[1], principal[1]], [0, 0, 1]])
        return StudioCamera(intrinsics, turn, -turn @ place * _MM)

    def joints(self, capture: str, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """(42, 3) metres in the world, and (42,) bool which of them are known."""
        found = self._joints.get(capture, {}).get(str(frame))
        if found is None:
            raise ValueError(f"no joints are given for capture {capture}, frame {frame}")
        if isinstance(found, str):
            raise ValueError(found)
        return found[0].astype(np.float64) * _MM, found[1]

    def hand(self, capture: str, frame: int) -> dict[str, np.ndarray] | None:
        """pose (48,), shape (10,) and trans (3,) of the right hand in the world, if fitted."""
        moments = self._hands.get(capture)
        moment = moments.get(str(frame)) if isinstance(moments, dict) else None
        right = moment.get("right") if isinstance(moment, dict) else None
        if right is None:
            return None
        shapes = {"pose": (48,), "shape": (10,), "trans": (3,)}
        return {k: numbers(_field(right, k), shape, f"MANO's {k}") for k, shape in shapes.items()}


def _compact(moments: object) -> dict[str, Any]:
    """Per frame joints (42, 3) float32 and which are known (42,), or what is wrong with them."""
    if not isinstance(moments, dict):
        return {}
    compact: dict[str, Any] = {}
    for frame, entry in moments.items():
        try:
            valid = numbers(_field(entry, "joint_valid"), (NUM_JOINTS,), "joint_valid") > 0
            world = numbers(_field(entry, "world_coord"), (NUM_JOINTS, 3), "world_coord")
            compact[frame] = world.astype(np.float32), valid
        except ValueError as error:
            compact[frame] = str(error)
    return compact


def _picture(entry: object) -> tuple[int, Picture]:
    name = _field(entry, "file_name")
    if not isinstance(name, str) or not name:
        raise ValueError(f"file_name is {name!r}, not a name")
    width, height = (_integer(_field(entry, key), key) for key in ("width", "height"))
    subject, capture, sequence, camera = (
        sys.intern(str(_field(entry, key))) for key in ("subject", "capture", "seq_name", "camera")
    )
    frame = _integer(_field(entry, "frame_idx"), "frame_idx")
    number = _integer(_field(entry, "id"), "id")
    return number, Picture(name, (width, height), subject, capture, sequence, camera, frame)


def _annotate(picture: Picture, entry: object) -> None:
    if picture.box is not None:
        raise ValueError(f"{picture.name} has a second annotation")
    x, y, width, height = (float(v) for v in numbers(_field(entry, "bbox"), (4,), "bbox"))
    valid = numbers(_field(entry, "joint_valid"), (NUM_JOINTS,), "joint_valid")
    picture.bits = sum(1 << j for j in range(NUM_JOINTS) if valid[j] > 0)
    picture.box = x, y, x + width, y + height


def _field(entry: object, key: str) -> Any:
    if not isinstance(entry, dict) or key not in entry:
        raise ValueError(f"{key} is missing")
    return entry[key]


def _integer(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} is {value!r}, not a whole number")
    return value
