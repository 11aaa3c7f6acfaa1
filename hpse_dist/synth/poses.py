"""A set of human poses without pictures: the unpaired 3D poses where no motion capture is at hand.

Drawn from the motions of the synthetic people, by another stream of draws than any collection's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from hpse_dist.body.free_body import cache_folder
from hpse_dist.body.model import load_body
from hpse_dist.disk import whole_file
from hpse_dist.draws import generator
from hpse_dist.synth.motion import draw_manner, draw_motion

# The number rises with every change of the motions: a run's prior is part of what it computes.
FILE_NAME = "poses_1.npz"
NUM_MOTIONS = 4000
MOMENTS = 10
SECONDS = 8.0


def pose_file(folder: Path | None = None, num_motions: int = NUM_MOTIONS) -> Path:
    """Path of the set's .npz (global_orient (N, 3), body_pose (N, 69); world y up); the first call
    makes it, in about half a minute."""
    folder = cache_folder() if folder is None else folder
    path = folder / FILE_NAME
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    arrays = make_poses(num_motions)
    with whole_file(path) as draft, draft.open("wb") as file:  # two processes write the same
        np.savez(file, allow_pickle=False, **arrays)
    return path


def make_poses(num_motions: int) -> dict[str, np.ndarray]:
    """Moments of random motions: global_orient (N, 3) and body_pose (N, 69), axis-angle."""
    rest = load_body("free").rest_joints(torch.zeros(1, 10))[0].numpy()
    turns, poses = [], []
    for number in range(num_motions):
        rng = generator(0, "synth.poses", number)
        times = np.sort(rng.uniform(0.0, SECONDS, MOMENTS))
        motion = draw_motion(rng, draw_manner(rng), rest, times)
        turns.append(motion.global_orient)
        poses.append(motion.body_pose)
    return {"global_orient": np.concatenate(turns), "body_pose": np.concatenate(poses)}
