"""MuCo-3DHP: pictures put together of MPI-INF-3DHP's people, up to four to a picture.

    root/MuCo-3DHP.json   root/augmented_set/...jpg   root/unaugmented_set/...jpg

The form of 3DMPPE_POSENET_RELEASE: images with file_name, width, height, f and c of the camera;
annotations with image_id, keypoints_img (21, 2) and keypoints_cam (21, 3) in millimetres. The
dataset's own distribution is a program that makes such pictures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpse_dist.body.picture_joints import MUCO21
from hpse_dist.data.importers import official
from hpse_dist.data.importers.coco_style import Picture, pictures
from hpse_dist.data.importers.official import Bad, numbers
from hpse_dist.data.importers.views3d import Moment, Sight, person_record
from hpse_dist.records import FrameRecord, Provenance, Reject

MOST_PX = 2.0  # how far 3D joints may project from the 2D joints of the same file
_GET = (
    "get MuCo-3DHP's pictures and MuCo-3DHP.json as 3DMPPE_POSENET_RELEASE's page gives them and "
    "put both in source.root"
)


@dataclass(frozen=True)
class MucoConfig:
    """MuCo-3DHP's people."""

    root: Path
    """The folder that holds the annotation and the pictures' folders."""
    annotations: str = "MuCo-3DHP.json"
    """The annotation file, under root."""
    sets: tuple[str, ...] = ()
    """Folders of pictures, such as unaugmented_set; empty takes all that the file names."""


Config = MucoConfig


def frames(config: MucoConfig) -> Iterator[FrameRecord | Reject]:
    """A record for each person, picture by picture; a picture is a sequence of its own."""
    path = official.required(config.root / config.annotations, _GET)
    for name in config.sets:
        official.required(config.root / name, _GET)
    for picture in pictures(path):
        if isinstance(picture, Reject):
            yield picture
            continue
        name = str(picture.about.get("file_name")) or "a picture without a name"
        if config.sets and name.partition("/")[0] not in config.sets:
            continue
        yield from _people(picture, name, config.root)


def provenance(config: MucoConfig) -> Provenance:
    """Licence and origin of MuCo-3DHP."""
    return Provenance(
        importer="muco",
        licence="MPI-INF-3DHP licence: non-commercial academic research",
        commercial=False,
        citation="Mehta et al., Single-Shot Multi-Person 3D Pose Estimation From Monocular RGB, "
        "3DV 2018",
        joint_set="muco21",
        details={"splits": "by picture: the file does not name people"},
    )


def _people(picture: Picture, name: str, root: Path) -> Iterator[FrameRecord | Reject]:
    try:
        image = official.picture_at(root, picture.about.get("file_name"))
        (fx, fy), (cx, cy) = (numbers(picture.about.get(key), 2, key) for key in "fc")
    except Bad as reason:
        yield Reject(name[:200], str(reason))
        return
    sight = Sight(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), np.eye(3), np.zeros(3))
    for place, annotation in enumerate(picture.annotations):
        source = f"{name}, person {annotation.get('id')}"
        try:
            record = _person(annotation, image, sight, Moment("", name, "camera", 0.0, source))
        except Bad as reason:
            yield Reject(source, str(reason))
            continue
        if isinstance(record, FrameRecord):
            record.track = str(place)
        yield record


def _person(
    annotation: dict[str, Any], image: Path, sight: Sight, moment: Moment
) -> FrameRecord | Reject:
    count = len(MUCO21)
    places = numbers(annotation.get("keypoints_cam"), (count, 3), "keypoints_cam") / 1000
    pixels = numbers(annotation.get("keypoints_img"), (count, 2), "keypoints_img")
    apart = np.linalg.norm(sight.project(places) - pixels, axis=1)
    if not (apart < MOST_PX).all():
        raise Bad("the 3D joints (keypoints_cam) do not project onto the 2D ones (keypoints_img)")
    ones: np.ndarray = np.ones((count, 1))
    joints, spots = np.hstack([places, ones]), np.hstack([pixels, ones])
    middle = (MUCO21.index("pelvis"),)
    return person_record(moment, image, joints, sight, middle=middle, margin=0.06, pixels=spots)
