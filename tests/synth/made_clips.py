"""Clips in AMASS's layout, made by the project's own generator: SMPL-H's 156 numbers, 120 fps."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from hpse_dist.body.joints import PARENTS
from hpse_dist.body.kinematics import place_joints
from hpse_dist.body.model import load_body
from hpse_dist.draws import generator
from hpse_dist.geometry.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from hpse_dist.synth.motion import draw_manner, make_motion

RATE = 120.0


def write_clip(path: Path, name: str = "walk", seconds: float = 3.0, seed: int = 0) -> Path:
    """A motion of the generator, lifted onto AMASS's z-up world."""
    rng = generator(seed, "tests.clips")
    rest = load_body("free").rest_joints(torch.zeros(1, 10))[0].numpy()
    coarse = np.arange(int(seconds * 60) + 1) / 60
    motion = make_motion(name, rng, draw_manner(rng), rest, coarse)
    local = torch.from_numpy(np.concatenate([motion.global_orient, motion.body_pose], 1))
    joints = place_joints(
        axis_angle_to_matrix(local.unflatten(1, (-1, 3))),
        torch.from_numpy(rest).float().expand(len(coarse), -1, -1),
        PARENTS,
    ).numpy()
    height = motion.lift - joints[..., 1].min(1)
    times = np.arange(int(seconds * RATE) + 1) / RATE
    path_ = np.stack([motion.root[:, 0], -motion.root[:, 1], height], axis=1)  # x, y, z up
    quarter = axis_angle_to_matrix(torch.tensor([math.pi / 2, 0.0, 0.0]))
    turned = quarter @ axis_angle_to_matrix(torch.from_numpy(motion.global_orient))
    nearest = np.clip(np.round(times * 60).astype(int), 0, len(coarse) - 1)
    poses: np.ndarray = np.zeros((len(times), 156))
    poses[:, :3] = matrix_to_axis_angle(turned).numpy()[nearest]
    poses[:, 3:66] = motion.body_pose[nearest, :63]
    poses[:, 66:] = 0.3  # fingers
    trans = np.stack([np.interp(times, coarse, column) for column in path_.T], axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        poses=poses,
        trans=trans,
        mocap_framerate=np.array(RATE),
        betas=np.zeros(16),
        dmpls=np.zeros((len(times), 8)),
        gender=np.array("female"),
    )
    return path


def write_folder(root: Path) -> Path:
    """Three good clips, and the ways in which others are broken."""
    write_clip(root / "CMU" / "01" / "01_01_poses.npz", "walk", seed=1)
    write_clip(root / "KIT" / "3" / "jump_poses.npz", "jog", seed=2)
    write_clip(root / "ACCAD" / "Female1" / "A1_poses.npz", "stroll", seed=3)
    np.savez(root / "CMU" / "01" / "shape.npz", betas=np.zeros(16))
    return root
