"""3DPW: people outdoors before a moving telephone, SMPL bodies from inertial sensors.

    root/sequenceFiles/{train,validation,test}/<sequence>.pkl
    root/imageFiles/<sequence>/image_00000.jpg

Joints are SMPL's 24; the 2D joints are these, projected (the dataset's own 2D detections are of
another set). Persons have no names that hold across sequences: each is a subject of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpse_dist.body.smpl_files import read_pickled_arrays
from hpse_dist.data.importers.official import Bad, numbers
from hpse_dist.data.importers.views3d import (
    Moment,
    Sight,
    Stills,
    body_in_camera,
    need,
    person_record,
    whole_positive,
)
from hpse_dist.records import FrameRecord, Provenance, Reject

RATE = 30.0  # pictures, poses and cameras are all given at 30 Hz
SPLITS = {"train": "train", "validation": "val", "test": "test"}
_GET = "get sequenceFiles.zip and imageFiles.zip from 3DPW's site and unpack both under source.root"


@dataclass(frozen=True)
class ThreeDPWConfig:
    """Which of 3DPW's frames."""

    root: Path
    """The folder that holds sequenceFiles and imageFiles."""
    splits: tuple[str, ...] = ("train", "validation", "test")
    """The official splits to read; validation becomes val."""
    every: int = 1
    """Every n-th frame."""
    detected_only: bool = True
    """Leave out frames in which the dataset's authors found fewer than 6 joints of the person in
    the picture: it is hidden or outside."""
    body: bool = True
    """Keep the body's parameters; they are of SMPL's male or female model, not the neutral one."""

    def __post_init__(self) -> None:
        whole_positive(every=self.every)
        if not self.splits or set(self.splits) - set(SPLITS):
            raise ValueError(f"splits must be among {', '.join(SPLITS)}, found {self.splits}")


Config = ThreeDPWConfig


def frames(config: ThreeDPWConfig) -> Iterator[FrameRecord | Reject]:
    """A record for each person and frame, sequence by sequence."""
    need(config.root / "imageFiles", "3DPW's folder of pictures", _GET)
    for split in config.splits:
        folder = need(config.root / "sequenceFiles" / split, "3DPW's folder of labels", _GET)
        files = sorted(folder.glob("*.pkl"))
        if not files:
            raise ValueError(f"{folder}: no <sequence>.pkl in it; {_GET}")
        for file in files:
            try:
                yield from _sequence(file, config, SPLITS[split])
            except Bad as error:
                yield Reject(f"{split}/{file.name}", str(error))


def provenance(config: ThreeDPWConfig) -> Provenance:
    """Licence and origin of 3DPW."""
    return Provenance(
        importer="threedpw",
        licence="3DPW licence: non-commercial scientific research",
        commercial=False,
        citation="von Marcard et al., Recovering Accurate 3D Human Pose in The Wild Using IMUs and "
        "a Moving Camera, ECCV 2018",
        joint_set="smpl24",
        details={"body_model": "SMPL, male or female as the subject's name says"},
    )


@dataclass(frozen=True, eq=False)
class _Sequence:
    """One file's arrays: P people, N frames."""

    joints: np.ndarray
    """(P, N, 24, 3) world, metres."""
    poses: np.ndarray
    """(P, N, 72)."""
    betas: np.ndarray
    """(P, 10)."""
    trans: np.ndarray
    """(P, N, 3)."""
    genders: list[str]
    aligned: np.ndarray
    """(P, N) bool, whether the camera was aligned to this person's picture."""
    detected: np.ndarray
    """(P, N) number of joints found in the picture."""
    cameras: np.ndarray
    """(N, 4, 4) world to camera."""
    intrinsics: np.ndarray


_NAMES = (
    *("jointPositions", "poses", "trans", "genders", "campose_valid", "poses2d"),
    *("cam_poses", "cam_intrinsics"),
)
_BETAS = ("betas/0", "betas/1")  # of 10 or 300 numbers, also in one file; nowhere are more people


def _read(file: Path) -> _Sequence:
    try:
        found = read_pickled_arrays(file, (*_NAMES, *_BETAS))
    except ValueError as error:
        raise Bad(str(error)) from None
    lacking = [name for name in _NAMES if name not in found]
    if lacking:
        raise Bad(f"lacks {', '.join(lacking)}")
    joints = numbers(found["jointPositions"], (None, None, 72), "jointPositions")
    people, count = joints.shape[:2]
    if not 1 <= people <= len(_BETAS):
        raise Bad(f"has {people} people, not one or two")
    if any(name not in found for name in _BETAS[:people]):
        raise Bad(f"has no betas for each of its {people} people")
    poses2d = numbers(found["poses2d"], (people, count, 3, None), "poses2d")
    if np.shape(found["genders"]) != (people,):
        raise Bad(f"genders has shape {np.shape(found['genders'])}, not {people}")
    return _Sequence(
        joints=joints.reshape(people, count, 24, 3),
        poses=numbers(found["poses"], (people, count, 72), "poses"),
        betas=np.stack(
            [numbers(np.ravel(found[name])[:10], (10,), "betas") for name in _BETAS[:people]]
        ),
        trans=numbers(found["trans"], (people, count, 3), "trans"),
        genders=[str(gender) for gender in found["genders"]],
        aligned=numbers(found["campose_valid"], (people, count), "campose_valid") > 0,
        detected=(poses2d[:, :, 2] > 0).sum(axis=-1),
        cameras=numbers(found["cam_poses"], (count, 4, 4), "cam_poses"),
        intrinsics=numbers(found["cam_intrinsics"], (3, 3), "cam_intrinsics"),
    )


def _sequence(file: Path, config: ThreeDPWConfig, split: str) -> Iterator[FrameRecord | Reject]:
    name, sequence = file.stem, _read(file)
    chosen = range(0, len(sequence.cameras), config.every)
    stills = Stills(config.root / "imageFiles" / name, "image_{:05d}.jpg")
    for i, picture in zip(chosen, stills.pictures(chosen), strict=True):
        for person, gender in enumerate(sequence.genders):
            source = f"{name}/image_{i:05d}.jpg, person {person}"
            moment = Moment(f"{name}/{person}/{gender}", name, "phone", i / RATE, source, split)
            if picture is None:
                yield Reject(source, f"no picture {stills.folder / stills.pattern.format(i)}")
            elif not sequence.aligned[person, i]:
                yield Reject(source, "the camera is not aligned to the picture (campose_valid)")
            elif config.detected_only and sequence.detected[person, i] < 6:
                yield Reject(source, "fewer than 6 joints were found in the picture (poses2d)")
            else:
                yield _person(sequence, person, i, picture, moment, config.body)


def _person(
    sequence: _Sequence, person: int, i: int, picture: Path, moment: Moment, body: bool
) -> FrameRecord | Reject:
    camera = sequence.cameras[i]
    sight = Sight(sequence.intrinsics, camera[:3, :3], camera[:3, 3])
    if abs(np.linalg.det(sight.rotation) - 1) > 1e-2:
        return Reject(moment.source, "the camera's rotation is none (cam_poses)")
    places = sequence.joints[person, i]
    joints = np.concatenate([sight.from_world(places), np.ones((24, 1))], axis=1)
    pose, betas = sequence.poses[person, i], sequence.betas[person]
    trans = sequence.trans[person, i]
    extra = body_in_camera(pose, betas, trans, places[0], sight) if body else None
    return person_record(moment, picture, joints, sight, middle=(0,), extra=extra)
