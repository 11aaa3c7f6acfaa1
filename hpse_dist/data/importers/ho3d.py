"""HO-3D, versions 2 and 3: right hands that hold things, before one to five cameras.

    root/train/<sequence>/rgb/0000.jpg    .png in version 2
    root/train/<sequence>/meta/0000.pkl   camMat, handJoints3D, handPose, handBeta, handTrans
    root/evaluation/...                   the same; handJoints3D may be the wrist alone, and
                                          handBoundingBox says where the hand is
    root/train.txt  evaluation.txt        lines <sequence>/0000

Joints are metres before an OpenGL camera: y up, z backwards. The order is MANO's with finger tips,
`joints.MANO21`. A sequence's name ends in its take and, with several cameras, the camera: ABF10 to
ABF14 are five cameras of one take; they have no common world here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from hpse_dist.body.smpl_files import read_pickled_arrays
from hpse_dist.data.importers.joint_labels import (
    Box,
    box_around,
    joint_labels,
    projected,
)
from hpse_dist.data.importers.mano_labels import ManoLabels
from hpse_dist.data.importers.official import inside, numbers
from hpse_dist.data.pictures import picture_size
from hpse_dist.records import FrameRecord, Provenance, Reject

_FROM_OPENGL = np.diag([1.0, -1.0, -1.0])
_MARGIN = 0.15  # of the longer side: how far skin reaches beyond the joints
_TAKES = re.compile(r"([A-Za-z]+)(\d)(\d?)")
_SEPARATE = re.compile(r"([^/]+)/(\d+)")
_NAMES = ("camMat", "handJoints3D", "handPose", "handBeta", "handBoundingBox")
_WHERE = (
    "it is part of HO3D_v3.zip (or v2), see github.com/shreyashampali/ho3d; unpack to source.root"
)


@dataclass(frozen=True)
class Ho3dConfig:
    """HO-3D as it is unpacked."""

    root: Path
    """The folder that holds train, evaluation and train.txt."""
    part: Literal["train", "evaluation"] = "train"
    """Which of the two sets."""
    mano: Path | None = None
    """Folder with MANO_RIGHT: MANO's parameters become labels; null leaves them out."""
    split: Literal["train", "val", "test"] | None = None
    """The frames' split; null: test for the evaluation set, else chosen by the collection."""
    frames_per_s: float = 30.0
    """Pictures per second of the cameras."""

    def __post_init__(self) -> None:
        if self.frames_per_s <= 0:
            raise ValueError(f"frames_per_s must be above 0, found {self.frames_per_s}")


Config = Ho3dConfig


def frames(config: Ho3dConfig) -> Iterator[FrameRecord | Reject]:
    """Every listed picture, a take's moment after moment, its cameras one after another."""
    index = config.root / f"{config.part}.txt"
    if not index.is_file():
        raise ValueError(f"{index} is missing: {_WHERE}")
    if not (config.root / config.part).is_dir():
        raise ValueError(f"{config.root / config.part} is missing: {_WHERE}")
    mano = None if config.mano is None else ManoLabels(config.mano)
    listed = []
    for line in index.read_text(encoding="utf-8", errors="replace").splitlines():
        entry = _SEPARATE.fullmatch(line.strip())
        if entry is None:
            if line.strip():
                yield Reject(f"{index.name}, {line.strip()[:80]!r}", "not <sequence>/<number>")
            continue
        subject, take, camera = _take(entry[1])
        listed.append((subject, take, int(entry[2]), camera, entry[1], entry[2]))
    for subject, take, number, camera, sequence, name in sorted(listed):
        source = f"{config.part}/{sequence}/{name}"
        try:
            record = _record(config, mano, sequence, name)
        except ValueError as error:
            yield Reject(source, str(error))
            continue
        record.subject, record.sequence, record.camera = subject, take, camera
        record.time, record.source = number / config.frames_per_s, source
        yield record


def provenance(config: Ho3dConfig) -> Provenance:
    """Licence and citation as the dataset's page gives them."""
    return Provenance(
        importer="ho3d",
        licence="HO-3D terms of use: non-commercial academic research only",
        commercial=False,
        citation="Hampali et al., HOnnotate: A Method for 3D Annotation of Hand and Object Poses, "
        "CVPR 2020",
        joint_set="mano21",
        details={
            "part": config.part,
            "hand_model": "" if config.mano is None else "MANO",
        },
    )


def _take(sequence: str) -> tuple[str, str, str]:
    """Subject, take and camera of a sequence's name; letters stand for who and what."""
    found = _TAKES.fullmatch(sequence)
    if found is None:
        return sequence, sequence, ""
    return found[1], found[1] + found[2], found[3]


def _record(config: Ho3dConfig, mano: ManoLabels | None, sequence: str, name: str) -> FrameRecord:
    """The picture with its labels; who and when are set by whoever asks."""
    folder = inside(config.root / config.part, sequence)
    path = folder / "rgb" / f"{name}.jpg"
    if not path.is_file():
        path = path.with_suffix(".png")
    size = picture_size(path)
    meta = folder / "meta" / f"{name}.pkl"
    if not meta.is_file():
        raise ValueError(f"its meta/{name}.pkl is missing")
    known = read_pickled_arrays(meta, _NAMES)
    intrinsics = numbers(known.get("camMat"), (3, 3), "camMat")
    places = known.get("handJoints3D")
    if places is None:
        raise ValueError("it has no handJoints3D")
    if places.size == 3:  # of the evaluation set of version 2: the wrist alone
        joints, valid = np.zeros((21, 3)), np.arange(21) == 0
        joints[0] = numbers(places, (3,), "handJoints3D") @ _FROM_OPENGL
    else:
        joints = numbers(places, (21, 3), "handJoints3D") @ _FROM_OPENGL
        valid = np.ones(21, bool)
    labels = joint_labels(joints, valid, intrinsics, size)
    if mano is not None and "handPose" in known and "handBeta" in known:
        pose = numbers(known["handPose"], (48,), "handPose")
        betas = numbers(known["handBeta"], (10,), "handBeta")
        orient = cv2.Rodrigues(_FROM_OPENGL @ cv2.Rodrigues(pose[:3])[0])[0].reshape(3)
        labels |= mano.labels(orient, pose[3:], betas, joints[0], flat=True)
    return FrameRecord(
        image=path,
        box=_box(known.get("handBoundingBox"), projected(joints[valid], intrinsics)),
        subject="",
        sequence="",
        camera="",
        time=0.0,
        source="",
        intrinsics=intrinsics,
        labels=labels,
        split=config.split or ("test" if config.part == "evaluation" else None),
    )


def _box(given: np.ndarray | None, places: np.ndarray) -> Box:
    """The dataset's box (x0, y0, x1, y1), else the one around the joints."""
    if given is not None:
        x0, y0, x1, y1 = (float(v) for v in numbers(given, (4,), "handBoundingBox"))
        return x0, y0, x1, y1
    if len(places) < 2:
        raise ValueError("it has neither a handBoundingBox nor joints to put one around")
    return box_around(places, _MARGIN)
