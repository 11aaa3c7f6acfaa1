"""Penn Action: sports videos of one person, 13 joints in every picture.

labels/0001.mat (x, y, visibility, bbox, train of every picture), frames/0001/000001.jpg ...
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpse_dist.body.picture_joints import PENN13
from hpse_dist.data.importers import matlab, official
from hpse_dist.data.importers.official import Bad
from hpse_dist.records import FrameRecord, Provenance, Reject

_ORIGIN = (
    "get Penn_Action.tar.gz from dreamdragon.github.io/PennAction and give the unpacked folder, "
    "which holds labels/ and frames/, as source.root"
)


@dataclass(frozen=True)
class PennActionConfig:
    """Penn Action's people over time."""

    root: Path
    """The folder that holds labels and frames."""
    frame_rate: float = 30.0
    """Pictures per second; the dataset does not say."""
    every: int = 1
    """Take one picture of so many."""

    def __post_init__(self) -> None:
        official.check_shared_keys(self)


Config = PennActionConfig


def frames(config: PennActionConfig) -> Iterator[FrameRecord | Reject]:
    """A record for each picture, video by video in the order of time."""
    official.required(config.root / "frames", _ORIGIN)
    files = sorted(official.required(config.root / "labels", _ORIGIN).glob("*.mat"))
    if not files:
        raise ValueError(f"{config.root / 'labels'} holds no .mat files; {_ORIGIN}")
    for path in files:
        try:
            yield from _video(path, config)
        except Bad as reason:
            yield Reject(path.name, str(reason))


def provenance(config: PennActionConfig) -> Provenance:
    """No licence comes with the dataset."""
    return Provenance(
        importer="penn_action",
        licence="none stated, videos from the internet: research only",
        commercial=False,
        citation="Zhang, Zhu, Derpanis, From Actemes to Action, ICCV 2013",
        joint_set="penn13",
        details={"assumed_frame_rate": config.frame_rate},
    )


def _video(path: Path, config: PennActionConfig) -> Iterator[FrameRecord | Reject]:
    stored = matlab.read_mat(path, ("x", "y", "visibility", "bbox", "train"))
    x, y, seen = (
        matlab.array(stored[name], (None, len(PENN13)), name) for name in ("x", "y", "visibility")
    )
    boxes = matlab.array(stored["bbox"], (None, 4), "bbox")
    if not len(x) == len(y) == len(seen):
        raise Bad("x, y and visibility are of different lengths")
    joints = matlab.joints(x, y, (seen > 0).astype(float))
    split = "train" if matlab.number(stored["train"]) == 1 else "test"
    for index in range(0, len(x), config.every):
        source = f"{path.stem}, frame {index + 1}"
        try:
            yield FrameRecord(
                image=official.picture_at(
                    config.root / "frames", f"{path.stem}/{index + 1:06d}.jpg"
                ),
                box=_box(boxes, index),
                subject="",
                sequence=path.stem,
                track=path.stem,
                camera="",
                time=index / config.frame_rate,
                source=source,
                labels={"joints2d": official.any_joint(joints[index])},
                split=split,
            )
        except Bad as reason:
            yield Reject(source, str(reason))


def _box(boxes: np.ndarray, index: int) -> tuple[float, float, float, float]:
    """From Matlab's first and last pixels; some videos have boxes for all but the last pictures."""
    if index >= len(boxes):
        raise Bad("there is no box for this picture")
    x0, y0, x1, y1 = boxes[index].tolist()
    if not np.isfinite(boxes[index]).all() or x1 <= x0 or y1 <= y0:
        raise Bad("the box is empty")
    return x0 - 1, y0 - 1, x1, y1
