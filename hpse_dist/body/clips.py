"""Clips of motion capture in AMASS's files: poses over time with their rate and path, read safely.

A file has `poses` (T, 66 or more; SMPL-H's 156 as distributed, of which the body's 66 are used),
`trans` (T, 3) and `mocap_framerate`; the world has z up there, y up here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy
import torch

from hpse_dist.arrays import read_npz
from hpse_dist.body.poses import NUM_NUMBERS, upright

_NUMBERS = 66  # axis-angles of the pelvis and 21 joints
_MOST_BYTES = 1 << 30  # of one array: AMASS's longest clip has 50 MB
_FASTEST = 20.0  # metres per second that a pelvis may move
_RATES = ("mocap_framerate", "mocap_frame_rate")
_NAMES = ("poses", "trans", *_RATES)


@dataclass(frozen=True)
class Clip:
    """One recorded motion, world y up."""

    poses: np.ndarray
    """(T, 72) axis-angles of SMPL's joints; hands are straight."""
    path: np.ndarray
    """(T, 3) translation of the body, metres."""
    rate: float
    """Frames per second."""

    @property
    def seconds(self) -> float:
        return (len(self.poses) - 1) / self.rate


def find_clips(folder: Path) -> list[str]:
    """Names of the .npz files at any depth but those of shapes, sorted; ValueError for none."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.npz"))
    names = [name for name in names if Path(name).stem not in ("shape", "neutral_stagei")]
    if not names:
        raise ValueError(
            f"motions: {folder} is no folder with .npz files at any depth; give AMASS's folder"
        )
    return names


def read_clip(path: Path) -> Clip:
    """The motion in a file; ValueError says what is wrong with it, in words of a reject."""
    try:
        arrays = read_npz(path, _NAMES, _MOST_BYTES)
    except ValueError as error:
        raise ValueError(f"cannot be read: {error}") from None
    rate = next((arrays[name] for name in _RATES if name in arrays), None)
    if rate is None or "poses" not in arrays or "trans" not in arrays:
        raise ValueError("has no poses, trans and mocap_framerate")
    poses, path_ = (_numbers(arrays[name], name) for name in ("poses", "trans"))
    if poses.ndim != 2 or poses.shape[1] < _NUMBERS or path_.shape != (len(poses), 3):
        raise ValueError(f"poses has shape {poses.shape} and trans {path_.shape}")
    rate = _numbers(rate, "mocap_framerate")
    if rate.size != 1 or not 1 <= float(rate.ravel()[0]) <= 1000 or len(poses) < 2:
        raise ValueError("mocap_framerate is no rate in 1..1000, or there are fewer than 2 frames")
    clip = _in_our_world(poses, path_, float(rate.ravel()[0]))
    fastest = float(np.linalg.norm(np.diff(clip.path, axis=0), axis=1).max()) * clip.rate
    if fastest > _FASTEST or np.abs(poses).max() > 4 * np.pi:
        raise ValueError(f"moves at {fastest:.0f} m/s, or turns by more than two whole turns")
    return clip


def _in_our_world(poses: np.ndarray, path: np.ndarray, rate: float) -> Clip:
    whole: np.ndarray = np.zeros((len(poses), NUM_NUMBERS), np.float32)
    whole[:, :_NUMBERS] = upright(poses[:, :_NUMBERS].astype(np.float32))
    return Clip(whole, path[:, [0, 2, 1]] * [1, 1, -1], rate)


def _numbers(value: np.ndarray, name: str) -> np.ndarray:
    if value.dtype.kind not in "fiu" or not np.isfinite(value).all():
        raise ValueError(f"{name} is not made of finite numbers")
    return value.astype(np.float64)


def between_frames(clip: Clip, at: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
    """Rotations (M, 24, 3, 3) and path (M, 3) at seconds (M,), between the recorded frames."""
    place = np.clip(at * clip.rate, 0, len(clip.poses) - 1)
    first = np.minimum(place.astype(int), len(clip.poses) - 2)
    share = place - first
    a, b = (
        scipy.spatial.transform.Rotation.from_rotvec(clip.poses[index].reshape(-1, 3))
        for index in (first, first + 1)
    )
    step = (a.inv() * b).as_rotvec() * np.repeat(share, NUM_NUMBERS // 3)[:, None]
    turned = (a * scipy.spatial.transform.Rotation.from_rotvec(step)).as_matrix()
    rotations = torch.from_numpy(turned.reshape(len(at), -1, 3, 3).astype(np.float32))
    path = clip.path[first] * (1 - share[:, None]) + clip.path[first + 1] * share[:, None]
    return rotations, path
