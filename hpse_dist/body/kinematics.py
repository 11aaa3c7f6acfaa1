"""A skeleton of limbs with fixed lengths: places, local frames, and limits of articulation.

After Kundu et al. (CVPR 2020): a pose is one unit vector per limb, the skeleton's bone lengths keep
their ratios, and joints bend no farther than people's do. A limb is the segment from a joint of
SMPL24 to its child; limb k ends at joint k + 1. Joint places are relative to the pelvis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hpse_dist.body.joints import PARENTS, SMPL24, mirrored, part_of_joint
from hpse_dist.body.model import Body
from hpse_dist.constants import constant, numbers
from hpse_dist.geometry.rotations import smallest_rotation

NUM_LIMBS = len(SMPL24) - 1
STARTS = PARENTS[1:]
"""The joint at which each limb starts."""
TRUNK = tuple(
    SMPL24.index(name) - 1 for name in ("left_hip", "right_hip", "spine1", "spine2", "spine3")
)
"""The limbs that the trunk's frame is made of: to both hips, and up the spine."""
_TIP = 0.95  # quantile of a part's vertices along the limb: where its tip is

# For each limb, by the joint it ends at, the middle of its directions in the frame of the limb
# before it, and the largest angle from that, degrees; a right limb's is its twin's mirror image.
# Fitted to 40,000 poses of the synthetic motions, whose angles keep to the usual clinical ranges
# (AAOS, a little opened), and widened by 10 degrees.
LIMITS: dict[str, tuple[tuple[float, float, float], float]] = {
    "left_hip": ((0.99, -0.14, -0.07), 10.0),
    "left_knee": ((0.19, -0.75, 0.64), 95.0),
    "left_ankle": ((0.24, -0.23, -0.94), 85.0),
    "left_foot": ((-0.06, -0.40, 0.91), 55.0),
    "spine1": ((0.00, 0.89, -0.45), 25.0),
    "spine2": ((0.00, 0.97, 0.22), 25.0),
    "spine3": ((0.00, 1.00, 0.09), 25.0),
    "neck": ((0.00, 0.95, 0.30), 30.0),
    "head": ((0.00, 0.95, 0.31), 30.0),
    "left_collar": ((0.15, 0.89, 0.43), 40.0),
    "left_shoulder": ((1.00, -0.02, -0.03), 55.0),
    "left_elbow": ((0.62, -0.40, 0.68), 115.0),
    "left_wrist": ((0.38, 0.20, 0.90), 125.0),
    "left_hand": ((0.87, 0.16, -0.46), 60.0),
}


@dataclass(frozen=True)
class LimbShapes:
    """How thick limbs are and how far they reach past their last joint."""

    radius: Tensor
    """(K,) metres."""
    beyond: Tensor
    """(K,) over the limb's length."""
    part: Tensor
    """(K,) number of the body part (`joints.PART_NAMES`)."""


def place_joints(rotations: Tensor, rest: Tensor, parents: Sequence[int]) -> Tensor:
    """Joints relative to the pelvis: forward kinematics without a mesh.

    rotations (B, J, 3, 3) relative to each joint's parent, rest (B, J, 3) -> (B, J, 3), metres.
    """
    turned, placed = [rotations[:, 0]], [torch.zeros_like(rest[:, 0])]
    for joint, parent in enumerate(parents[1:], start=1):
        offset = (rest[:, joint] - rest[:, parent]).unsqueeze(-1)
        placed.append(placed[parent] + (turned[parent] @ offset).squeeze(-1))
        turned.append(turned[parent] @ rotations[:, joint])
    return torch.stack(placed, dim=1)


def limb_vectors(joints: Tensor) -> Tensor:
    """Unit vectors along the limbs: (..., 24, 3) -> (..., 23, 3)."""
    return F.normalize(joints[..., 1:, :] - joints[..., STARTS, :], dim=-1)


def limb_lengths(joints: Tensor) -> Tensor:
    """(..., 24, 3) -> (..., 23)."""
    return torch.linalg.vector_norm(joints[..., 1:, :] - joints[..., STARTS, :], dim=-1)


def place_limbs(vectors: Tensor, lengths: Tensor) -> Tensor:
    """Joints of limbs laid end to end: unit vectors (B, 23, 3), lengths (23,) -> (B, 24, 3)."""
    steps = vectors * lengths[:, None]
    placed = [torch.zeros_like(steps[:, 0])]
    for limb, start in enumerate(STARTS):
        placed.append(placed[start] + steps[:, limb])
    return torch.stack(placed, dim=1)


def trunk_frame(vectors: Tensor) -> Tensor:
    """The pelvis's frame by Gram-Schmidt on hip axis and spine: (B, 23, 3) -> (B, 3, 3).

    Columns: x to the person's left, y up the spine, z to the front.
    """
    left, right, *spine = vectors[:, numbers(TRUNK, vectors.device)].unbind(1)
    x = F.normalize(left - right, dim=-1)
    up = spine[0] + spine[1] + spine[2]
    y = F.normalize(up - (up * x).sum(-1, keepdim=True) * x, dim=-1)
    return torch.stack((x, y, torch.linalg.cross(x, y)), dim=-1)


def local_vectors(vectors: Tensor, rest: Tensor) -> Tensor:
    """Each limb in the frame of the limb before it: (B, 23, 3) -> (B, 23, 3).

    The trunk's frame starts; a limb hands on its frame turned by the smallest rotation that takes
    its rest direction (rest (23, 3), in a body's own frame) to where it is, so twists count none.
    """
    frames: list[Tensor] = [trunk_frame(vectors)]
    found = []
    for limb, start in enumerate(STARTS):
        frame = frames[start]
        here = (frame.mT @ vectors[:, limb, :, None])[..., 0]
        found.append(here)
        frames.append(frame @ smallest_rotation(rest[limb].expand_as(here), here))
    return torch.stack(found, dim=1)


def from_local(local: Tensor, rest: Tensor) -> Tensor:
    """Inverse of `local_vectors`, with the trunk's frame upright: (B, 23, 3) -> (B, 23, 3)."""
    frames = [torch.eye(3, device=local.device).expand(len(local), 3, 3)]
    found = []
    for limb, start in enumerate(STARTS):
        here = local[:, limb]
        found.append((frames[start] @ here[..., None])[..., 0])
        frames.append(frames[start] @ smallest_rotation(rest[limb].expand_as(here), here))
    return torch.stack(found, dim=1)


def limit_tables() -> tuple[Tensor, Tensor]:
    """Middles (23, 3) and cosines (23,) of the largest angles of LIMITS."""
    middles, angles = [], []
    for name in SMPL24[1:]:
        (x, y, z), angle = LIMITS.get(name) or LIMITS[mirrored(name)]
        middles.append((x if name in LIMITS else -x, y, z))
        angles.append(angle)
    return F.normalize(torch.tensor(middles), dim=-1), torch.deg2rad(torch.tensor(angles)).cos()


def limit_excess(vectors: Tensor, rest: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """How far limbs are outside their limits: (B, 23, 3) unit vectors -> (B, 23).

    The cosine of the limit less that of the angle, 0 inside: a hinge, with a slope everywhere.
    """
    middles, cosines = tables
    return (cosines - (local_vectors(vectors, rest) * middles).sum(-1)).clamp(min=0.0)


def mirrored_limbs(vectors: Tensor, order: Sequence[int]) -> Tensor:
    """Left and right exchanged, x reversed: (B, 23, 3); order: `left_right_order(SMPL24)`."""
    limbs = tuple(joint - 1 for joint in order[1:])
    swapped = vectors[:, numbers(limbs, vectors.device)]
    return swapped * constant((-1.0, 1.0, 1.0), vectors.device, vectors.dtype)


def limb_shapes(body: Body) -> LimbShapes:
    """Thickness and reach of each limb, measured on a body in its rest pose.

    A vertex belongs to the joint that moves it most, and to the nearest limb that starts there (at
    a last joint: to the limb that ends there). Radius: the mean distance of its vertices.
    """
    joints = body.rest_joints(torch.zeros(1, 10, device=body.v_template.device))[0]
    owner = body.skinning_weights.argmax(1)
    children = {a: [k for k, start in enumerate(STARTS) if start == a] for a in range(len(SMPL24))}
    radius, beyond = torch.zeros(NUM_LIMBS), torch.zeros(NUM_LIMBS)
    for joint in range(len(SMPL24)):
        last = not children[joint]
        limbs = children[joint] or [joint - 1]
        points = body.v_template[owner == joint]
        away, share = _from_limbs(points, joints, limbs)
        for number, limb in enumerate(limbs):
            mine = away.argmin(1) == number
            if not mine.any():
                continue
            past = (share[mine, number].quantile(_TIP) - 1).clamp(min=0.0) if last else 0.0
            beyond[limb] = past
            radius[limb] = _distance(points[mine], joints, limb, 1.0 + float(past)).mean()
    radius = radius.where(radius > 0, radius[radius > 0].min())
    part = torch.tensor([part_of_joint(SMPL24[start]) for start in STARTS])
    return LimbShapes(radius, beyond, part)


def _from_limbs(points: Tensor, joints: Tensor, limbs: list[int]) -> tuple[Tensor, Tensor]:
    """Distance of points (N, 3) from some limbs, and the place along each: (N, K) twice."""
    away = torch.stack([_distance(points, joints, limb, 1.0) for limb in limbs], dim=1)
    share = torch.stack([_share(points, joints, limb) for limb in limbs], dim=1)
    return away, share


def _share(points: Tensor, joints: Tensor, limb: int) -> Tensor:
    start, end = joints[STARTS[limb]], joints[limb + 1]
    along = end - start
    return (points - start) @ along / (along @ along)


def _distance(points: Tensor, joints: Tensor, limb: int, reach: float) -> Tensor:
    start, end = joints[STARTS[limb]], joints[limb + 1]
    share = _share(points, joints, limb).clamp(0.0, reach)
    return torch.linalg.vector_norm(points - start - share[:, None] * (end - start), dim=-1)
