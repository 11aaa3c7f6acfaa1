"""COCO-WholeBody: COCO 2017's people with 133 places of body, feet, face and hands.

annotations/coco_wholebody_{train,val}_v1.0.json beside COCO's pictures {train,val}2017/*.jpg.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpse_dist.data.importers import coco, coco_style
from hpse_dist.data.importers.coco_style import CocoStyleConfig, joints_of
from hpse_dist.records import FrameRecord, Provenance, Reject

LICENCE = "CC BY-NC 4.0, non-commercial; pictures under their Flickr licences"
_ORIGIN = (
    "get coco_wholebody_train_v1.0.json and coco_wholebody_val_v1.0.json from "
    "github.com/jin-s13/COCO-WholeBody into annotations/ under source.root, and COCO's 2017 "
    "pictures from cocodataset.org/#download into train2017/ and val2017/"
)
_MORE = {"foot_kpts": 6, "face_kpts": 68, "lefthand_kpts": 21, "righthand_kpts": 21}


@dataclass(frozen=True)
class CocoWholeBodyConfig(CocoStyleConfig):
    """COCO's people with 133 places; on feet, face and hands any labelled place is sure."""

    annotations: str = "annotations/coco_wholebody_{split}_v1.0.json"
    """Annotation file of a split, under root."""


Config = CocoWholeBodyConfig


def frames(config: CocoWholeBodyConfig) -> Iterator[FrameRecord | Reject]:
    """A record for each person with a labelled place."""

    def joints(annotation: dict[str, Any]) -> np.ndarray:
        more = [joints_of(annotation, key, count, None) for key, count in _MORE.items()]
        return np.concatenate([coco.body(annotation, config), *more])

    yield from coco_style.frames(config, joints, _ORIGIN)


def provenance(config: CocoWholeBodyConfig) -> Provenance:
    """COCO-WholeBody's terms."""
    citation = "Jin et al., Whole-Body Human Pose Estimation in the Wild, ECCV 2020"
    details = {"splits": list(config.splits)}
    return Provenance("coco_wholebody", LICENCE, False, citation, "wholebody133", details)
