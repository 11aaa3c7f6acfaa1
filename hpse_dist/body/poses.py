"""Sets of 3D poses without pictures: motion capture in AMASS's or smplx's files, read safely."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hpse_dist.arrays import read_npz
from hpse_dist.body.joints import PARENTS
from hpse_dist.body.kinematics import place_joints
from hpse_dist.geometry.rotations import axis_angle_to_matrix, matrix_to_axis_angle

NUM_NUMBERS = 72  # axis-angles of SMPL's 24 joints
_BODY_NUMBERS = 66  # of these, the pelvis's and those of 21 joints that AMASS has
MAX_POSES = 100_000


def read_poses(path: Path | str, rest: Tensor) -> Tensor:
    """Joints of a set of poses, relative to the pelvis, metres, world y up: (N, 24, 3).

    path: an .npz or a folder of them (found at any depth) with `poses` (T, 66 or more), AMASS's,
    world z up, or `global_orient` (T, 3) and `body_pose` (T, 63 or 69), world y up. rest (24, 3):
    the skeleton that takes the poses. Of more than 100,000 poses every n-th is taken.
    """
    path = Path(path)
    files = sorted(path.rglob("*.npz")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise ValueError(f"poses: {path} is no .npz and no folder with any; give AMASS's files")
    sets = [found for file in files if (found := _read(file)) is not None]
    if not sets:
        raise ValueError(
            f"poses: {path} holds no poses: its files have neither `poses` nor `body_pose` "
            "(AMASS's shape.npz and the like are passed over)"
        )
    numbers = np.concatenate(sets)
    numbers = numbers[:: -(-len(numbers) // MAX_POSES)]
    rotations = axis_angle_to_matrix(torch.from_numpy(numbers).float().unflatten(1, (-1, 3)))
    return place_joints(rotations, rest.expand(len(rotations), -1, -1), PARENTS)


def _read(file: Path) -> np.ndarray | None:
    """(T, 72) axis-angles of one file, world y up; None for a file of something else."""
    try:
        arrays = read_npz(file, _NAMES)
    except ValueError as error:
        raise ValueError(f"poses: {file} cannot be read: {error}") from None
    if "poses" in arrays:
        numbers = upright(_matrix(file, "poses", arrays["poses"], _BODY_NUMBERS))
    elif "body_pose" in arrays and "global_orient" in arrays:
        turn = _matrix(file, "global_orient", arrays["global_orient"], 3)
        pose = _matrix(file, "body_pose", arrays["body_pose"], _BODY_NUMBERS - 3)
        if len(turn) != len(pose):
            raise ValueError(f"poses: {file}: {len(turn)} global_orient but {len(pose)} body_pose")
        numbers = np.concatenate((turn, pose), axis=1)
    else:
        return None
    whole: np.ndarray = np.zeros((len(numbers), NUM_NUMBERS), np.float32)
    kept = min(numbers.shape[1], NUM_NUMBERS if "body_pose" in arrays else _BODY_NUMBERS)
    whole[:, :kept] = numbers[:, :kept]
    return whole


_NAMES = ("poses", "global_orient", "body_pose")


def _matrix(file: Path, name: str, value: np.ndarray, least: int) -> np.ndarray:
    if value.ndim != 2 or value.shape[1] < least or not np.issubdtype(value.dtype, np.floating):
        raise ValueError(
            f"poses: {file}: {name} is {value.dtype} {value.shape}, not numbers (T, {least} or "
            "more)"
        )
    if not np.isfinite(value).all():
        raise ValueError(f"poses: {file}: {name} holds NaN or infinity")
    return value.astype(np.float32)


def upright(numbers: np.ndarray) -> np.ndarray:
    """AMASS's world has z up: its global rotation in a world with y up."""
    quarter = axis_angle_to_matrix(torch.tensor([-math.pi / 2, 0.0, 0.0]))
    turned = quarter @ axis_angle_to_matrix(torch.from_numpy(numbers[:, :3]))
    return np.concatenate((matrix_to_axis_angle(turned).numpy(), numbers[:, 3:]), axis=1)
