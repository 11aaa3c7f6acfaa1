"""Labels as BEDLAM publishes them, for its own pictures and for AGORA's: one .npz for each scene.

    imgname (N,)   pose_cam (N, 165 or 72)   shape (N, 10 or more)   cam_int (N, 3, 3)
    trans_cam (N, 3), where there is one, and the last column of cam_ext (N, 4, 4): together transl
    gtkps (N, J, 2 or 3)   sub (N,), where people have names

A row is a person in a picture, already in the camera's frame. There are no joints in 3D: they
follow from the rest (`rest_skeleton`) for each shape that is seen often enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from hpse_dist.arrays import read_npz
from hpse_dist.body.joints import JOINT_SETS
from hpse_dist.data.importers.official import NEAR_M, Bad, numbers, picture_at
from hpse_dist.data.importers.rest_skeleton import MOST_PX, Posed, Undecided, solve_bones, turns_of
from hpse_dist.data.importers.views3d import box_of
from hpse_dist.data.pictures import picture_size, read_picture
from hpse_dist.records import FrameRecord, Reject

Model = Literal["smplx", "smpl"]
JOINT_SET = {"smplx": "smplx22", "smpl": "smpl24"}
_WIDTH = {"smplx": 165, "smpl": 72}
_OTHER_JOINTS = 44  # of bedlam-labels-smpl.zip: without SMPL's own nothing follows in 3D
_AXES = {"pose_cam": 2, "shape": 2, "gtkps": 3}  # at least so many, people first
_MOST = 1e6  # pixels, metres or radians: more is no measurement
_NEEDED = ("imgname", "pose_cam", "shape", "cam_int", "cam_ext", "gtkps")


@dataclass(frozen=True, eq=False)
class Labels:
    """One file's rows: N people with J joints."""

    pictures: np.ndarray
    """(N,) names of picture files."""
    people: np.ndarray
    """(N,) names, empty where unknown."""
    poses: np.ndarray
    """(N, 165 or 72) axis-angles in the camera's frame."""
    betas: np.ndarray
    """(N, 10 or more)."""
    transl: np.ndarray
    """(N, 3) in the camera's frame, metres."""
    pixels: np.ndarray
    """(N, J, 2)."""
    intrinsics: np.ndarray
    """(N, 3, 3)."""


def read_labels(path: Path, model: Model) -> Labels:
    """The rows of a file; Bad for a broken one, ValueError for one of the other model."""
    try:
        found = read_npz(path, (*_NEEDED, "trans_cam", "sub"))
    except ValueError as error:
        raise Bad(f"cannot be read as an .npz of numbers: {error}") from None
    lacking = [name for name in _NEEDED if name not in found]
    if lacking:
        raise Bad(f"lacks {', '.join(lacking)}")
    if found["imgname"].ndim != 1 or len(found["imgname"]) == 0:
        raise Bad("imgname or sub is no list of names")
    count = len(found["imgname"])
    for name, axes in _AXES.items():
        if found[name].ndim < axes or len(found[name]) != count or not found[name].size:
            kind, shape = found[name].dtype, found[name].shape
            raise Bad(f"{name} is {kind} {shape}, and imgname has {count} names")
    poses = found["pose_cam"].reshape(count, -1)
    other = next(name for name in _WIDTH if name != model)
    if poses.shape[1] == _WIDTH[other]:
        raise ValueError(f"{path}: its bodies are of {other}; set source.model to {other}")
    if found["gtkps"].shape[1] == _OTHER_JOINTS:
        raise ValueError(
            f"{path}: its {_OTHER_JOINTS} 2D joints (gtkps) are OpenPose's and other datasets', "
            "not SMPL's; make labels of SMPL with BEDLAM's df_full_body_smpl.py"
        )
    joints = len(JOINT_SETS[JOINT_SET[model]])
    names = found.get("sub", np.full(count, ""))
    if np.shape(names) != (count,) or found["imgname"].shape != (count,):
        raise Bad("imgname or sub is no list of names")
    cameras = _rows(found["cam_ext"], count, (4, 4), "cam_ext")
    shift = _rows(found.get("trans_cam", np.zeros((count, 3))), count, (3,), "trans_cam")
    with np.errstate(invalid="ignore"):  # of infinite ones, which are left out below
        transl = shift + cameras[:, :3, 3]
    return Labels(
        pictures=found["imgname"].astype(str),
        people=names.astype(str),
        poses=_rows(poses, count, (_WIDTH[model],), "pose_cam"),
        betas=_rows(found["shape"][:, :10], count, (10,), "shape"),
        transl=transl,
        pixels=_rows(found["gtkps"][:, :joints, :2], count, (joints, 2), "gtkps"),
        intrinsics=_rows(found["cam_int"], count, (3, 3), "cam_int"),
    )


def _rows(value: np.ndarray, count: int, shape: tuple[int, ...], name: str) -> np.ndarray:
    """(count, *shape) float64, in which single rows may hold NaN."""
    if value.dtype.kind not in "fiu" or value.shape != (count, *shape):
        raise Bad(f"{name} is {value.dtype} {value.shape}, not numbers {(count, *shape)}")
    return value.astype(np.float64)


def joints_in_space(labels: Labels) -> tuple[np.ndarray, dict[int, str]]:
    """(N, J, 3) joints in the camera's frame, NaN where they cannot be known; what is wrong."""
    count = labels.pixels.shape[1]
    joints = np.full((*labels.pixels.shape[:2], 3), np.nan)
    behind = np.flatnonzero(labels.transl[:, 2] < NEAR_M).tolist()
    wrong = dict.fromkeys(behind, "the body is behind the camera (trans_cam, cam_ext)")
    every = (labels.poses, labels.betas, labels.transl, labels.pixels, labels.intrinsics)
    known = [(np.abs(each) < _MOST).reshape(len(each), -1).all(axis=1) for each in every]
    whole = np.all(known, axis=0)
    whole &= labels.transl[:, 2] >= NEAR_M
    _, shapes = np.unique(labels.betas, axis=0, return_inverse=True)
    for shape in np.unique(shapes[whole]):
        rows = np.flatnonzero(whole & (shapes == shape))
        turns = turns_of(labels.poses[rows, : 3 * count].reshape(len(rows), count, 3))
        base = np.broadcast_to(np.eye(3), (len(rows), 3, 3))
        posed = Posed(turns, base, labels.transl[rows], labels.intrinsics[rows])
        try:
            bones = solve_bones(posed, labels.pixels[rows])
        except Undecided:
            continue
        except Bad as error:
            wrong |= dict.fromkeys(rows.tolist(), str(error))
            continue
        apart = np.linalg.norm(posed.pixels(bones) - labels.pixels[rows], axis=2).max(axis=1)
        near = apart < MOST_PX
        joints[rows[near]] = posed.joints(bones)[near]
        far = zip(rows[~near].tolist(), apart[~near].tolist(), strict=True)
        wrong |= {row: f"its 2D joints lie {px:.0f} px from the body's" for row, px in far}
    return joints, wrong


def records(
    path: Path, folder: Path, model: Model, sequence: str, rate: float, every: int
) -> Iterator[FrameRecord | Reject]:
    """A record for each row of a file, pictures under `folder`; Bad for a broken file.

    Of a film's pictures, <sequence>/<sequence>_<number>.png, every n-th is taken and `rate` counts
    their numbers in a second.
    """
    labels = read_labels(path, model)
    joints, wrong = joints_in_space(labels)
    for row, name in enumerate(labels.pictures.tolist()):
        number = Path(name).stem.rpartition("_")[2]
        filmed = rate > 0 and number.isdigit()
        if filmed and int(number) % every:
            continue
        source = f"{path.stem}/{name}, row {row}"
        if row in wrong:
            yield Reject(source, wrong[row])
            continue
        try:
            record = _record(labels, row, joints[row], folder, model)
        except ValueError as error:
            yield Reject(source, str(error))
            continue
        record.source, record.track = source, "" if record.subject else f"{path.stem} {row}"
        record.sequence = f"{sequence}/{Path(name).parent}" if filmed else f"{sequence}/{name}"
        record.time = int(number) / rate if filmed else 0.0
        yield record


def _record(
    labels: Labels, row: int, joints: np.ndarray, folder: Path, model: Model
) -> FrameRecord:
    """A row's record but for what its picture's name says; ValueError where it cannot be one."""
    path = picture_at(folder, str(labels.pictures[row]))
    pixels = numbers(labels.pixels[row], (None, 2), "gtkps")
    intrinsics = numbers(labels.intrinsics[row], (3, 3), "cam_int")
    seen = np.column_stack([pixels, np.ones(len(pixels))])
    known = {"joints2d": seen}
    if np.isfinite(joints).all():
        known["joints3d"] = np.column_stack([joints, np.ones(len(joints))])
    if model == "smpl":
        pose = numbers(labels.poses[row], (72,), "pose_cam")
        known["global_orient"], known["body_pose"] = pose[:3], pose[3:]
        known["betas"] = numbers(labels.betas[row], (10,), "shape")
        known["transl"] = numbers(labels.transl[row], (3,), "trans_cam")
    box = box_of(seen, margin=0.12)
    assert box is not None
    return FrameRecord(
        image=_upright(path, intrinsics),
        box=box,
        subject=str(labels.people[row]),
        sequence="",
        camera="camera",
        time=0.0,
        source="",
        intrinsics=intrinsics,
        labels=known,
    )


def _upright(path: Path, intrinsics: np.ndarray) -> np.ndarray | Path:
    """The picture as its camera is said to have seen it: some scenes' are stored on their side."""
    width, height = picture_size(path)
    wanted = (round(2 * float(intrinsics[0, 2])), round(2 * float(intrinsics[1, 2])))
    if (width, height) == wanted:
        return path
    if (height, width) != wanted:
        raise Bad(
            f"the picture has {width} x {height} pixels, its camera {wanted[0]} x {wanted[1]}"
        )
    return np.rot90(read_picture(path), k=-1)
