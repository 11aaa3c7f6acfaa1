"""COCO keypoints 2017: annotations/person_keypoints_{train,val}2017.json, {train,val}2017/*.jpg."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpse_dist.body.joints import COCO17
from hpse_dist.data.importers import coco_style
from hpse_dist.data.importers.coco_style import CocoStyleConfig, joints_of
from hpse_dist.records import FrameRecord, Provenance, Reject

LICENCE = (
    "annotations CC BY 4.0; pictures under their Flickr licences, of which many forbid "
    "commercial use"
)
CITATION = "Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014"
_ORIGIN = (
    "get 2017 Train/Val images and annotations from cocodataset.org/#download and unpack them in "
    "source.root, as annotations/, train2017/ and val2017/"
)


@dataclass(frozen=True)
class CocoConfig(CocoStyleConfig):
    """COCO's people with 17 joints."""


Config = CocoConfig


def frames(config: CocoConfig) -> Iterator[FrameRecord | Reject]:
    """A record for each person with a labelled joint."""

    def joints(annotation: dict[str, Any]) -> np.ndarray:
        return body(annotation, config)

    yield from coco_style.frames(config, joints, _ORIGIN)


def body(annotation: dict[str, Any], config: CocoStyleConfig) -> np.ndarray:
    """(17, 3) joints of COCO17: v is 0 not labelled, 1 labelled though hidden, 2 in sight."""
    sure = (0.0, config.occluded_confidence, 1.0)
    return joints_of(annotation, "keypoints", len(COCO17), sure)


def provenance(config: CocoConfig) -> Provenance:
    """COCO's terms."""
    return Provenance("coco", LICENCE, False, CITATION, "coco17", {"splits": list(config.splits)})
