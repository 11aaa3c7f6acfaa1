"""3D poses that belong to no picture, and what a camera and a puppet make of a pose."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpse_dist.body import kinematics
from hpse_dist.body.joints import PART_NAMES, SMPL24, left_right_order
from hpse_dist.body.model import load_body
from hpse_dist.body.poses import read_poses
from hpse_dist.constants import constant
from hpse_dist.draws import uniform
from hpse_dist.geometry.procrustes import align
from hpse_dist.geometry.rotations import axis_angle_to_matrix, smallest_rotation
from hpse_dist.models.puppet import Puppet
from hpse_dist.precision import in_full_precision

LIMITS_ALONE = "limits"  # in place of a file: whatever the joints can do
SYNTHETIC = "synthetic"  # in place of a file: poses of the synthetic people's motions
OWN_POSES = (LIMITS_ALONE, SYNTHETIC)  # everything else is somebody's file
NECK, HEAD = SMPL24.index("neck"), SMPL24.index("head")
SHOULDERS = (SMPL24.index("left_shoulder"), SMPL24.index("right_shoulder"))
_FACE = len(SMPL24)  # a place beside the joints: the front of the head
_FACE_RADIUS = 0.055  # metres
_MARGIN = 0.1  # metres of flesh around the joints, where a box is laid around a person
_NUM_POSSIBLE = 20_000  # poses drawn where limits alone are the prior
_PITCH = 0.9  # radians between the camera that looks up most and the one that looks down most
_CAMERA_UP = (1.0, -1.0, -1.0)  # world with y up -> camera with y down that looks along -z


@dataclass(frozen=True)
class Posed:
    """People in the camera's frame, metres, their pelvis at 0, and where a picture shows them."""

    local: Tensor
    """(B, 23, 3) unit vectors along the limbs, in the frame of the trunk."""
    turn: Tensor
    """(B, 3, 3) the trunk's frame in the camera's."""
    joints: Tensor
    """(B, 24, 3)."""
    joints2d: Tensor
    """(B, 24, 2) in 0..1 of the crop."""
    scale: Tensor
    """(B,) crop sides to a metre, at the pelvis's distance."""
    closeness: Tensor
    """(B,) one over the camera's distance from the pelvis, per metre; 0 for a far camera, to which
    what is nearer is no larger (weak perspective)."""

    def nearness(self, depth: Tensor) -> Tensor:
        """How much larger than at the pelvis something looks: depth (B, N) behind it, metres."""
        return 1.0 / (1.0 + self.closeness[:, None] * depth).clamp(min=0.3)

    def project(self, places: Tensor) -> Tensor:
        """(B, N, 3) metres from the pelvis, camera's frame -> (B, N, 2) in 0..1 of the crop."""
        size = self.scale[:, None] * self.nearness(places[..., 2])
        return places[..., :2] * size[..., None] + self.joints2d[:, :1]

    def on(self, device: torch.device | str) -> Posed:
        """The same people on a device."""
        return Posed(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

    def rows(self, index: slice | Tensor) -> Posed:
        """Some of the people."""
        return Posed(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


class Unpaired(nn.Module):
    """A skeleton, a puppet of the same body, and a set of poses for them."""

    poses: Tensor
    lengths: Tensor
    rest: Tensor
    middles: Tensor
    cosines: Tensor
    mean_joints: Tensor

    def __init__(
        self,
        poses: str,
        body: str,
        extent: tuple[float, float],
        shift: float,
        distance: tuple[float, float] = (2.3, 6.3),
    ) -> None:
        """poses: what `read_poses` reads, or "limits"; extent: the longer side of a person's box
        over the crop's, drawn uniformly; shift: largest shift of its middle along x and y;
        distance: of the camera from the pelvis, metres, the nearer ones more often."""
        super().__init__()
        self.extent, self.shift, self.distance = extent, shift, distance
        figure = load_body(body)
        rest = figure.rest_joints(torch.zeros(1, 10))[0]
        middles, cosines = kinematics.limit_tables()
        self._keep("rest", kinematics.limb_vectors(rest))
        self._keep("lengths", kinematics.limb_lengths(rest))
        self._keep("middles", middles)
        self._keep("cosines", cosines)
        if poses == LIMITS_ALONE:
            vectors = self._possible(_NUM_POSSIBLE)
        else:
            vectors = kinematics.limb_vectors(read_poses(poses, rest))
        self._keep("poses", vectors * vectors.new_tensor(_CAMERA_UP))
        self._keep("mean_joints", self._mean())
        self.mirror = left_right_order(SMPL24)
        shapes = kinematics.limb_shapes(figure)
        self.limb_parts = (*(PART_NAMES[part] for part in shapes.part.tolist()), "face")
        face = shapes.part.max()[None] + 1
        self.puppet = Puppet(
            torch.tensor([*kinematics.STARTS, HEAD]),
            torch.arange(1, _FACE + 1),
            torch.cat((shapes.radius, torch.tensor([_FACE_RADIUS]))),
            torch.cat((shapes.beyond, torch.zeros(1))),
            torch.cat((shapes.part, face)),
        )

    def _keep(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)

    @in_full_precision
    def draw(self, seed: int, epoch: int | Tensor, sample_id: Tensor) -> Posed:
        """A pose for each row, keyed by its id, seen by a camera anywhere around it that looks a
        little down, in a box as a person's crop has."""
        draw = uniform(seed, "unpaired", epoch, sample_id, 9)
        vectors = self.poses[(draw[:, 0] * len(self.poses)).long()]
        flipped = kinematics.mirrored_limbs(vectors, self.mirror)
        vectors = torch.where((draw[:, 1] < 0.5)[:, None, None], flipped, vectors)
        turn = _about(2, 0.2 * (draw[:, 2] - 0.5)) @ _about(0, _PITCH * (draw[:, 3] - 0.3))
        turn = turn @ _about(1, 2 * math.pi * draw[:, 4])
        vectors = vectors @ turn.mT
        joints = kinematics.place_limbs(vectors, self.lengths)
        nearest, farthest = self.distance
        closeness = 1.0 / (nearest + (farthest - nearest) * draw[:, 8].pow(1.5))
        seen = joints[..., :2] / (1.0 + closeness[:, None] * joints[..., 2])[..., None]
        low, high = seen.amin(1) - _MARGIN, seen.amax(1) + _MARGIN
        least, most = self.extent
        scale = (least + (most - least) * draw[:, 5]) / (high - low).amax(1)
        middle = 0.5 + self.shift * (2 * draw[:, 6:8] - 1)
        trunk = kinematics.trunk_frame(vectors)
        pelvis = middle - (low + high) / 2 * scale[:, None]
        # rows: v R is R^T v
        return self.seen(vectors @ trunk, trunk, scale, pelvis, closeness)

    @in_full_precision
    def seen(
        self, local: Tensor, turn: Tensor, scale: Tensor, pelvis: Tensor, closeness: Tensor
    ) -> Posed:
        """A camera's picture: unit vectors (B, 23, 3) in the trunk's frame, which is turned by
        (B, 3, 3); scale (B,), the pelvis's place (B, 2), closeness (B,)."""
        joints = kinematics.place_limbs(local, self.lengths) @ turn.mT
        at_pelvis = Posed(local, turn, joints, pelvis[:, None], scale, closeness)
        return replace(at_pelvis, joints2d=at_pelvis.project(joints))

    @in_full_precision
    def parts(self, posed: Posed, px: int, thickness: Tensor | None = None) -> Tensor:
        """The puppet's background and parts, (B, 1 + L, px, px); the last part is the face, which
        a head shows from the front only: without it a figure looks the same from behind.

        thickness (B, K): factors of the limbs' radii, the face's last."""
        face = _face(posed.joints)[:, None]
        joints2d = torch.cat((posed.joints2d, posed.project(face)), dim=1)
        depth = torch.cat((posed.joints[..., 2], face[..., 2]), dim=1)
        parts: Tensor = self.puppet(joints2d, depth, posed.scale, px, thickness)
        return parts

    @in_full_precision
    def excess(self, posed: Posed) -> Tensor:
        """How far limbs are outside their limits, (B, 23)."""
        return kinematics.limit_excess(posed.local, self.rest, (self.middles, self.cosines))

    def _mean(self) -> Tensor:
        """(24, 3) the set's mean pose: of the poses brought nearest to it (Procrustes)."""
        some = self.poses[:: -(-len(self.poses) // 5000)]
        joints = kinematics.place_limbs(some, self.lengths)
        mean = joints[:1]
        for _ in range(5):  # it hardly moves after the second round
            mean = align(joints, mean.expand_as(joints)).mean(0, keepdim=True)
        return mean[0]

    def _possible(self, count: int) -> Tensor:
        """(count, 23, 3) poses uniform within the limits of joints, the trunk upright, still."""
        ids = torch.arange(count)
        draw = uniform(0, "possible", 0, ids, 2 * kinematics.NUM_LIMBS).unflatten(1, (-1, 2))
        cosine = 1 - draw[..., 0] * (1 - self.cosines)
        sine, angle = (1 - cosine.square()).sqrt(), 2 * math.pi * draw[..., 1]
        cone = torch.stack((sine * angle.cos(), sine * angle.sin(), cosine), dim=-1)
        axis = torch.tensor([0.0, 0.0, 1.0]).expand_as(self.middles)
        turn = smallest_rotation(axis, self.middles)
        local = (turn @ cone[..., None])[..., 0]
        # the limbs that the trunk's frame is made of stay at rest, or it would not be upright
        resting = kinematics.local_vectors(self.rest[None], self.rest)
        local[:, kinematics.TRUNK] = resting[:, kinematics.TRUNK]
        return kinematics.from_local(local, self.rest)


def front(joints: Tensor) -> Tensor:
    """(B, 3) unit vectors to where the chest faces: joints (B, 24, 3)."""
    up = F.normalize(joints[:, NECK] - joints[:, 0], dim=-1)
    left, right = (joints[:, shoulder] for shoulder in SHOULDERS)
    return F.normalize(torch.linalg.cross(left - right, up), dim=-1)


def _face(joints: Tensor) -> Tensor:
    """(B, 3) five centimetres before the middle of the head, as the chest faces."""
    ahead = 0.05 * front(joints)
    return joints[:, HEAD] + 0.35 * (joints[:, HEAD] - joints[:, NECK]) + ahead


def _about(axis: int, angle: Tensor) -> Tensor:
    """Rotations about x, y or z: (B,) radians -> (B, 3, 3)."""
    vector = constant(tuple(float(i == axis) for i in range(3)), angle.device) * angle[:, None]
    return axis_angle_to_matrix(vector)
