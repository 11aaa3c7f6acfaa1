"""J-HMDB: short clips of one person acting, 15 joints in every picture.

joint_positions/<action>/<clip>/joint_positions.mat     pos_img (2, 15, T)
Rename_Images/<action>/<clip>/00001.png ...
puppet_mask/<action>/<clip>/puppet_mask.mat             part_mask (H, W, T), if it is there
splits/<action>_test_split1.txt                         "<clip>.avi 1" train, 2 test
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpse_dist.body.picture_joints import JHMDB15
from hpse_dist.data.importers import matlab, official
from hpse_dist.data.importers.official import Bad
from hpse_dist.records import FrameRecord, Provenance, Reject

_ORIGIN = (
    "get joint_positions, Rename_Images and splits (and puppet_mask) from jhmdb.is.tue.mpg.de and "
    "unpack them in source.root"
)


@dataclass(frozen=True)
class JhmdbConfig:
    """J-HMDB's people over time."""

    root: Path
    """The folder that holds joint_positions, Rename_Images and splits."""
    number: int = 1
    """Which of the dataset's three divisions into train and test."""
    frame_rate: float = 30.0
    """Pictures per second: HMDB51's, which the clips are cut from."""
    box_margin: float = 0.2
    """How much wider a box is than the joints in it, share of their longer side."""

    def __post_init__(self) -> None:
        if self.number not in (1, 2, 3):
            raise ValueError(f"number must be 1, 2 or 3, found {self.number}")
        official.check_shared_keys(self)


Config = JhmdbConfig


def frames(config: JhmdbConfig) -> Iterator[FrameRecord | Reject]:
    """A record for each picture, clip by clip in the order of time."""
    official.required(config.root / "Rename_Images", _ORIGIN)
    folder = official.required(config.root / "joint_positions", _ORIGIN)
    files = sorted(folder.glob("*/*/joint_positions.mat"))
    if not files:
        raise ValueError(f"{folder} holds no <action>/<clip>/joint_positions.mat; {_ORIGIN}")
    splits: dict[str, dict[str, str]] = {}
    for path in files:
        action, clip = path.parts[-3:-1]
        if action not in splits:
            splits[action] = _division(config, action)
        try:
            if clip not in splits[action]:
                raise Bad(f"division {config.number} does not name the clip")
            yield from _clip(path, splits[action][clip], config)
        except Bad as reason:
            yield Reject(f"{action}/{clip}", str(reason))


def provenance(config: JhmdbConfig) -> Provenance:
    """No licence comes with the dataset."""
    return Provenance(
        importer="jhmdb",
        licence="none stated, videos from HMDB51: research only",
        commercial=False,
        citation="Jhuang et al., Towards understanding action recognition, ICCV 2013",
        joint_set="jhmdb15",
        details={"division": config.number},
    )


def _division(config: JhmdbConfig, action: str) -> dict[str, str]:
    """The split of each clip of an action."""
    name = f"{action}_test_split{config.number}.txt"
    path = official.required(config.root / "splits" / name, _ORIGIN)
    words = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
    known = {"1": "train", "2": "test"}
    return {
        word[0].removesuffix(".avi"): known[word[1]]
        for word in words
        if len(word) == 2 and word[1] in known
    }


def _clip(path: Path, split: str, config: JhmdbConfig) -> Iterator[FrameRecord | Reject]:
    action, clip = path.parts[-3:-1]
    stored = matlab.read_mat(path, ("pos_img",))["pos_img"]
    x, y = matlab.array(stored, (2, len(JHMDB15), None), "pos_img")
    joints = matlab.joints(x.T, y.T, np.ones_like(x.T))
    masks = _masks(config.root / "puppet_mask" / action / clip / "puppet_mask.mat")
    folder = config.root / "Rename_Images" / action / clip
    for index, here in enumerate(joints):
        source = f"{action}/{clip}, frame {index + 1}"
        try:
            yield FrameRecord(
                image=official.picture_at(folder, f"{index + 1:05d}.png"),
                box=official.box_of_joints(here, config.box_margin),
                subject="",
                sequence=f"{action}/{clip}",
                track=f"{action}/{clip}",
                camera="",
                time=index / config.frame_rate,
                source=source,
                mask=masks[..., index] if masks is not None and index < masks.shape[2] else None,
                labels={"joints2d": here},
                split=split,
            )
        except Bad as reason:
            yield Reject(source, str(reason))


def _masks(path: Path) -> np.ndarray | None:
    """(H, W, T) bool, or None where the masks were not got."""
    if not path.is_file():
        return None
    stored = matlab.read_mat(path, ("part_mask",))["part_mask"]
    return matlab.array(stored, (None, None, None), "part_mask") > 0
