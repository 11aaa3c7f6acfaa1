"""PoseTrack18: videos in which everyone is followed, annotated frame by frame.

    annotations/{train,val}/<video>.json     images/{train,val}/<video>/000000.jpg

People's names are unknown, so a person is known by the track, and a video is in one split as a
whole. Frames come in the order of time with everybody in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from hpse_dist.body.picture_joints import POSETRACK17
from hpse_dist.data.importers import official
from hpse_dist.data.importers.coco_style import Picture, joints_of, one_person, pictures
from hpse_dist.data.importers.official import Bad
from hpse_dist.records import FrameRecord, Provenance, Reject

_ORIGIN = (
    "get PoseTrack18's annotations and images from posetrack.net (after registration) and unpack "
    "them in source.root, as annotations/train, annotations/val and images/"
)


@dataclass(frozen=True)
class PoseTrack18Config:
    """PoseTrack18's tracked people with 15 annotated joints."""

    root: Path
    """The folder that holds annotations and images."""
    splits: tuple[str, ...] = ("train", "val")
    """Which parts to read, in this order."""
    annotations: str = "annotations/{split}"
    """Folder of a split's annotation files, under root."""
    frame_rate: float = 25.0
    """Pictures per second; the dataset does not say, and its videos differ."""
    box_margin: float = 0.15
    """Where a person has no box: how much wider than the joints, share of their longer side."""

    def __post_init__(self) -> None:
        official.check_shared_keys(self)


Config = PoseTrack18Config


def frames(config: PoseTrack18Config) -> Iterator[FrameRecord | Reject]:
    """A record for each person and annotated picture, video by video."""
    for split in config.splits:
        folder = config.root / config.annotations.replace("{split}", split)
        files = sorted(official.required(folder, _ORIGIN).glob("*.json"))
        if not files:
            raise ValueError(f"{folder} holds no .json files; {_ORIGIN}")
        for path in files:
            yield from _video(path, split, config)


def provenance(config: PoseTrack18Config) -> Provenance:
    """PoseTrack's terms."""
    return Provenance(
        importer="posetrack18",
        licence="PoseTrack terms: non-commercial research and education",
        commercial=False,
        citation="Andriluka et al., PoseTrack: A Benchmark for Human Pose Estimation and "
        "Tracking, CVPR 2018",
        joint_set="posetrack17",
        details={"splits": list(config.splits), "assumed_frame_rate": config.frame_rate},
    )


def _video(path: Path, split: str, config: PoseTrack18Config) -> Iterator[FrameRecord | Reject]:
    """One video's people; a file that cannot be read is one reject."""
    found: list[tuple[int, Picture]] = []
    try:
        for picture in pictures(path):
            if isinstance(picture, Reject):
                yield picture
            elif picture.annotations:
                name = str(picture.about.get("file_name"))
                try:
                    found.append((_frame_number(name), picture))
                except Bad as reason:
                    yield Reject(f"{path.name}, {name[:200]}", str(reason))
    except ValueError as error:
        yield Reject(path.name, str(error))
    for number, picture in sorted(found, key=lambda pair: pair[0]):
        yield from _people(path, number, picture, split, config)


def _frame_number(name: str) -> int:
    stem = PurePosixPath(name).stem
    if not (stem.isascii() and stem.isdigit()):
        raise Bad(f"the picture's name {stem[:40]!r} is no number, so its time is unknown")
    return int(stem[:18])


def _people(
    path: Path, number: int, picture: Picture, split: str, config: PoseTrack18Config
) -> Iterator[FrameRecord | Reject]:
    where = f"{path.stem}, frame {number}"
    try:
        image = official.picture_at(config.root, picture.about["file_name"])
    except Bad as reason:
        yield Reject(where, str(reason))
        return
    for annotation in picture.annotations:
        source = f"{where}, track {annotation.get('track_id')}"
        try:
            joints = one_person(annotation, _joints)
            yield FrameRecord(
                image=image,
                box=_box(annotation, joints, config),
                subject="",
                sequence=f"{split}/{path.stem}",
                track=f"{path.stem}/{official.whole(annotation.get('track_id'), 'track_id')}",
                camera="",
                time=number / config.frame_rate,
                source=source,
                labels={"joints2d": joints},
                split=official.split_of(split),
            )
        except Bad as reason:
            yield Reject(source, str(reason))


def _joints(annotation: dict[str, Any]) -> np.ndarray:
    """(17, 3): v is 1 where a joint is annotated."""
    return joints_of(annotation, "keypoints", len(POSETRACK17), None)


def _box(
    annotation: dict[str, Any], joints: np.ndarray, config: PoseTrack18Config
) -> tuple[float, float, float, float]:
    if "bbox" in annotation:
        return official.box_of(annotation["bbox"])
    return official.box_of_joints(joints, config.box_margin)
