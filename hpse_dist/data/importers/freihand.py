"""FreiHAND: single right hands, each before four backgrounds, with 21 joints and MANO's parameters.

    root/training/rgb/00000000.jpg ...   32560 pictures on the green screen, and the same three
                                         times more before other backgrounds, numbered on
    root/training/mask/00000000.jpg ...  of the first 32560
    root/training_K.json  training_xyz.json  training_mano.json
    root/evaluation/rgb/ ...             3960 pictures, and evaluation_K, _xyz and _mano.json

Joints are in metres before the camera, in the order of `joints.FREIHAND21`; they become those of
`joints.MANO21`, as tasks of hands have them. Who is seen is not told: a picture and its other
backgrounds are one subject.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hpse_dist.body.joints import FREIHAND21, MANO21
from hpse_dist.data.importers.joint_labels import joint_labels
from hpse_dist.data.importers.json_stream import json_items
from hpse_dist.data.importers.mano_labels import ManoLabels
from hpse_dist.data.importers.official import numbers
from hpse_dist.data.pictures import Unreadable, picture_size, read_grey
from hpse_dist.records import FrameRecord, Provenance, Reject

Background = Literal["gs", "hom", "sample", "auto"]
BACKGROUNDS: tuple[Background, ...] = ("gs", "hom", "sample", "auto")
_AS_MANO = [FREIHAND21.index(joint) for joint in MANO21]
_WHERE = {
    "training": "it is part of FreiHAND_pub_v2.zip from lmb.informatik.uni-freiburg.de, and "
    "belongs in source.root",
    "evaluation": "it is part of FreiHAND_pub_v2_eval.zip from lmb.informatik.uni-freiburg.de, "
    "and belongs in source.root",
}


@dataclass(frozen=True)
class FreiHandConfig:
    """FreiHAND as it is unpacked."""

    root: Path
    """The folder that holds training_xyz.json."""
    part: Literal["training", "evaluation"] = "training"
    """Which of the two sets."""
    backgrounds: tuple[Background, ...] = BACKGROUNDS
    """gs green screen, hom homogenised, sample and auto recoloured; evaluation has one only."""
    mano: Path | None = None
    """Folder with MANO_RIGHT: MANO's parameters become labels; null leaves them out."""
    split: Literal["train", "val", "test"] | None = None
    """The frames' split; null: test for the evaluation set, else chosen by the collection."""

    def __post_init__(self) -> None:
        if not self.backgrounds or len({*self.backgrounds}) < len(self.backgrounds):
            raise ValueError("backgrounds must name each background once, and at least one")


Config = FreiHandConfig


def frames(config: FreiHandConfig) -> Iterator[FrameRecord | Reject]:
    """Every hand before each chosen background, hand by hand."""
    pictures = config.root / config.part / "rgb"
    if not pictures.is_dir():
        raise ValueError(f"{pictures} is missing: {_WHERE[config.part]}")
    mano = None if config.mano is None else ManoLabels(config.mano)
    count = sum(1 for _ in _annotations(config, ("K",)))  # how far the next background's number is
    kinds = ("K", "xyz") if mano is None else ("K", "xyz", "mano")
    for index, entry in enumerate(_annotations(config, kinds)):
        for background in config.backgrounds if config.part == "training" else ("gs",):
            number = index + count * BACKGROUNDS.index(background)
            source = f"{config.part}/rgb/{number:08d}.jpg"
            try:
                yield _record(config, mano, index, background, source, entry)
            except ValueError as error:
                yield Reject(source, str(error))


def provenance(config: FreiHandConfig) -> Provenance:
    """Licence and citation as the dataset's page gives them."""
    return Provenance(
        importer="freihand",
        licence="FreiHAND terms of use: research only, any commercial use is prohibited",
        commercial=False,
        citation="Zimmermann et al., FreiHAND: A Dataset for Markerless Capture of Hand Pose and "
        "Shape from Single RGB Images, ICCV 2019",
        joint_set="mano21",
        details={
            "part": config.part,
            "backgrounds": list(config.backgrounds),
            "hand_model": "" if config.mano is None else "MANO",
        },
    )


def _annotations(config: FreiHandConfig, kinds: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    """The entries of these files side by side; ValueError where one is shorter than another."""
    paths = [config.root / f"{config.part}_{kind}.json" for kind in kinds]
    nothing = object()
    lists = [json_items(path, _WHERE[config.part]) for path in paths]
    for entries in zip_longest(*lists, fillvalue=nothing):
        for path, entry in zip(paths, entries, strict=True):
            if entry is nothing:
                raise ValueError(
                    f"{path} has fewer entries than the files beside it, so it is not known what "
                    "belongs to what; unpack the archive again"
                )
        yield entries


def _record(
    config: FreiHandConfig,
    mano: ManoLabels | None,
    index: int,
    background: str,
    source: str,
    entry: tuple[Any, ...],
) -> FrameRecord:
    path = config.root / source
    size = picture_size(path)
    intrinsics = numbers(entry[0], (3, 3), "K")
    joints = numbers(entry[1], (21, 3), "xyz")[_AS_MANO]
    labels = joint_labels(joints, np.ones(21, bool), intrinsics, size)
    if mano is not None:
        theta = numbers(entry[2], (61,), "mano")  # its last three: the root's pixel and a scale
        labels |= mano.labels(theta[:3], theta[3:48], theta[48:58], joints[0])
    mask = None
    if config.part == "training":
        mask = _mask(config.root / "training" / "mask" / f"{index:08d}.jpg", size)
    return FrameRecord(
        image=path,
        box=(0.0, 0.0, float(size[0]), float(size[1])),
        subject=f"{config.part}_{index:08d}",
        sequence=f"{config.part}_{index:08d}",
        camera=background if config.part == "training" else "",
        time=0.0,
        source=source,
        intrinsics=intrinsics,
        mask=mask,
        labels=labels,
        split=config.split or ("test" if config.part == "evaluation" else None),
    )


def _mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool, True on the hand."""
    try:
        mask = read_grey(path) > 127
    except Unreadable as reason:
        raise ValueError(f"its mask mask/{path.name}: {reason}") from None
    if mask.shape != (size[1], size[0]):
        raise ValueError(f"its mask mask/{path.name} has another size than the picture")
    return mask
