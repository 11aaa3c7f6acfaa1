"""HaGRID: people before a web camera who show a gesture; hands with boxes and classes.

    root/annotations/train/<gesture>.json    per picture bboxes, labels, user_id; also val, test
    root/<gesture>/<picture>.jpg             all parts together, as version 2 has them

Version 1 is distributed as ann_train_val/<gesture>.json with train_val_<gesture>/<picture>.jpg,
ann_test with test/<gesture>, ann_subsample with subsample/<gesture>: see `annotations` and
`images`. Boxes are x, y, width, height in shares of the picture. A frame is a hand or, of the
gestures of version 2 that need both, the two together: `united_bbox` beside `bboxes`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hpse_dist.data.importers.json_stream import json_pairs
from hpse_dist.data.importers.official import inside, numbers
from hpse_dist.data.pictures import picture_size
from hpse_dist.records import FrameRecord, Provenance, Reject

NO_GESTURE = "no_gesture"
_WHERE = (
    "annotations and pictures come from github.com/hukenovs/hagrid and belong in source.root; set "
    "source.annotations and source.images where they are kept otherwise"
)


@dataclass(frozen=True)
class HagridConfig:
    """HaGRID as it is unpacked, one of its parts."""

    root: Path
    """The folder that holds annotations and pictures."""
    annotations: str = "annotations/train"
    """Folder of <gesture>.json below root: of version 1 ann_train_val, ann_test."""
    images: str = "{gesture}"
    """Folder of its pictures below root: of version 1 train_val_{gesture}, test/{gesture}."""
    split: Literal["train", "val", "test"] | None = "train"
    """The frames' split; null lets the collection choose by person."""
    no_gesture: bool = False
    """Whether hands beside the one that shows something are taken, as the class no_gesture."""
    gestures: tuple[str, ...] = ()
    """The classes in the order of their numbers; empty takes the annotation files', sorted."""


Config = HagridConfig


def frames(config: HagridConfig) -> Iterator[FrameRecord | Reject]:
    """Every hand, or both of them, with its class as the field label, gesture by gesture."""
    classes = class_names(config)
    for gesture in classes:
        path = config.root / config.annotations / f"{gesture}.json"
        if gesture == NO_GESTURE and not path.is_file():
            continue  # version 1 has no pictures of it, only boxes beside others
        pictures = config.root / config.images.replace("{gesture}", gesture)
        if not pictures.is_dir():
            raise ValueError(f"{pictures} is missing: {_WHERE}")
        for name, entry in json_pairs(path, _WHERE):
            source = f"{gesture}/{name}"
            try:
                yield from _hands(config, classes, pictures, source, name, entry)
            except ValueError as error:
                yield Reject(source, str(error))


def provenance(config: HagridConfig) -> Provenance:
    """Licence and citation as the dataset's page gives them, and the classes by number."""
    return Provenance(
        importer="hagrid",
        licence="HaGRID licence, a variant of CC BY-SA 4.0",
        commercial=False,  # the variant's terms decide, and have to be read first
        citation="Kapitanov et al., HaGRID - HAnd Gesture Recognition Image Dataset, WACV 2024",
        joint_set=None,
        details={"classes": class_names(config), "annotations": config.annotations},
    )


def class_names(config: HagridConfig) -> list[str]:
    """Names of the classes: their place is their number. ValueError where there are none."""
    if config.gestures:
        names = list(config.gestures)
    else:
        folder = config.root / config.annotations
        names = sorted(path.stem for path in folder.glob("*.json"))
        if not names:
            raise ValueError(f"{folder} holds no <gesture>.json: {_WHERE}")
    if config.no_gesture and NO_GESTURE not in names:
        names.append(NO_GESTURE)
    if not config.no_gesture:
        names = [name for name in names if name != NO_GESTURE]
    return names


def _hands(
    config: HagridConfig, classes: list[str], folder: Path, source: str, name: str, entry: Any
) -> Iterator[FrameRecord | Reject]:
    """The picture's hands; ValueError where none of them can be known."""
    if not isinstance(entry, dict):
        raise ValueError("its annotation is no object")
    user = entry.get("user_id")
    if not isinstance(user, str) or not user:
        raise ValueError("user_id is missing")
    shown = _shown(entry)
    path = inside(folder, f"{name}.jpg")
    width, height = picture_size(path)
    for number, (box, label) in enumerate(shown):
        where = f"{source}, hand {number}"
        if label == NO_GESTURE and not config.no_gesture:
            continue
        if label not in classes:
            yield Reject(where, f"{label!r} is none of the classes")
            continue
        try:
            x, y, w, h = (float(v) for v in numbers(box, (4,), "its box"))
        except ValueError as error:
            yield Reject(where, str(error))
            continue
        yield FrameRecord(
            image=path,
            box=(x * width, y * height, (x + w) * width, (y + h) * height),
            subject=user,
            sequence=name,
            track=str(number),
            camera="",
            time=0.0,
            source=where,
            labels={"label": np.array(classes.index(label))},
            split=config.split,
        )


def _shown(entry: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Box and class of each gesture: of version 2 `united_bbox` where both hands make one, and None
    in it where the hand at its place makes one of its own."""
    hands = _boxes(entry, "bboxes", "labels")
    if entry.get("united_bbox") is None:
        return hands
    united = _boxes(entry, "united_bbox", "united_label")
    if any(box is None for box, _ in united[len(hands) :]):
        raise ValueError("united_bbox is null for a hand that bboxes does not have")
    return [hands[i] if one[0] is None else one for i, one in enumerate(united)]


def _boxes(entry: dict[str, Any], boxes: str, labels: str) -> list[tuple[Any, Any]]:
    """Two lists of the annotation, item by item."""
    where, what = entry.get(boxes), entry.get(labels)
    if not isinstance(where, list) or not isinstance(what, list) or len(where) != len(what):
        raise ValueError(f"{boxes} and {labels} are not two lists of one length")
    return list(zip(where, what, strict=True))
