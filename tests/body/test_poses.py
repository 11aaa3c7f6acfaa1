"""Sets of poses: AMASS's files, smplx's, folders, and what is not one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from hpse_dist.body.poses import read_poses
from hpse_dist.synth.poses import make_poses, pose_file
from tests.fabricate import tiny_body


@pytest.fixture
def rest(tmp_path: Path) -> Tensor:
    return tiny_body(tmp_path).rest_joints(torch.zeros(1, 10))[0]


def test_a_person_standing_in_amass_stands_upright(tmp_path: Path, rest: Tensor) -> None:
    poses = np.zeros((3, 156))
    poses[:, 0] = np.pi / 2  # AMASS: z is up, so standing is a quarter turn about x
    np.savez(tmp_path / "walk_poses.npz", poses=poses, mocap_framerate=120.0)
    np.savez(tmp_path / "shape.npz", betas=np.zeros(16))
    (tmp_path / "tiny_body.npz").unlink()
    found = read_poses(tmp_path, rest)
    torch.testing.assert_close(found, (rest - rest[0]).expand(3, -1, -1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("width", [63, 69])
def test_smplx_parameters(tmp_path: Path, rest: Tensor, width: int) -> None:
    pose = 0.2 * np.random.default_rng(0).normal(size=(4, width)).astype(np.float32)
    np.savez(tmp_path / "p.npz", global_orient=np.zeros((4, 3), np.float32), body_pose=pose)
    found = read_poses(tmp_path / "p.npz", rest)
    body = tiny_body(tmp_path)
    whole = torch.zeros(4, 69)
    whole[:, :width] = torch.from_numpy(pose)
    zero = torch.zeros(4, 3)
    joints = body(zero, whole, torch.zeros(4, 10), zero).joints
    torch.testing.assert_close(found, joints - joints[:, :1], rtol=0, atol=1e-5)


def test_the_synthetic_set_is_made_once_and_the_same_each_time(tmp_path: Path) -> None:
    path = pose_file(tmp_path, num_motions=2)
    stamp = path.stat().st_mtime_ns
    assert pose_file(tmp_path, num_motions=2) == path and path.stat().st_mtime_ns == stamp
    with np.load(path) as stored:
        for name, value in make_poses(2).items():
            np.testing.assert_array_equal(stored[name], value)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"betas": np.zeros(10)}, "neither `poses` nor `body_pose`"),
        ({"poses": np.zeros((5, 30))}, "not numbers"),
        ({"poses": np.full((5, 66), np.nan)}, "NaN"),
        ({"global_orient": np.zeros((2, 3)), "body_pose": np.zeros((3, 69))}, "2 global_orient"),
    ],
)
def test_what_is_no_set_of_poses(
    tmp_path: Path, rest: Tensor, arrays: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        read_poses(tmp_path / "bad.npz", rest)


def test_files_that_cannot_be_read(tmp_path: Path, rest: Tensor) -> None:
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(ValueError, match="cannot be read"):
        read_poses(tmp_path / "cut.npz", rest)
    with pytest.raises(ValueError, match="no folder"):
        read_poses(tmp_path / "nowhere.npz", rest)
    np.savez(tmp_path / "pickled.npz", poses=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="cannot be read"):
        read_poses(tmp_path / "pickled.npz", rest)
