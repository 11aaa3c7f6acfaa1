"""CrowdPose: crowded pictures, 14 joints; json/crowdpose_{train,val,test}.json, images/*.jpg."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpse_dist.body.picture_joints import CROWDPOSE14
from hpse_dist.data.importers import coco_style
from hpse_dist.data.importers.coco_style import CocoStyleConfig, joints_of
from hpse_dist.records import FrameRecord, Provenance, Reject

_ORIGIN = (
    "get CrowdPose's images and annotations from github.com/jeffffffli/CrowdPose and unpack them "
    "in source.root, as images/ and json/"
)


@dataclass(frozen=True)
class CrowdPoseConfig(CocoStyleConfig):
    """CrowdPose's people with 14 joints."""

    splits: tuple[str, ...] = ("train", "val", "test")
    """Which parts to read, in this order."""
    annotations: str = "json/crowdpose_{split}.json"
    """Annotation file of a split, under root."""
    pictures: str = "images"
    """Folder of the pictures, under root."""
    occluded_confidence: float = 1.0
    """Confidence of a joint whose v is 1. By the authors v says only whether a joint is labelled:
    it is 1 for every head and neck, and for others in sight too."""


Config = CrowdPoseConfig


def frames(config: CrowdPoseConfig) -> Iterator[FrameRecord | Reject]:
    """A record for each person with a labelled joint."""
    sure = (0.0, config.occluded_confidence, 1.0)

    def joints(annotation: dict[str, Any]) -> np.ndarray:
        return joints_of(annotation, "keypoints", len(CROWDPOSE14), sure)

    yield from coco_style.frames(config, joints, _ORIGIN)


def provenance(config: CrowdPoseConfig) -> Provenance:
    """CrowdPose's terms."""
    licence = "non-commercial research; pictures of COCO, MPII and AI Challenger under their terms"
    citation = "Li et al., CrowdPose: Efficient Crowded Scenes Pose Estimation, CVPR 2019"
    details = {"splits": list(config.splits)}
    return Provenance("crowdpose", licence, False, citation, "crowdpose14", details)
