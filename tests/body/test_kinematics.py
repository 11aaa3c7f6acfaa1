"""Skeleton of limbs: places, local frames, limits, and shapes of limbs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hpse_dist.body import kinematics
from hpse_dist.body.joints import PART_NAMES, SMPL24, left_right_order
from hpse_dist.body.model import load_body
from hpse_dist.geometry.rotations import axis_angle_to_matrix, smallest_rotation
from hpse_dist.synth.poses import make_poses


@pytest.fixture(scope="module")
def rest() -> Tensor:
    return load_body("free").rest_joints(torch.zeros(1, 10))[0]


@pytest.fixture(scope="module")
def joints(rest: Tensor) -> Tensor:
    """(60, 24, 3) joints of the synthetic people's motions."""
    made = make_poses(6)
    pose = torch.cat([torch.from_numpy(made[k]) for k in ("global_orient", "body_pose")], dim=1)
    rotations = axis_angle_to_matrix(pose.unflatten(1, (-1, 3)))
    parents = (-1, *kinematics.STARTS)
    return kinematics.place_joints(rotations, rest.expand(len(pose), -1, -1), parents)


def test_limbs_laid_end_to_end_are_the_joints(rest: Tensor, joints: Tensor) -> None:
    vectors = kinematics.limb_vectors(joints)
    placed = kinematics.place_limbs(vectors, kinematics.limb_lengths(rest))
    torch.testing.assert_close(placed, joints, rtol=0, atol=1e-5)


def test_local_vectors_do_not_depend_on_where_the_camera_is(rest: Tensor, joints: Tensor) -> None:
    resting = kinematics.limb_vectors(rest)
    turn = axis_angle_to_matrix(torch.tensor([0.4, -1.9, 0.7]))
    one = kinematics.local_vectors(kinematics.limb_vectors(joints), resting)
    other = kinematics.local_vectors(kinematics.limb_vectors(joints @ turn.mT), resting)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_from_local_undoes_local_vectors(rest: Tensor, joints: Tensor) -> None:
    resting = kinematics.limb_vectors(rest)
    vectors = kinematics.limb_vectors(joints)
    upright = vectors @ kinematics.trunk_frame(vectors)
    local = kinematics.local_vectors(vectors, resting)
    torch.testing.assert_close(kinematics.from_local(local, resting), upright, rtol=0, atol=1e-4)


def test_natural_poses_are_within_the_limits_and_a_knee_bent_forward_is_not(
    rest: Tensor, joints: Tensor
) -> None:
    resting, tables = kinematics.limb_vectors(rest), kinematics.limit_tables()
    vectors = kinematics.limb_vectors(joints)
    assert kinematics.limit_excess(vectors, resting, tables).max() == 0.0
    broken = resting.clone()[None]
    shin = SMPL24.index("left_ankle") - 1
    broken[0, shin] = torch.tensor([0.0, 0.0, 1.0])  # straight out to the front
    excess = kinematics.limit_excess(broken, resting, tables)[0]
    assert excess[shin] > 0.3


def test_limits_of_twins_are_mirror_images() -> None:
    middles, cosines = kinematics.limit_tables()
    order = left_right_order(SMPL24)
    torch.testing.assert_close(kinematics.mirrored_limbs(middles[None], order)[0], middles)
    torch.testing.assert_close(cosines[[joint - 1 for joint in order[1:]]], cosines)


def test_smallest_rotation_takes_one_vector_to_the_other() -> None:
    rng = torch.Generator().manual_seed(0)
    one, other = torch.nn.functional.normalize(torch.randn(2, 50, 3, generator=rng), dim=-1)
    apart = (one * other).sum(-1) > -0.99  # opposite vectors have no smallest rotation
    one, other = one[apart], other[apart]
    turn = smallest_rotation(one, other)
    torch.testing.assert_close((turn @ one[..., None])[..., 0], other, rtol=0, atol=1e-4)
    angle = torch.linalg.vector_norm(one - other, dim=-1)
    torch.testing.assert_close(
        turn.diagonal(dim1=1, dim2=2).sum(1), 1 + 2 * (1 - angle**2 / 2), rtol=0, atol=1e-3
    )


def test_limb_shapes_of_the_free_body() -> None:
    shapes = kinematics.limb_shapes(load_body("free"))
    assert shapes.radius.min() > 0.015 and shapes.radius.max() < 0.2
    assert sorted(set(shapes.part.tolist())) == list(range(1, len(PART_NAMES)))
    thigh, forearm = (SMPL24.index(name) - 1 for name in ("left_knee", "left_wrist"))
    assert shapes.radius[thigh] > 1.5 * shapes.radius[forearm]
    ends = [SMPL24[limb + 1] for limb in torch.nonzero(shapes.beyond)[:, 0].tolist()]
    assert ends == ["left_foot", "right_foot", "head", "left_hand", "right_hand"]
