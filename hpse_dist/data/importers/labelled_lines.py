"""One line of labels of one's own, as `labelled` describes it, as a record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpse_dist.body.joints import JOINT_SETS, NUM_PARTS, PART_NAMES
from hpse_dist.body.model import Body, load_body
from hpse_dist.data.crops import BODY, HAND
from hpse_dist.data.importers import official
from hpse_dist.data.importers.joint_labels import joint_labels
from hpse_dist.data.importers.labelled_config import NOT_IN_SET, LabelledConfig
from hpse_dist.data.importers.official import Bad, numbers, picture_at
from hpse_dist.data.pictures import Unreadable, picture_size, read_grey, read_numbers
from hpse_dist.records import FrameRecord
from hpse_dist.safety import parsed_json

HOW = "write one JSON object for each person in a picture, a line each, as docs/datasets.md says"
_FROM_CORNER = {"corner": 0.0, "middle": 0.5}
_LENGTHS = dict(zip((*BODY, *HAND), (3, 69, 10, 3, 3, 45, 10, 3), strict=True))
_WHO = ("person", "camera", "track")
_SPLITS = ("train", "val", "test")
_PLACE: dict[str, tuple[int, ...]] = {
    "intrinsics": (3, 3),
    "rotation": (3, 3),
    "translation": (3,),
    "centre": (3,),
}
KEYS = (
    *("picture", "box", *_WHO, "sequence", "time", "split", "joints2d", "joints3d", *_PLACE),
    *(*_LENGTHS, "mask", "part_map", "label"),
)
_LONGEST_NAME = 200


def read_line(text: bytes) -> dict[str, Any]:
    """What a line holds; a key that is null is left out. Bad where it is no such object."""
    try:
        found = parsed_json(text.decode("utf-8-sig"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Bad(f"it is no JSON object; {HOW}")
    for key in found:
        if key not in KEYS:
            raise Bad(f"{key[:60]!r} is no key of a person; keys are {', '.join(KEYS)}")
    return {key: value for key, value in found.items() if value is not None}


def when(line: dict[str, Any]) -> tuple[str, float]:
    """The line's sequence, else its picture, and its time."""
    sequence, time = _name(line, "sequence"), line.get("time", 0.0)
    if sequence and "time" not in line:
        raise Bad("it has a sequence and no time: give the seconds since the sequence began")
    if type(time) not in (int, float) or not abs(time) < official.MOST:
        raise Bad(f"time is {str(time)[:60]}, not a number of seconds")
    return sequence or _name(line, "picture"), float(time)


class Posed:
    """Joints of a body's parameters, for lines that have these alone."""

    def __init__(self, config: LabelledConfig) -> None:
        self._known = config.joints == "smpl24" and (config.body == "free" or config.body_file)
        self._file = str(config.body_file or "free")
        self._body: Body | None = None  # read when a line first wants it

    def joints3d(self, labels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """joints3d (24, 4) of labels that are to have them; {} of others."""
        if not self._known or "joints3d" in labels or any(name not in labels for name in BODY):
            return {}
        self._body = self._body or load_body(self._file)
        with torch.no_grad():
            parameters = (torch.tensor(labels[name], dtype=torch.float32)[None] for name in BODY)
            joints = self._body(*parameters).joints[0].double().numpy()
        return {"joints3d": np.column_stack([joints, np.ones(len(joints))])}


def record_of(
    line: dict[str, Any], source: str, config: LabelledConfig, posed: Posed
) -> FrameRecord:
    """The record of a line; Bad or Unreadable where it cannot be one."""
    picture = picture_at(config.root, line.get("picture"))
    sequence, time = when(line)
    place = _place(line, config)
    labels = _joints(line, config, place) | _parameters(line, config) | _others(line, config)
    labels |= posed.joints3d(labels)
    if "joints3d" in labels and "joints2d" not in labels and "intrinsics" in place:
        labels["joints2d"] = _projected(labels["joints3d"], place["intrinsics"], picture)
    if "rotation" in place and "centre" not in place and {"joints3d", "transl"} & {*labels}:
        place["centre"] = (_middle(labels) - place["translation"]) @ place["rotation"]
    split = line.get("split")
    if split not in (None, *_SPLITS):
        raise Bad(f"split is {str(split)[:60]!r}, not one of {', '.join(_SPLITS)}")
    who = {key: _name(line, key) for key in _WHO}
    return FrameRecord(
        image=picture,
        box=_box(line, labels.get("joints2d"), config),
        subject=who["person"],
        sequence=sequence,
        camera=who["camera"],
        time=time,
        source=f"{source}, {line['picture']}",
        track=who["track"],
        mask=_plane(line, "mask", config) > 0 if "mask" in line else None,
        labels=labels,
        split=split,
        **place,
    )


def _name(line: dict[str, Any], key: str) -> str:
    """A word or number as a word, empty where there is none."""
    value = line.get(key, "")
    if type(value) not in (str, int):
        raise Bad(f"{key} is {str(value)[:60]}, not a name or a number")
    text = str(value)
    if len(text) > (4096 if key == "picture" else _LONGEST_NAME) or not text.isprintable():
        raise Bad(f"{key} is {text[:60]!r}: too long for a name, or with signs that none has")
    return text


def _place(line: dict[str, Any], config: LabelledConfig) -> dict[str, np.ndarray]:
    """The camera and the person's centre, as far as the line has them."""
    place = {key: numbers(line[key], of, key) for key, of in _PLACE.items() if key in line}
    for key in ("translation", "centre"):
        if key in place:
            place[key] = place[key] * config.unit_m
    if ("rotation" in place) != ("translation" in place):
        raise Bad("rotation and translation come together, one is missing")
    if "rotation" in place:
        turn = place["rotation"]
        if not np.allclose(turn @ turn.T, np.eye(3), atol=1e-3) or np.linalg.det(turn) < 0:
            raise Bad("rotation does not turn: its rows must be at right angles, of length 1")
    if "intrinsics" in place:
        matrix = place["intrinsics"]
        if not (matrix[0, 0] > 0 and matrix[1, 1] > 0 and (matrix[2] == (0, 0, 1)).all()):
            raise Bad("intrinsics is no camera matrix: [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]")
        matrix[:2, 2] += _FROM_CORNER[config.pixels]
    return place


def _joints(
    line: dict[str, Any], config: LabelledConfig, place: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """joints2d and joints3d in the collection's order, 3D ones in the camera's frame."""
    labels = {}
    if "joints2d" in line:
        joints = _in_order(line["joints2d"], 2, "joints2d", config)
        joints[:, :2] += _FROM_CORNER[config.pixels]
        labels["joints2d"] = official.any_joint(joints)
    if "joints3d" in line:
        joints = _in_order(line["joints3d"], 3, "joints3d", config)
        joints[:, :3] *= config.unit_m
        if config.joints3d_in == "world":
            if "rotation" not in place:
                raise Bad("joints3d of the world need rotation and translation")
            joints[:, :3] = joints[:, :3] @ place["rotation"].T + place["translation"]
        if not (joints[:, 3] > 0).any():
            raise Bad("no joint of joints3d is known")
        labels["joints3d"] = joints
    return labels


def _in_order(value: Any, axes: int, what: str, config: LabelledConfig) -> np.ndarray:
    """(J, axes + 1) of the collection's joints, all 0 for those that lines do not have."""
    if config.joints is None:
        raise Bad(f"{what} come in an order: set source.joints to its name, such as coco17")
    order = JOINT_SETS[config.joints]
    names = config.names or order
    if not isinstance(value, list) or len(value) != len(names):
        said = "names" if config.names else config.joints
        raise Bad(f"{what} is no list of {len(names)} joints, as many as source.{said} has")
    sure = isinstance(value[0], list) and len(value[0]) == axes
    found = numbers(value, (len(names), axes if sure else axes + 1), what)
    if sure:
        found = np.column_stack([found, np.ones(len(found))])
    if not ((found[:, axes] >= 0) & (found[:, axes] <= 1)).all():
        raise Bad(f"{what} has a confidence outside 0..1")
    joints = np.zeros((len(order), axes + 1))
    for name, joint in zip(names, found, strict=True):
        if name != NOT_IN_SET:
            joints[order.index(name)] = joint
    return joints


def _middle(labels: dict[str, np.ndarray]) -> np.ndarray:
    """(3,) of the person before the camera: of the joints, else where SMPL's body stands."""
    if "joints3d" not in labels:
        return labels["transl"]
    joints = labels["joints3d"]
    middle: np.ndarray = joints[joints[:, 3] > 0, :3].mean(axis=0)
    return middle


def _projected(joints: np.ndarray, intrinsics: np.ndarray, picture: Path) -> np.ndarray:
    size = picture_size(picture)
    try:
        return joint_labels(joints[:, :3], joints[:, 3] > 0, intrinsics, size)["joints2d"]
    except ValueError as reason:
        raise Bad(str(reason)) from None


def _box(
    line: dict[str, Any], joints: np.ndarray | None, config: LabelledConfig
) -> tuple[float, float, float, float]:
    """The line's box, which has edges and no middles, else one around the joints."""
    if "box" in line:
        x0, y0, x1, y1 = numbers(line["box"], 4, "box").tolist()
        return x0, y0, x1, y1
    if joints is None:
        raise Bad("it has neither a box (x0, y0, x1, y1) nor joints2d to put one around")
    return official.box_of_joints(joints, config.box_margin)


def _parameters(line: dict[str, Any], config: LabelledConfig) -> dict[str, np.ndarray]:
    """Body's and hand's, of the model that the recipe names."""
    found = {key: numbers(line[key], of, key) for key, of in _LENGTHS.items() if key in line}
    for keys, whose, setting in ((BODY, config.body, "body"), (HAND, config.hand, "hand")):
        if not whose and any(key in found for key in keys):
            raise Bad(f"{', '.join(keys)} are of a model: set source.{setting} to whose they are")
    return found


def _others(line: dict[str, Any], config: LabelledConfig) -> dict[str, np.ndarray]:
    """Body parts and class."""
    found = {}
    if "part_map" in line:
        found["part_map"] = _plane(line, "part_map", config)
        if found["part_map"].max(initial=0) > NUM_PARTS:
            raise Bad(
                f"part_map has more than {NUM_PARTS} parts; 1.. are {', '.join(PART_NAMES[1:])}"
            )
    if "label" in line:
        value, classes = line["label"], config.classes
        number = classes.index(value) if value in classes else value
        if type(number) is not int or not 0 <= number < len(classes):
            raise Bad(f"label is {str(value)[:60]!r}, not one of source.classes, nor its number")
        found["label"] = np.array(number)
    return found


def _plane(line: dict[str, Any], key: str, config: LabelledConfig) -> np.ndarray:
    """(H, W) uint8 of the file that the line names; Bad where it cannot be read."""
    try:
        path = picture_at(config.root, line[key])
        return read_grey(path) if key == "mask" else read_numbers(path)
    except (Bad, Unreadable) as reason:
        raise Bad(f"its {key}: {reason}") from None
