"""Which of two joints is nearer to the camera, from joints in the picture and perspective alone.

After the idea of Qiu et al., "Weakly-supervised pre-training for 3D human pose estimation via
perspective knowledge" (Pattern Recognition 139, 2023), whose formulas are not public; those here
are our own.

**Between people.** A bone b of length l_b (as a share of stature) of a person of stature h at
depth Z appears with the length s_b = f l_b h c_b / Z, c_b <= 1 its foreshortening. So the largest
s_b / l_b over many bones is close to f h / Z, the person's apparent stature, and the ratio of two
people's is close to the inverse ratio of their depths. Ratios leave f, and the picture's size, out.

    x = ln(sigma_a / sigma_b)    -1 (a nearer) if x > ln(1 + margin), +1 if x < -ln(1 + margin),
                                  0 (level) if |x| <= ln(1 + margin / 2), ignored in between

Statures differ too, and a child looks like a far adult. What gives it away is the ground: for
people who stand on one floor, nearer feet are lower in the picture. Where feet are seen and
contradict the apparent statures, the relation is ignored.

**Inside one person** foreshortening tells how far a bone turns out of the picture's plane, but not
which way. Hips, knees and elbows bend much farther one way than the other, and left and right
shoulders and hips tell which way the person faces: so a foreshortened thigh of an upright person
who faces the camera points towards it. And of two feet on the floor the lower is nearer. These
relations are right less often, and get a low confidence. (Upper arms turn either way: on synthetic
people a foreshortened one told no more than a coin.)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from hpse_dist.body.joints import JOINT_SETS
from hpse_dist.constants import constant, numbers
from hpse_dist.fields import Batch

FIELDS = ("depth_pairs", "depth_order", "depth_confidence")
_SIDES = ("left", "right")
# Bones by the joints at their ends, and their lengths as shares of stature. SMPL's: means over the
# free body's shapes. Others: segment lengths of Drillis and Contini (1966), as in Winter,
# "Biomechanics and Motor Control of Human Movement".
BONES = {
    ("shoulder", "hip"): {"smpl24": 0.274, "": 0.288},
    ("hip", "knee"): {"smpl24": 0.224, "": 0.245},
    ("knee", "ankle"): {"smpl24": 0.256, "": 0.246},
    ("shoulder", "elbow"): {"smpl24": 0.152, "": 0.186},
    ("elbow", "wrist"): {"smpl24": 0.136, "": 0.146},
}
_CORE = ("pelvis", "hip", "shoulder", "spine1", "spine2", "spine3", "neck", "collar")
# Inside a person: (nearer end where the person faces the camera, farther end, trunk upright).
_FORWARD = (("knee", "hip", True), ("wrist", "elbow", True), ("knee", "ankle", False))


@dataclass(frozen=True)
class DepthOrderConfig:
    """From joints in a picture to relations of depth."""

    margin: float = 0.25
    """By how much apparent statures must differ for one person to be nearer, as a share; half of it
    is level, what lies between is ignored. Has to exceed the spread of statures."""
    keypoint_margin: float = 0.5
    """From this difference on, any joint of one person is nearer than any joint of the other; below
    it only the same joints of the trunk are compared."""
    level: bool = True
    """Whether people at about the same depth are relations too."""
    min_bones: int = 3
    """A person needs so many bones in sight."""
    min_visible: float = 0.5
    """A person needs this share of the limbs' ends and shoulders in sight: fewer is truncated."""
    min_stature: float = 0.1
    """Least apparent stature, as a share of the picture's side: below it joints are noise."""
    max_ratio: float = 5.0
    """Greatest ratio of two apparent statures; beyond it one of them is wrong."""
    min_confidence: float = 0.5
    """Joints of less confidence are not in sight."""
    ground: bool = True
    """Ignore relations that the feet contradict: children, people who jump, joints set wrong."""
    ground_slack: float = 0.1
    """Height of feet in the picture, in apparent statures, from which they can contradict."""
    min_distance: float = 0.015
    """Pairs of joints nearer than this in the picture, as a share of its side, are left out."""
    inside_confidence: float = 0.25
    """Confidence of relations inside one person; 0 leaves them out."""
    inside_foreshortening: float = 0.7
    """A bone at most this share of its full length in the picture has turned out of its plane."""
    upright: float = 0.85
    """A trunk of at least this share of its full length in the picture lies in its plane."""
    inside_ankles: float = 0.04
    """Difference in height of two ankles, in apparent statures, that says which is nearer."""
    facing: float = 0.4
    """Width of shoulders and hips, as a share of their full width, from which left and right tell
    which way a person faces."""

    def __post_init__(self) -> None:
        if not 0 < self.margin <= self.keypoint_margin <= 2:
            raise ValueError(
                "margin and keypoint_margin must be above 0, at most 2 and rising, found "
                f"{self.margin} and {self.keypoint_margin}"
            )
        if not 1 <= self.min_bones <= 10:
            raise ValueError(f"min_bones must be 1..10, found {self.min_bones}")
        if self.max_ratio <= 1:
            raise ValueError(f"max_ratio must be above 1, found {self.max_ratio}")
        shares = ["min_visible", "min_stature", "min_confidence", "ground_slack", "min_distance"]
        shares += [
            "inside_confidence",
            "inside_foreshortening",
            "upright",
            "inside_ankles",
            "facing",
        ]
        for name in shares:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0..1, found {getattr(self, name)}")


class HasJoints(Protocol):
    """What a collection says of its joints."""

    @property
    def manifest(self) -> dict[str, Any]: ...
    @property
    def fields(self) -> Mapping[str, Any]: ...


def basis(collections: Sequence[HasJoints]) -> tuple[str, str] | None:
    """The field and the joint set that relations in these collections are made from, or None.

    Whole pictures' people2d, or else single people's joints2d; what a collection lacks has no
    confidence.
    """
    having = [c for c in collections if {"people2d", "joints2d"} & {*c.fields}]
    sets: set[str] = {c.manifest.get("joint_set") or "" for c in having}
    if len(sets) != 1 or not _has_limbs(joint_set := sets.pop()):
        return None
    for name in ("people2d", "joints2d"):
        if any(name in collection.fields for collection in collections):
            return name, joint_set
    return None


def _has_limbs(joint_set: str) -> bool:
    names = JOINT_SETS.get(joint_set, ())
    return all(f"{side}_{end}" in names for bone in BONES for end in bone for side in _SIDES)


@dataclass(frozen=True)
class Apparent:
    """What a picture tells of each person, each (B, P)."""

    stature: Tensor
    """Shares of the picture's side, 0 where nothing is known."""
    reliable: Tensor
    """bool: enough of the person is in sight, and large enough."""
    feet: Tensor
    """y of the lowest ankle in sight, NaN without one."""
    ahead: Tensor
    """1 facing the camera, -1 facing away, 0 sideways or unknown."""


class DepthOrder:
    """Makes the fields depth_pairs, depth_order and depth_confidence for one set of joints."""

    def __init__(self, joint_set: str, config: DepthOrderConfig | None = None) -> None:
        """ValueError where the joints lack the ends of limbs."""
        if not _has_limbs(joint_set):
            known = ", ".join(name for name in JOINT_SETS if _has_limbs(name))
            raise ValueError(
                "relations of depth need both sides' shoulders, elbows, wrists, hips, knees and "
                f"ankles, as in the joint sets {known}; found the joint set {joint_set!r}"
            )
        names = JOINT_SETS[joint_set]
        self.config = config or DepthOrderConfig()
        self.num_joints = len(names)
        self._at = {name: number for number, name in enumerate(names)}
        self._bones: list[tuple[int, int]] = []
        lengths: list[float] = []
        for (a, b), length in BONES.items():
            for side in _SIDES:
                self._bones.append((self._at[f"{side}_{a}"], self._at[f"{side}_{b}"]))
                lengths.append(length.get(joint_set, length[""]))
        self._lengths = tuple(lengths)
        core = [number for name, number in self._at.items() if name.split("_")[-1] in _CORE]
        self._core = tuple(number in core for number in range(self.num_joints))
        self._ends = tuple(sorted({end for bone in self._bones for end in bone}))

    def __call__(self, people: Tensor, shift: Tensor | None = None) -> Batch:
        """Relations of joints: people (B, P, J, 3) in 0..1 of an upright picture, confidence.

        -> depth_pairs (B, Q, 2) int64, indices into the P * J joints; depth_order (B, Q) -1, 0, +1;
        depth_confidence (B, Q), 0 where there is no relation. Of two people, joint j of the first
        is compared with joint j of the second or, far apart, with joint j + shift; shift (B,
        couples) int64. Q is the same for every picture.
        """
        about = self.apparent(people)
        seen = self._seen(people)
        both = tuple(itertools.combinations(range(people.shape[1]), 2))
        couples = numbers(both, people.device).view(len(both), 2)
        parts = [self._inside(people, about, seen)] if self.config.inside_confidence > 0 else []
        if len(couples):
            parts.append(self._between(people, about, seen, couples, shift))
        pairs, order, confidence = (torch.cat(columns, 1) for columns in zip(*parts, strict=True))
        xy = people[..., :2].flatten(1, 2)  # (B, P J, 2)
        ends = [xy.gather(1, pairs[..., k, None].expand(-1, -1, 2)) for k in (0, 1)]
        apart = (ends[0] - ends[1]).norm(dim=-1) >= self.config.min_distance
        return {
            "depth_pairs": pairs,
            "depth_order": order,
            "depth_confidence": confidence * apart,
        }

    def apparent(self, people: Tensor) -> Apparent:
        """Apparent stature and what guards it, of people (B, P, J, 3)."""
        config = self.config
        seen = self._seen(people)
        known, stature = self._statures(people, seen)
        reliable = known.sum(-1) >= config.min_bones
        reliable &= (
            seen[..., numbers(self._ends, seen.device)].float().mean(-1) >= config.min_visible
        )
        reliable &= stature >= config.min_stature
        ankles = numbers(tuple(self._at[f"{side}_ankle"] for side in _SIDES), people.device)
        low = people[..., ankles, 1].where(seen[..., ankles], -math.inf).amax(-1)
        return Apparent(
            stature=stature,
            reliable=reliable,
            feet=low.where(low.isfinite(), math.nan),
            ahead=self._facing(people, seen, stature),
        )

    def relations(self, about: Apparent) -> tuple[Tensor, Tensor]:
        """Every person against every other: order (B, P, P) -1, 0, +1 and whether it is known.

        order[i, j] = -1: i is nearer than j. Antisymmetric to the bit.
        """
        config = self.config
        size = about.stature.clamp(min=1e-6).log()
        x = size[..., :, None] - size[..., None, :]
        order = -(x.sign() * (x.abs() > math.log1p(config.margin)))
        level = x.abs() <= math.log1p(config.margin / 2)
        known = (order != 0) | level if config.level else order != 0
        known &= about.reliable[..., :, None] & about.reliable[..., None, :]
        known &= x.abs() <= math.log(config.max_ratio)
        if config.ground:
            smaller = torch.minimum(about.stature[..., :, None], about.stature[..., None, :])
            lower = (about.feet[..., :, None] - about.feet[..., None, :]) / smaller
            # nearer (-1) is lower (positive): the product is positive where feet contradict
            contrary = torch.where(order != 0, lower * order, lower.abs()) > config.ground_slack
            known &= ~contrary  # NaN, feet out of sight, is no contradiction
        return order, known & ~torch.eye(known.shape[-1], dtype=torch.bool, device=known.device)

    def _seen(self, people: Tensor) -> Tensor:
        """(B, P, J) bool: sure of their place, and inside the picture."""
        inside = ((people[..., :2] >= 0) & (people[..., :2] <= 1)).all(-1)
        return inside & (people[..., 2] >= self.config.min_confidence)

    def _statures(self, people: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Which bones are in sight (B, P, bones), and the greatest length over share (B, P)."""
        first, second = numbers(tuple(self._bones), people.device).T
        known = seen[..., first] & seen[..., second]
        length = (people[..., first, :2] - people[..., second, :2]).norm(dim=-1)
        whole = constant(self._lengths, people.device)
        stature = (length / whole).where(known, 0.0).amax(-1)
        return known, stature

    def _facing(self, people: Tensor, seen: Tensor, stature: Tensor) -> Tensor:
        """1 towards the camera, -1 away, 0 unknown: (B, P), from where left and right are."""
        wide = []
        for end, share in (("shoulder", 0.207), ("hip", 0.132)):
            left, right = (self._at[f"{side}_{end}"] for side in _SIDES)
            gap = (people[..., left, 0] - people[..., right, 0]) / (share * stature.clamp(min=1e-6))
            wide.append(gap.where(seen[..., left] & seen[..., right], 0.0))
        # facing the camera, the left side is on the right of the picture
        shoulders, hips = wide
        agree = shoulders * hips > 0
        return torch.where(agree & (shoulders.abs() >= self.config.facing), shoulders.sign(), 0.0)

    def _inside(
        self, people: Tensor, about: Apparent, seen: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Foreshortened limbs and ankles: pairs (B, P 7, 2), order and confidence (B, P 7)."""
        config = self.config
        trunk = [self._share(people, about, seen, ("shoulder", "hip"), side) for side in _SIDES]
        upright = torch.stack([share.where(known, 0.0) for share, known in trunk]).amax(0)
        pairs, orders, knowns = [], [], []
        for near, far, needs_trunk in _FORWARD:
            bone = (near, far) if (near, far) in BONES else (far, near)
            for side in _SIDES:
                share, known = self._share(people, about, seen, bone, side)
                known &= (share <= config.inside_foreshortening) & (about.ahead != 0)
                if needs_trunk:
                    known &= upright >= config.upright
                pairs.append((self._at[f"{side}_{near}"], self._at[f"{side}_{far}"]))
                orders.append(-about.ahead)
                knowns.append(known)
        left, right = (self._at[f"{side}_ankle"] for side in _SIDES)
        lower = (people[..., left, 1] - people[..., right, 1]) / about.stature.clamp(min=1e-6)
        pairs.append((left, right))
        orders.append(-lower.sign())
        knowns.append(seen[..., left] & seen[..., right] & (lower.abs() >= config.inside_ankles))
        known = torch.stack(knowns, -1) & about.reliable[..., None]
        offset = self.num_joints * torch.arange(people.shape[1], device=people.device)
        index = numbers(tuple(pairs), people.device) + offset[:, None, None]  # (P, 7, 2)
        confidence = config.inside_confidence * known
        index = index.flatten(0, 1).expand(len(people), -1, -1)
        return index, torch.stack(orders, -1).flatten(1), confidence.flatten(1)

    def _share(
        self, people: Tensor, about: Apparent, seen: Tensor, bone: tuple[str, str], side: str
    ) -> tuple[Tensor, Tensor]:
        """A bone's length in the picture as a share of its full length, and whether it is seen."""
        a, b = (self._at[f"{side}_{end}"] for end in bone)
        full = self._lengths[self._bones.index((a, b))]
        length = (people[..., a, :2] - people[..., b, :2]).norm(dim=-1)
        share = length / (full * about.stature.clamp(min=1e-6))
        return share, seen[..., a] & seen[..., b]

    def _between(
        self,
        people: Tensor,
        about: Apparent,
        seen: Tensor,
        couples: Tensor,
        shift: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Joints of two people: pairs (B, couples J, 2), order and confidence (B, couples J)."""
        order, known = self.relations(about)
        i, j = couples.T
        order, known = order[:, i, j], known[:, i, j]  # (B, couples)
        ratio = (about.stature[:, i] / about.stature[:, j].clamp(min=1e-6)).clamp(min=1e-6).log()
        far = (ratio.abs() > math.log1p(self.config.keypoint_margin))[..., None]
        joint = torch.arange(self.num_joints, device=people.device)
        other = joint.expand(*order.shape, -1)
        if shift is not None:
            other = torch.where(far, (other + shift[..., None]) % self.num_joints, other)
        both = seen[:, i] & seen[:, j].gather(2, other)
        compared = far | constant(self._core, people.device, torch.bool)
        confidence = (known[..., None] & both & compared).to(people.dtype)
        first = (i[:, None] * self.num_joints + joint).expand_as(other)
        pairs = torch.stack([first, j[:, None] * self.num_joints + other], -1)
        order = order[..., None].expand_as(confidence)
        return pairs.flatten(1, 2), order.flatten(1), confidence.flatten(1)
