"""MPII Human Pose: mpii_human_pose_v1_u12_1.mat and images/*.jpg; 16 joints.

Pictures are single frames of videos. Only training pictures are annotated; which of them to keep
for validation the collection chooses, by video. There is no box of the person: it is put around
joints and head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpse_dist.body.picture_joints import MPII16
from hpse_dist.data.importers import matlab, official
from hpse_dist.data.importers.matlab import number, structs
from hpse_dist.data.importers.official import Bad
from hpse_dist.records import FrameRecord, Provenance, Reject

FILE = "mpii_human_pose_v1_u12_1.mat"
_ORIGIN = (
    "get mpii_human_pose_v1.tar.gz and mpii_human_pose_v1_u12_2.zip from human-pose.mpi-inf.mpg.de "
    f"and unpack them in source.root, as images/ and {FILE}"
)


@dataclass(frozen=True)
class MpiiConfig:
    """MPII's people with 16 joints."""

    root: Path
    """The folder that holds the pictures' folder and the annotation."""
    annotations: str = FILE
    """The annotation file, under root."""
    occluded_confidence: float = 0.5
    """Confidence of a joint that is labelled though something hides it; one in sight has 1."""
    box_margin: float = 0.15
    """How much wider a box is than joints and head in it, share of their longer side."""

    def __post_init__(self) -> None:
        official.check_shared_keys(self)


Config = MpiiConfig


def frames(config: MpiiConfig) -> Iterator[FrameRecord | Reject]:
    """A record for each annotated person, video by video in the order of time."""
    path = official.required(config.root / config.annotations, _ORIGIN)
    folder = official.required(config.root / "images", _ORIGIN)
    try:
        (release,) = structs(matlab.read_mat(path, ("RELEASE",), objects=True)["RELEASE"])
        pictures = structs(release.annolist)
        training = np.ravel(release.img_train)
    except (Bad, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is not MPII's release: {error}; {_ORIGIN}") from None
    order = sorted(range(len(pictures)), key=lambda i: (*_moment(pictures[i]), i))
    for index in order:
        if index < len(training) and training[index] == 1:
            yield from _people(index, pictures[index], folder, config)


def provenance(config: MpiiConfig) -> Provenance:
    """MPII's terms."""
    return Provenance(
        importer="mpii",
        licence="free for research purposes; ask the authors for any other",
        commercial=False,
        citation="Andriluka et al., 2D Human Pose Estimation: New Benchmark and State of the Art "
        "Analysis, CVPR 2014",
        joint_set="mpii16",
    )


def _moment(picture: Any) -> tuple[float, float]:
    """The video's number and the second in it; -1 where unknown."""
    video, second = (number(getattr(picture, key, None)) for key in ("vididx", "frame_sec"))
    return (-1.0 if video is None else video), (-1.0 if second is None else second)


def _people(
    index: int, picture: Any, folder: Path, config: MpiiConfig
) -> Iterator[FrameRecord | Reject]:
    video, second = _moment(picture)
    try:
        name = str(np.ravel(structs(picture.image)[0].name)[0])
        image = official.picture_at(folder, name)
    except (AttributeError, IndexError):
        yield Reject(f"annolist({index + 1})", "the picture has no name")
        return
    except Bad as reason:
        yield Reject(f"annolist({index + 1})", str(reason))
        return
    for place, person in enumerate(structs(getattr(picture, "annorect", None)), 1):
        source = f"{name}, person {place}"
        try:
            joints = official.any_joint(_joints(person, config))
            yield FrameRecord(
                image=image,
                box=_box(person, joints, config),
                subject="",
                sequence=f"video {video:.0f}" if video >= 0 else name,
                camera="",
                time=max(second, 0.0),
                source=source,
                labels={"joints2d": joints},
            )
        except Bad as reason:
            yield Reject(source, str(reason))


def _joints(person: Any, config: MpiiConfig) -> np.ndarray:
    """(16, 3); is_visible is 0 where something hides the joint, and empty for some heads."""
    holders = structs(getattr(person, "annopoints", None))
    points = structs(getattr(holders[0], "point", None)) if holders else []
    joints: np.ndarray = np.zeros((len(MPII16), 3))
    for point in points:
        x, y, place, seen = (
            number(getattr(point, key, None)) for key in ("x", "y", "id", "is_visible")
        )
        if x is None or y is None or place is None or place not in range(len(MPII16)):
            raise Bad("a point has no place or no joint")
        sure = config.occluded_confidence if seen == 0 else 1.0
        joints[int(place)] = x + matlab.PIXEL, y + matlab.PIXEL, sure
    return joints


def _box(person: Any, joints: np.ndarray, config: MpiiConfig) -> tuple[float, float, float, float]:
    head = [number(getattr(person, key, None)) for key in ("x1", "y1", "x2", "y2")]
    corners = np.array([value for value in head if value is not None])
    if len(corners) == 4:
        ends = np.column_stack([corners.reshape(2, 2) + matlab.PIXEL, [1.0, 1.0]])
        joints = np.concatenate([joints, ends])
    return official.box_of_joints(joints, config.box_margin)
