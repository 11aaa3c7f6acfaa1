"""Pictures in folders named by their class, as ImageNet is distributed and torchvision reads it.

    root/train/<class>/*.jpg   root/val/<class>/*.jpg        or        root/<class>/*.jpg

Every picture is a frame of its own: what is stored is its middle square, or all of it. torchvision
is imported late, as no worker reads folders and each would spend half a second at its start.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from hpse_dist.data.pictures import Unreadable, picture_size
from hpse_dist.records import FrameRecord, Provenance, Reject

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class ImageFolderConfig:
    """A folder of classes, and what may be done with its pictures."""

    root: Path
    """The folder that holds the classes, or train, val and test with the classes in each."""
    licence: str
    """Licence of the pictures, kept with the collection and with every source trained on it."""
    commercial: bool = False
    """Whether that licence allows commercial use."""
    citation: str = ""
    """What to cite."""
    square: Literal["middle", "whole"] = "middle"
    """middle: the largest square in the middle of the picture; whole: all of it, with a border."""


Config = ImageFolderConfig


def frames(config: ImageFolderConfig) -> Iterator[FrameRecord | Reject]:
    """A record for each picture, class by class, with its class as the field label."""
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    classes = class_names(config.root)
    number = {name: i for i, name in enumerate(classes)}
    for split, folder in _splits(config.root):
        found = make_dataset(folder, number, IMG_EXTENSIONS, allow_empty=True)
        for name, label in found:
            path = Path(name)
            source = str(path.relative_to(config.root))
            try:
                width, height = picture_size(path)
            except Unreadable as reason:
                yield Reject(source, str(reason))
                continue
            yield FrameRecord(
                image=path,
                box=_box(width, height, config.square),
                subject=source,
                sequence=source,
                camera="",
                time=0.0,
                source=source,
                labels={"label": np.array(label)},
                split=split,
            )


def provenance(config: ImageFolderConfig) -> Provenance:
    """Licence as given, and the names of the classes in the order of their numbers."""
    return Provenance(
        importer="image_folder",
        licence=config.licence,
        commercial=config.commercial,
        citation=config.citation,
        joint_set=None,
        details={"classes": class_names(config.root)},
    )


def class_names(root: Path) -> list[str]:
    """Names of the classes, sorted: their place is their number. ValueError where there is none."""
    from torchvision.datasets.folder import find_classes

    if not root.is_dir():
        raise ValueError(
            f"source.root: {root} is no folder; give the folder that holds the classes"
        )
    names: set[str] = set()
    for _, folder in _splits(root):
        try:
            names |= set(find_classes(folder)[0])
        except FileNotFoundError:
            continue
    if not names:
        raise ValueError(
            f"source.root: {root} holds no folders of pictures; a folder for each class is needed, "
            "or train and val with the classes in them"
        )
    return sorted(names)


def _splits(root: Path) -> list[tuple[str | None, Path]]:
    """The split and the folder of classes of each part: one, and no split, without such folders."""
    named: list[tuple[str | None, Path]] = [(s, root / s) for s in SPLITS if (root / s).is_dir()]
    return named or [(None, root)]


def _box(width: int, height: int, square: str) -> tuple[float, float, float, float]:
    if square == "whole":
        return 0.0, 0.0, float(width), float(height)
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side
