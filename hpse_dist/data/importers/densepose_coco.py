"""DensePose-COCO: COCO 2014's people with 14 marked body parts, beside their 17 joints.

    root/annotations/densepose_coco_2014_{train,valminusminival,minival}.json
    root/train2014/COCO_train2014_*.jpg   root/val2014/COCO_val2014_*.jpg

`dp_masks` are 14 run-length masks of 256 x 256 over the person's box; their parts are the 14 of
`joints.PART_NAMES`, so part_map is theirs. The marked points (dp_x, dp_y, dp_I, dp_U, dp_V) lie on
DensePose's own 24 charts, which have no counterpart on this project's bodies: they are left out,
and a collection has no uv_map.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpse_dist.body.joints import PART_NAMES
from hpse_dist.data.importers import coco, coco_style
from hpse_dist.data.importers.coco_style import CocoStyleConfig
from hpse_dist.data.importers.official import Bad
from hpse_dist.data.importers.outlines import run_lengths
from hpse_dist.records import FrameRecord, Provenance, Reject

SIDE = 256  # of a part's mask
_ORIGIN = (
    "get densepose_coco_2014_{train,valminusminival,minival}.json with DensePose's "
    "get_DensePose_COCO.sh into annotations/ under source.root, and COCO's 2014 pictures from "
    "cocodataset.org/#download into train2014/ and val2014/"
)
# the masks' own order
_PARTS = (
    *("torso", "right_hand", "left_hand", "left_foot", "right_foot"),
    *("right_upper_leg", "left_upper_leg", "right_lower_leg", "left_lower_leg"),
    *("left_upper_arm", "right_upper_arm", "left_lower_arm", "right_lower_arm", "head"),
)


@dataclass(frozen=True)
class DensePoseCocoConfig(CocoStyleConfig):
    """COCO's people whose body parts are marked."""

    splits: tuple[str, ...] = ("train", "valminusminival", "minival")
    """Which parts to read, in this order; minival becomes val, the others train."""
    annotations: str = "annotations/densepose_coco_2014_{split}.json"
    """Annotation file of a split, under root."""
    pictures: str = "{split}2014"
    """Folder of pictures under root; {split} is val for both parts of COCO's val."""

    def picture_folder(self, split: str) -> Path:
        return super().picture_folder("train" if split == "train" else "val")


Config = DensePoseCocoConfig


def frames(config: DensePoseCocoConfig) -> Iterator[FrameRecord | Reject]:
    """A record for each person with a labelled joint and marked parts."""

    def joints(annotation: dict[str, Any]) -> np.ndarray:
        if "dp_masks" not in annotation:
            raise Bad("its body parts are not marked (no dp_masks)")
        return coco.body(annotation, config)

    def complete(
        record: FrameRecord, annotation: dict[str, Any], size: tuple[int, int]
    ) -> FrameRecord:
        parts = part_map(annotation["dp_masks"], record.box, size)
        record.labels["part_map"] = parts
        if config.masks:
            record.mask = parts > 0
        return record

    yield from coco_style.frames(config, joints, _ORIGIN, complete)


def part_map(
    masks: Any, box: tuple[float, float, float, float], size: tuple[int, int]
) -> np.ndarray:
    """(height, width) uint8 of `PART_NAMES`' numbers; Bad where the masks are not such.

    Where two masks overlap, the later one is in front, as in the authors' own notebook.
    """
    if not isinstance(masks, list) or len(masks) != len(_PARTS):
        raise Bad(f"dp_masks is no list of {len(_PARTS)} masks")
    small: np.ndarray = np.zeros((SIDE, SIDE), np.uint8)
    for name, mask in zip(_PARTS, masks, strict=True):
        if mask == []:
            continue
        if not isinstance(mask, dict) or mask.get("size") != [SIDE, SIDE]:
            raise Bad(f"dp_masks: {name} is no mask of {SIDE} x {SIDE}")
        small[run_lengths(mask)] = PART_NAMES.index(name)
    if not small.any():
        raise Bad("all of dp_masks is empty")
    rows, columns = (_inside(box[axis], box[axis + 2], size[1 - axis]) for axis in (1, 0))
    parts: np.ndarray = np.zeros(size, np.uint8)
    parts[np.ix_(rows[0], columns[0])] = small[np.ix_(rows[1], columns[1])]
    return parts


def _inside(low: float, high: float, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The picture's pixels along one axis whose middle is in the box, and the mask's there."""
    pixels = np.arange(max(int(np.ceil(low - 0.5)), 0), min(int(np.ceil(high - 0.5)), length))
    places = ((pixels + 0.5 - low) / (high - low) * SIDE).astype(int)
    return pixels, places.clip(0, SIDE - 1)


def provenance(config: DensePoseCocoConfig) -> Provenance:
    """DensePose-COCO's terms."""
    return Provenance(
        importer="densepose_coco",
        licence="annotations CC BY-NC 2.0, non-commercial; pictures under their Flickr licences",
        commercial=False,
        citation="Güler et al., DensePose: Dense Human Pose Estimation In The Wild, CVPR 2018",
        joint_set="coco17",
        details={"splits": list(config.splits), "surface": "parts only, no coordinates"},
    )
