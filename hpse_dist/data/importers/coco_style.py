"""Annotation in COCO's manner: pictures, and people who name their picture by its number.

    {"images": [{"id", "file_name", "width", "height"}, ...],
     "annotations": [{"image_id", "bbox": [x, y, w, h], "keypoints": [x, y, v, ...], ...}, ...]}

People of one picture stand anywhere in the file; here they come together, picture by picture in the
file's order. A file is read twice, and memory holds two numbers for each person.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpse_dist.data.importers import official
from hpse_dist.data.importers.json_stream import elements, read_element
from hpse_dist.data.importers.official import Bad, numbers
from hpse_dist.data.importers.outlines import mask_of
from hpse_dist.records import FrameRecord, Reject

PIXEL = 0.5  # joints are numbers of pixels, whose middles lie half a pixel further


@dataclass(frozen=True)
class CocoStyleConfig:
    """Where the pictures and the annotation of a COCO-style dataset are."""

    root: Path
    """The folder that the dataset was unpacked in."""
    splits: tuple[str, ...] = ("train", "val")
    """Which parts to read, in this order."""
    annotations: str = "annotations/person_keypoints_{split}2017.json"
    """Annotation file of a split, under root."""
    pictures: str = "{split}2017"
    """Folder of a split's pictures, under root."""
    occluded_confidence: float = 0.5
    """Confidence of a joint that is labelled though something hides it; one in sight has 1."""
    masks: bool = True
    """Take the person's mask from the outline, where there is one."""

    def __post_init__(self) -> None:
        official.check_shared_keys(self)

    def annotation_file(self, split: str) -> Path:
        return self.root / self.annotations.replace("{split}", split)

    def picture_folder(self, split: str) -> Path:
        return self.root / self.pictures.replace("{split}", split)


@dataclass(frozen=True)
class Picture:
    """A picture and its people, as the file says."""

    about: dict[str, Any]
    annotations: list[dict[str, Any]]


def pictures(path: Path) -> Iterator[Picture | Reject]:
    """Every picture of an annotation file with its annotations; ValueError for a broken file."""
    images: list[tuple[int, int]] = []
    people: dict[Any, list[tuple[int, int]]] = {}
    for element in elements(path):
        if element.key not in ("images", "annotations"):
            continue
        key = _number(element.value, "id" if element.key == "images" else "image_id")
        if key is None:
            yield Reject(f"{path.name}, byte {element.start}", _no_number(element.key))
        elif element.key == "images":
            images.append((element.start, element.stop))
        else:
            people.setdefault(key, []).append((element.start, element.stop))
    with open(path, "rb") as file:
        for place in images:
            about = read_element(file, *place)
            mine = people.pop(_number(about, "id"), [])
            yield Picture(about, [read_element(file, *one) for one in mine])
    for key, strays in people.items():
        for start, _ in strays:
            reason = f"image_id {key} is no picture of the file, or one that came before"
            yield Reject(f"{path.name}, byte {start}", reason)


def _number(value: Any, key: str) -> int | str | None:
    number = value.get(key) if isinstance(value, dict) else None
    return number if type(number) in (int, str) else None


def _no_number(key: str) -> str:
    what = "a picture's id" if key == "images" else "a person's image_id"
    return f"it is no object that has {what}"


def joints_of(
    annotation: dict[str, Any], key: str, count: int, confidence: tuple[float, ...] | None
) -> np.ndarray:
    """(count, 3) from x, y, v of each joint: pixels, and v as index into `confidence`.

    Without `confidence`, any v above 0 is 1.
    """
    joints = numbers(annotation.get(key), 3 * count, key).reshape(count, 3)
    seen = joints[:, 2]
    if confidence is None:
        joints[:, 2] = seen > 0
    else:
        if not np.isin(seen, range(len(confidence))).all():
            raise Bad(f"{key} has a visibility other than 0..{len(confidence) - 1}")
        joints[:, 2] = np.array(confidence)[seen.astype(int)]
    joints[:, :2] += PIXEL
    joints[joints[:, 2] == 0] = 0
    return joints


JointsOf = Callable[[dict[str, Any]], np.ndarray]
Complete = Callable[[FrameRecord, dict[str, Any], tuple[int, int]], FrameRecord]


def frames(
    config: CocoStyleConfig, joints: JointsOf, origin: str, complete: Complete | None = None
) -> Iterator[FrameRecord | Reject]:
    """A record for each person; `joints` reads a person's (J, 3), `origin` is where files are from,
    `complete` adds what the annotation says beyond COCO's, given the picture's height and width.

    Nobody is known by name: a picture is a sequence of its own, and is in its split as a whole.
    """
    for split in config.splits:
        path = official.required(config.annotation_file(split), origin)
        folder = official.required(config.picture_folder(split), origin)
        for picture in pictures(path):
            if isinstance(picture, Reject):
                yield picture
            elif picture.annotations:
                yield from _people(picture, path, folder, config, joints, split, complete)


def _people(
    picture: Picture,
    path: Path,
    folder: Path,
    config: CocoStyleConfig,
    joints: JointsOf,
    split: str,
    complete: Complete | None,
) -> Iterator[FrameRecord | Reject]:
    name = str(picture.about.get("file_name"))
    try:
        image = official.picture_at(folder, picture.about.get("file_name"))
        sized = config.masks or complete is not None
        size = official.picture_size(picture.about) if sized else (0, 0)
    except Bad as reason:
        yield Reject(f"{path.name}, {name[:200]}", str(reason))
        return
    for annotation in picture.annotations:
        source = f"{split}/{name}, person {annotation.get('id')}"
        try:
            record = FrameRecord(
                image=image,
                box=official.box_of(annotation.get("bbox")),
                subject="",
                sequence=f"{split}/{name}",
                camera="",
                time=0.0,
                source=source,
                mask=_mask(annotation, size) if config.masks else None,
                labels={"joints2d": one_person(annotation, joints)},
                split=official.split_of(split),
            )
            yield complete(record, annotation, size) if complete else record
        except Bad as reason:
            yield Reject(source, str(reason))


def one_person(annotation: dict[str, Any], joints: JointsOf) -> np.ndarray:
    """Joints of an annotation that is about one person; Bad for crowds and people without any."""
    if annotation.get("iscrowd"):
        raise Bad("it is a crowd, not one person")
    return official.any_joint(joints(annotation))


def _mask(annotation: dict[str, Any], size: tuple[int, int]) -> np.ndarray | None:
    outline = annotation.get("segmentation")
    return mask_of(outline, *size) if outline else None
