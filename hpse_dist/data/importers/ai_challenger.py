"""AI Challenger's human keypoints: 14 joints; one array of pictures, people named human1, human2.

ai_challenger_keypoint_train_20170909/keypoint_train_annotations_20170909.json
ai_challenger_keypoint_train_20170909/keypoint_train_images_20170902/<image_id>.jpg
ai_challenger_keypoint_validation_20170911/keypoint_validation_annotations_20170911.json  ...
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpse_dist.body.picture_joints import AIC14
from hpse_dist.data.importers import official
from hpse_dist.data.importers.coco_style import joints_of
from hpse_dist.data.importers.json_stream import elements
from hpse_dist.data.importers.official import Bad
from hpse_dist.records import FrameRecord, Provenance, Reject

_FOLDERS = {
    "train": "ai_challenger_keypoint_train_20170909",
    "val": "ai_challenger_keypoint_validation_20170911",
}
_FILES = {
    "train": ("keypoint_train_annotations_20170909.json", "keypoint_train_images_20170902"),
    "val": (
        "keypoint_validation_annotations_20170911.json",
        "keypoint_validation_images_20170911",
    ),
}
_ORIGIN = (
    "get AI Challenger's human keypoint dataset of 2017 "
    f"(github.com/AIChallenger/AI_Challenger_2017) and unpack it in source.root, as "
    f"{_FOLDERS['train']}/ and {_FOLDERS['val']}/"
)


@dataclass(frozen=True)
class AiChallengerConfig:
    """AI Challenger's people with 14 joints."""

    root: Path
    """The folder that holds the unpacked training and validation folders."""
    splits: tuple[str, ...] = ("train", "val")
    """Which parts to read, in this order."""
    occluded_confidence: float = 0.5
    """Confidence of a joint that is labelled though something hides it; one in sight has 1."""

    def __post_init__(self) -> None:
        if not self.splits or set(self.splits) - {*_FOLDERS}:
            raise ValueError(f"splits must be train, val or both, found {list(self.splits)}")
        official.check_shared_keys(self)


Config = AiChallengerConfig


def frames(config: AiChallengerConfig) -> Iterator[FrameRecord | Reject]:
    """A record for each person with a labelled joint, picture by picture."""
    for split in config.splits:
        folder = config.root / _FOLDERS[split]
        path, pictures = (official.required(folder / name, _ORIGIN) for name in _FILES[split])
        for element in elements(path):
            about = element.value
            where = f"{path.name}, byte {element.start}"
            try:
                if not isinstance(about, dict):
                    raise Bad("it is no object")
                people, boxes = (
                    _object(about, key) for key in ("keypoint_annotations", "human_annotations")
                )
                name = f"{about.get('image_id')}.jpg"
                image = official.picture_at(pictures, name)
            except Bad as reason:
                yield Reject(where, str(reason))
                continue
            for human, keypoints in people.items():
                source = f"{split}/{name}, {human[:40]}"
                try:
                    yield FrameRecord(
                        image=image,
                        box=_box(boxes.get(human)),
                        subject="",
                        sequence=f"{split}/{name}",
                        camera="",
                        time=0.0,
                        source=source,
                        labels={"joints2d": _joints(keypoints, config)},
                        split=split,
                    )
                except Bad as reason:
                    yield Reject(source, str(reason))


def provenance(config: AiChallengerConfig) -> Provenance:
    """AI Challenger's terms."""
    return Provenance(
        importer="ai_challenger",
        licence="AI Challenger terms: non-commercial research",
        commercial=False,
        citation="Wu et al., AI Challenger: A Large-scale Dataset for Going Deeper in Image "
        "Understanding, 2017",
        joint_set="aic14",
        details={"splits": list(config.splits)},
    )


def _object(about: dict[str, Any], key: str) -> dict[str, Any]:
    value = about.get(key)
    if not isinstance(value, dict):
        raise Bad(f"{key} is no object")
    return value


def _joints(keypoints: Any, config: AiChallengerConfig) -> np.ndarray:
    """(14, 3): v is 1 in sight, 2 hidden, 3 not labelled."""
    sure = (0.0, 1.0, config.occluded_confidence, 0.0)
    return official.any_joint(joints_of({"keypoints": keypoints}, "keypoints", len(AIC14), sure))


def _box(corners: Any) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = official.numbers(corners, 4, "the box").tolist()
    if x1 <= x0 or y1 <= y0:
        raise Bad("the box is empty")
    return x0, y0, x1, y1
