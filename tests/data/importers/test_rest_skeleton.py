"""Joints in 3D from SMPL's parameters and pixels alone."""

from __future__ import annotations

import numpy as np
import pytest

from hpse_dist.data.importers.official import Bad
from hpse_dist.data.importers.rest_skeleton import Posed, solve_bones, turns_of
from tests.data.importers import made_bodies as bodies
from tests.data.importers import made_people as made


def views(frames: int, seed: int = 0, count: int = 24) -> tuple[Posed, np.ndarray, np.ndarray]:
    """A body at several distances: Posed, pixels, joints of the camera's frame."""
    random = np.random.default_rng(seed)
    poses, skeleton = bodies.poses(frames, seed), bodies.rest(count=count)
    transl = random.uniform((-0.3, -0.2, 3.0), (0.3, 0.3, 6.0), (frames, 3))
    joints = np.stack([bodies.joints(p, skeleton, t) for p, t in zip(poses, transl, strict=True)])
    camera = np.broadcast_to(np.eye(3), (frames, 3, 3))
    matrix = np.broadcast_to(made.MATRIX, (frames, 3, 3))
    turns = turns_of(poses.reshape(frames, 24, 3)[:, :count])
    return Posed(turns, camera, transl, matrix), np.stack([bodies.seen(j) for j in joints]), joints


@pytest.mark.parametrize("count", [24, 22])
def test_the_joints_are_found_to_a_millimetre(count: int) -> None:
    posed, pixels, joints = views(30, count=count)
    bones = solve_bones(posed, pixels)
    assert np.abs(posed.joints(bones) - joints).max() < 1e-9
    assert np.allclose(bones[0], bodies.rest()[0])
    noise = np.random.default_rng(1).normal(size=pixels.shape) * 0.05
    assert np.abs(posed.joints(solve_bones(posed, pixels + noise)) - joints).max() < 2e-3


def test_what_does_not_decide_it_is_refused() -> None:
    posed, pixels, _ = views(30)
    with pytest.raises(Bad, match=r"too few or too alike|uncertain by"):
        solve_bones(posed.take(np.array([0])), pixels[:1])
    with pytest.raises(Bad, match=r"px \(median\) from any"):
        solve_bones(posed, np.roll(pixels, 1, axis=0))  # joints of another frame
    behind = Posed(posed.turns, posed.base, -posed.shift, posed.intrinsics)
    with pytest.raises(Bad, match="behind the camera"):
        solve_bones(behind, pixels)


def test_a_joint_in_the_cameras_own_plane_is_seen_nowhere() -> None:
    posed, pixels, _ = views(30)
    shift = np.broadcast_to([0.1, 0.1, 1e-320], posed.shift.shape)
    flat = Posed(posed.turns, posed.base, shift, posed.intrinsics)
    assert np.isinf(flat.pixels(np.zeros((24, 3)))).all()
    with pytest.raises(Bad, match="behind the camera"):
        solve_bones(flat, pixels)
