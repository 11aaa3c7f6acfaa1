"""MCPC's manner: whole pictures of several people, of MPII, COCO, PoseTrack18 and CrowdPose.

MCPC is the set of Qiu et al. (Pattern Recognition 139, 2023) and is not public; which datasets
theirs is made of is our guess. Each dataset is read by its own importer, the people of a picture
are put together again, and their joints are brought into one set. Datasets mean the same by
shoulders to ankles; only three annotate neck and head, COCO's people have none there (confidence
0). Relations of depth are made of the joints when a batch is loaded
(`hpse_dist.data.depth_order`), each with its confidence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from hpse_dist.body.joints import JOINT_SETS
from hpse_dist.body.picture_joints import MCPC14
from hpse_dist.data.importers import coco, crowdpose, mpii, posetrack18
from hpse_dist.data.pictures import Unreadable, picture_size
from hpse_dist.records import FrameRecord, Provenance, Reject

_PARTS: dict[str, Any] = {
    "coco": coco,
    "mpii": mpii,
    "posetrack18": posetrack18,
    "crowdpose": crowdpose,
}
# What the joints of MCPC14 are called elsewhere; a name that is not here is the same everywhere.
_CALLED = {
    "mpii16": {"neck": "upper_neck"},
    "posetrack17": {"neck": "head_bottom"},
    "crowdpose14": {"head_top": "head"},
}


@dataclass(frozen=True)
class McpcConfig:
    """Whole pictures of several people; a part that is null is left out."""

    coco: coco.CocoConfig | None = None
    """Where COCO is, and which of it."""
    mpii: mpii.MpiiConfig | None = None
    """Where MPII is."""
    posetrack18: posetrack18.PoseTrack18Config | None = None
    """Where PoseTrack18 is."""
    crowdpose: crowdpose.CrowdPoseConfig | None = None
    """Where CrowdPose is."""
    least_people: int = 2
    """Pictures with fewer labelled people are left out."""
    max_people: int = 8
    """Rows of `people2d`: of more people the largest are kept."""

    def __post_init__(self) -> None:
        if not self.parts():
            raise ValueError(f"at least one of {', '.join(_PARTS)} must be given")
        if not 1 <= self.least_people <= self.max_people <= 32:
            raise ValueError(
                "1 <= least_people <= max_people <= 32 must hold, found "
                f"{self.least_people} and {self.max_people}"
            )

    def parts(self) -> dict[str, Any]:
        """The given datasets' configs by name."""
        given = {name: getattr(self, name) for name in _PARTS}
        return {name: config for name, config in given.items() if config is not None}


Config = McpcConfig


def frames(config: McpcConfig) -> Iterator[FrameRecord | Reject]:
    """A record for each picture of several people, dataset by dataset."""
    for name, part in config.parts().items():
        importer = _PARTS[name]
        joint_set = importer.provenance(part).joint_set
        people: list[FrameRecord] = []
        for record in importer.frames(part):
            if isinstance(record, Reject):  # one person; the others of the picture stay together
                yield Reject(f"{name}: {record.source}", record.reason)
                continue
            if people and record.image != people[0].image:
                yield _whole(name, people, joint_set, config)
                people = []
            people.append(record)
        if people:
            yield _whole(name, people, joint_set, config)


def provenance(config: McpcConfig) -> Provenance:
    """The terms of all parts together; commercial use where all allow it."""
    origins = {name: _PARTS[name].provenance(part) for name, part in config.parts().items()}
    return Provenance(
        importer="mcpc",
        licence="; ".join(f"{name}: {origin.licence}" for name, origin in origins.items()),
        commercial=all(origin.commercial for origin in origins.values()),
        citation="; ".join(
            [
                *(origin.citation for origin in origins.values()),
                "Qiu et al., Weakly-supervised pre-training for 3D human pose estimation via "
                "perspective knowledge, Pattern Recognition 139, 2023",
            ]
        ),
        joint_set="mcpc14",
        details={
            "parts": [
                {
                    "name": name,
                    "importer": origin.importer,
                    "licence": origin.licence,
                    "commercial": origin.commercial,
                    "citation": origin.citation,
                    "details": origin.details,
                }
                for name, origin in origins.items()
            ]
        },
    )


def common_joints(joints: np.ndarray, joint_set: str) -> np.ndarray:
    """Joints (..., J, 3) of a set as (..., 14, 3) of MCPC14; what the set lacks is 0."""
    names, called = JOINT_SETS[joint_set], _CALLED.get(joint_set, {})
    found: np.ndarray = np.zeros((*joints.shape[:-2], len(MCPC14), 3))
    for place, name in enumerate(MCPC14):
        name = called.get(name, name)
        if name in names:
            found[..., place, :] = joints[..., names.index(name), :]
    return found


def _whole(
    name: str, people: list[FrameRecord], joint_set: str, config: McpcConfig
) -> FrameRecord | Reject:
    """A picture with everybody in it."""
    first = people[0]
    source = f"{name}: {first.source.rpartition(', ')[0] or first.source}"
    if len(people) < config.least_people:
        return Reject(source, f"{len(people)} labelled people, fewer than {config.least_people}")
    assert isinstance(first.image, Path)
    try:
        width, height = picture_size(first.image)
    except Unreadable as reason:
        return Reject(source, str(reason))
    largest = sorted(people, key=lambda one: _area(one.box), reverse=True)[: config.max_people]
    joints = np.stack([common_joints(one.labels["joints2d"], joint_set) for one in largest])
    rows = ((0, config.max_people - len(joints)), (0, 0), (0, 0))
    return FrameRecord(
        image=first.image,
        box=(0.0, 0.0, float(width), float(height)),
        subject="",
        sequence=f"{name}/{first.sequence}",
        camera="",
        time=first.time,
        source=source,
        mask=_mask(people, height, width),
        labels={"people2d": np.pad(joints, rows)},
        split=first.split,
    )


def _area(box: tuple[float, float, float, float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _mask(people: list[FrameRecord], height: int, width: int) -> np.ndarray:
    """(H, W) bool, True on everybody: outlines where known, else the ellipse in the box."""
    mask: np.ndarray = np.zeros((height, width), np.uint8)
    for one in people:
        if one.mask is not None and one.mask.shape == mask.shape:
            mask |= one.mask.astype(np.uint8)
            continue
        x0, y0, x1, y1 = np.clip(one.box, -width - height, 2 * (width + height))
        middle, size = ((x0 + x1) / 2, (y0 + y1) / 2), (x1 - x0, y1 - y0)
        cv2.ellipse(mask, (middle, size, 0.0), 1, -1)
    return mask > 0
