"""EMDB: people followed by a telephone, SMPL bodies from electromagnetic sensors; for evaluation.

    root/P0/00_mvs_a/P0_00_mvs_a_data.pkl   root/P0/00_mvs_a/images/00000.jpg

The files hold SMPL's parameters and its 24 joints in the picture, but not in 3D: those follow from
both (`rest_skeleton`), so no body model is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from hpse_dist.body.smpl_files import read_pickled_arrays
from hpse_dist.data.importers.official import NEAR_M, Bad, numbers
from hpse_dist.data.importers.rest_skeleton import MOST_PX, Posed, solve_bones, turns_of
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

RATE = 30.0
_GET = "ask for EMDB at emdb.ait.ethz.ch and unpack P0 to P9 in source.root"


@dataclass(frozen=True)
class EmdbConfig:
    """Which of EMDB's sequences and frames."""

    root: Path
    """The folder that holds P0 to P9."""
    part: Literal["all", "emdb1", "emdb2"] = "all"
    """emdb1: the sequences that poses before the camera are judged on; emdb2: paths through the
    world."""
    every: int = 1
    """Every n-th frame."""
    body: bool = True
    """Keep the body's parameters; they are of the SMPL model of the sequence's gender."""

    def __post_init__(self) -> None:
        whole_positive(every=self.every)


Config = EmdbConfig


def frames(config: EmdbConfig) -> Iterator[FrameRecord | Reject]:
    """A record for each frame, sequence by sequence; all of them are of the split test."""
    root = need(config.root, "EMDB's folder", _GET)
    files = sorted(root.glob("P*/*/*_data.pkl"))
    if not files:
        raise ValueError(f"{root}: no P0/<sequence>/P0_<sequence>_data.pkl in it; {_GET}")
    for file in files:
        need(file.parent / "images", "EMDB's folder of pictures", _GET)
        try:
            sequence = _read(file)
            if sequence.parts[config.part]:
                yield from _sequence(file, sequence, config)
        except Bad as error:
            yield Reject(str(file.relative_to(root)), str(error))


def provenance(config: EmdbConfig) -> Provenance:
    """Licence and origin of EMDB."""
    return Provenance(
        importer="emdb",
        licence="EMDB licence: non-commercial scientific research, after registration",
        commercial=False,
        citation="Kaufmann et al., EMDB: The Electromagnetic Database of Global 3D Human Pose and "
        "Shape in the Wild, ICCV 2023",
        joint_set="smpl24",
        details={
            "part": config.part,
            "body_model": "SMPL, of the gender at the end of the subject's name",
            "joints3d": "solved from SMPL's parameters and the projected joints of each sequence",
        },
    )


@dataclass(frozen=True, eq=False)
class _Sequence:
    """One file: N frames of one person."""

    parts: dict[str, bool]
    gender: str
    good: np.ndarray
    """(N,) bool, the person is in sight."""
    poses: np.ndarray
    """(N, 72)."""
    betas: np.ndarray
    """(10,)."""
    trans: np.ndarray
    """(N, 3)."""
    pixels: np.ndarray
    """(N, 24, 2)."""
    boxes: np.ndarray
    """(N, 4) corners."""
    cameras: np.ndarray
    """(N, 4, 4) world to camera."""
    intrinsics: np.ndarray


_NAMES = (
    *("gender", "emdb1", "emdb2", "good_frames_mask", "kp2d", "bboxes/bboxes"),
    *("camera/intrinsics", "camera/extrinsics"),
    *("smpl/poses_root", "smpl/poses_body", "smpl/betas", "smpl/trans"),
)


def _read(file: Path) -> _Sequence:
    try:
        found = read_pickled_arrays(file, _NAMES)
    except ValueError as error:
        raise Bad(str(error)) from None
    lacking = [name for name in _NAMES if name not in found]
    if lacking:
        raise Bad(f"lacks {', '.join(lacking)}")
    root = numbers(found["smpl/poses_root"], (None, 3), "smpl/poses_root")
    count = len(root)
    body = numbers(found["smpl/poses_body"], (count, 69), "smpl/poses_body")
    return _Sequence(
        parts={"all": True, **{part: bool(found[part]) for part in ("emdb1", "emdb2")}},
        gender=str(found["gender"]),
        good=numbers(found["good_frames_mask"], (count,), "good_frames_mask") > 0,
        poses=np.concatenate([root, body], axis=1),
        betas=numbers(np.ravel(found["smpl/betas"])[:10], (10,), "smpl/betas"),
        trans=numbers(found["smpl/trans"], (count, 3), "smpl/trans"),
        pixels=numbers(found["kp2d"], (count, 24, 2), "kp2d"),
        boxes=numbers(found["bboxes/bboxes"], (count, 4), "bboxes/bboxes"),
        cameras=numbers(found["camera/extrinsics"], (count, 4, 4), "camera/extrinsics"),
        intrinsics=numbers(found["camera/intrinsics"], (3, 3), "camera/intrinsics"),
    )


def _sequence(file: Path, data: _Sequence, config: EmdbConfig) -> Iterator[FrameRecord | Reject]:
    subject, name = file.parent.parent.name, f"{file.parent.parent.name}/{file.parent.name}"
    chosen = range(0, len(data.poses), config.every)
    stills = Stills(file.parent / "images", "{:05d}.jpg")
    posed = _posed(data)
    good = np.flatnonzero(data.good & (posed.shift[:, 2] >= NEAR_M))
    if not len(good):
        raise Bad("no frame in which the person is in sight (good_frames_mask)")
    bones = solve_bones(posed.take(good), data.pixels[good])
    joints, apart = posed.joints(bones), posed.pixels(bones) - data.pixels
    far = np.linalg.norm(apart, axis=2).max(axis=1)
    for i, picture in zip(chosen, stills.pictures(chosen), strict=True):
        source = f"{name}/images/{i:05d}.jpg"
        moment = Moment(f"{subject}/{data.gender}", name, "phone", i / RATE, source, "test")
        if picture is None:
            yield Reject(source, f"no picture {stills.folder / stills.pattern.format(i)}")
        elif not data.good[i]:
            yield Reject(source, "the person is not in sight (good_frames_mask)")
        elif not far[i] < MOST_PX:
            yield Reject(source, f"the 2D joints (kp2d) lie {far[i]:.0f} px from the body's")
        else:
            yield _person(data, i, joints[i], bones[0], picture, moment, config.body)


def _posed(data: _Sequence) -> Posed:
    base, shift = data.cameras[:, :3, :3], data.cameras[:, :3, 3]
    return Posed(
        turns_of(data.poses.reshape(-1, 24, 3)),
        base,
        np.einsum("nij,nj->ni", base, data.trans) + shift,
        np.broadcast_to(data.intrinsics, (len(base), 3, 3)),
    )


def _person(
    data: _Sequence,
    i: int,
    joints: np.ndarray,
    rest: np.ndarray,
    picture: Path,
    moment: Moment,
    body: bool,
) -> FrameRecord | Reject:
    sight = Sight(data.intrinsics, data.cameras[i, :3, :3], data.cameras[i, :3, 3])
    if abs(np.linalg.det(sight.rotation) - 1) > 1e-2:
        return Reject(moment.source, "the camera's rotation is none (camera/extrinsics)")
    extra = {}
    if body:
        trans = data.trans[i]
        extra = body_in_camera(data.poses[i], data.betas, trans, trans + rest, sight)
    ones = np.ones((24, 1))
    seen, pixels = np.hstack([joints, ones]), np.hstack([data.pixels[i], ones])
    record = person_record(moment, picture, seen, sight, middle=(0,), pixels=pixels, extra=extra)
    x0, y0, x1, y1 = (float(corner) for corner in data.boxes[i])
    if isinstance(record, FrameRecord) and x1 > x0 and y1 > y0:
        record.box = (x0, y0, x1, y1)  # of the whole body's surface
    return record
