"""InterHand2.6M: one or two hands in a studio of about a hundred calibrated cameras.

    root/images/train/Capture0/<sequence>/cam<camera>/image<frame>.jpg       also val, test
    root/annotations/train/InterHand2.6M_train_data.json                     pictures and boxes
    root/annotations/train/InterHand2.6M_train_camera.json                   per capture and camera
    root/annotations/train/InterHand2.6M_train_joint_3d.json                 per capture and frame
    root/annotations/train/InterHand2.6M_train_MANO_NeuralAnnot.json         per capture and frame

Joints are millimetres in the world; a camera at `campos`, turned by `camrot`, sees a point x at
camrot (x - campos). The order is `joints.INTERHAND42`: the right hand, then the left. A right hand
alone has its joints in the order of `joints.MANO21`, as tasks of hands have them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from hpse_dist.body.joints import INTERHAND21, MANO21
from hpse_dist.data.importers.interhand_files import WHERE, Picture, Tables, read_pictures
from hpse_dist.data.importers.joint_labels import box_around, joint_labels, projected
from hpse_dist.data.importers.mano_labels import ManoLabels
from hpse_dist.data.importers.official import inside
from hpse_dist.records import FrameRecord, Provenance, Reject

_RIGHT = [INTERHAND21.index(joint) for joint in MANO21]
_MARGIN = 0.15  # of the longer side: how far skin reaches beyond the joints


@dataclass(frozen=True)
class InterHandConfig:
    """InterHand2.6M as it is unpacked, one of its parts."""

    root: Path
    """The folder that holds images and annotations."""
    split: Literal["train", "val", "test"] = "train"
    """The dataset's own part; a collection of two is made by merging two."""
    annotations: str = "annotations/{split}/InterHand2.6M_{split}"
    """How the annotation files' names begin, below root; {split} stands for the part."""
    images: str = "images/{split}"
    """The pictures' folder below root."""
    hands: Literal["both", "right"] = "both"
    """both: 42 joints and the box of all; right: the right hand alone, 21 joints."""
    mano: Path | None = None
    """Folder with MANO_RIGHT: with hands right, MANO's parameters become labels."""
    frames_per_s: float | None = None
    """How many of the dataset's frame numbers make a second; null: 90 in train, where the 5 fps
    release has every 18th and the 30 fps release every third, 30 in val and test."""
    every: int = 1
    """Of every sequence's moments one in so many is taken."""

    def __post_init__(self) -> None:
        if self.rate <= 0 or self.every < 1:
            raise ValueError("frames_per_s must be above 0 and every at least 1")
        if self.mano is not None and self.hands != "right":
            raise ValueError("mano needs hands right: MANO's labels are of one right hand")

    @property
    def rate(self) -> float:
        """Frame numbers to a second."""
        if self.frames_per_s is not None:
            return self.frames_per_s
        return 90.0 if self.split == "train" else 30.0


Config = InterHandConfig


def frames(config: InterHandConfig) -> Iterator[FrameRecord | Reject]:
    """Every picture, a moment's cameras one after another."""
    names = config.annotations.replace("{split}", config.split)
    folder = config.root / config.images.replace("{split}", config.split)
    if not folder.is_dir():
        raise ValueError(f"{folder} is missing: {WHERE}")
    mano = None if config.mano is None else ManoLabels(config.mano)
    tables = Tables(config.root, names, mano is not None)
    pictures: list[Picture] = []
    for found in read_pictures(config.root / f"{names}_data.json"):
        if isinstance(found, Reject):
            yield found
        else:
            pictures.append(found)
    pictures.sort(key=Picture.moment)
    last, count = ("", "", "", -1), -1
    for picture in pictures:
        if picture.moment()[:3] != last[:3]:
            count = -1
        count += picture.moment()[:4] != last
        last = picture.moment()[:4]
        if count % config.every:
            continue
        try:
            record = _record(config, folder, tables, mano, picture)
        except ValueError as error:
            yield Reject(picture.name, str(error))
            continue
        if record is not None:
            yield record


def provenance(config: InterHandConfig) -> Provenance:
    """Licence and citation as the dataset's page gives them."""
    return Provenance(
        importer="interhand",
        licence="CC BY-NC 4.0",
        commercial=False,
        citation="Moon et al., InterHand2.6M: A Dataset and Baseline for 3D Interacting Hand Pose "
        "Estimation from a Single RGB Image, ECCV 2020",
        joint_set="interhand42" if config.hands == "both" else "mano21",
        details={
            "part": config.split,
            "hands": config.hands,
            "hand_model": "" if config.mano is None else "MANO",
        },
    )


def _record(
    config: InterHandConfig,
    folder: Path,
    tables: Tables,
    mano: ManoLabels | None,
    picture: Picture,
) -> FrameRecord | None:
    """The picture's record; None where the wanted hand is not in it."""
    path = inside(folder, picture.name)
    if picture.box is None:
        raise ValueError("it has no annotation")
    camera = tables.camera(picture.capture, picture.camera)
    world, known = tables.joints(picture.capture, picture.frame)
    valid = known & picture.valid
    box = picture.box
    if config.hands == "right":
        world, valid = world[_RIGHT], valid[_RIGHT]
        if not valid.any():
            return None
    joints = world @ camera.rotation.T + camera.translation
    labels = joint_labels(joints, valid, camera.intrinsics, picture.size)
    if not path.is_file():
        raise ValueError("the picture is missing")
    if config.hands == "right":
        box = box_around(projected(joints[valid], camera.intrinsics), _MARGIN)
    if mano is not None:
        hand = tables.hand(picture.capture, picture.frame)
        labels |= (
            {} if hand is None else _mano_labels(mano, hand, camera.rotation, camera.translation)
        )
    return FrameRecord(
        image=path,
        box=box,
        subject=f"subject{picture.subject}",
        sequence=f"capture{picture.capture}/{picture.sequence}",
        camera=picture.camera,
        time=picture.frame / config.rate,
        source=picture.name,
        intrinsics=camera.intrinsics,
        rotation=camera.rotation,
        translation=camera.translation,
        centre=world[valid].mean(axis=0),
        labels=labels,
        split=config.split,
    )


def _mano_labels(
    mano: ManoLabels, hand: dict[str, Any], rotation: np.ndarray, translation: np.ndarray
) -> dict[str, np.ndarray]:
    """MANO turns about its wrist J: R (J + trans) + t is where the camera has it."""
    pose, betas = hand["pose"], hand["shape"]
    turn = rotation @ cv2.Rodrigues(pose[:3])[0]
    wrist = rotation @ (mano.rest_wrist(betas) + hand["trans"]) + translation
    orient = cv2.Rodrigues(turn)[0].reshape(3)
    return mano.labels(orient, pose[3:], betas, wrist)
