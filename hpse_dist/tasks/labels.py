"""Joints as they are labelled, compared as far as they are known."""

from __future__ import annotations

import torch
from torch import Tensor

from hpse_dist.fields import Batch
from hpse_dist.geometry.camera import known_intrinsics, rotation_to_ray
from hpse_dist.geometry.procrustes import similarity
from hpse_dist.precision import in_full_precision


def labelled_joints(batch: Batch, name: str, count: int, task: str) -> tuple[Tensor, Tensor]:
    """Places (B, J, 2 or 3) and confidence (B, J) of the joints in a field, J as the task needs.

    Raises ValueError where the collection has another number of joints.
    """
    joints = batch[name]
    if joints.shape[1] != count:
        raise ValueError(
            f"{name}: the labels have {joints.shape[1]} joints and {task} needs {count}; use a "
            "collection with that joint set"
        )
    return joints[..., :-1], joints[..., -1]


def from_root(joints: Tensor, root: int = 0) -> Tensor:
    """Joints (B, J, 3) relative to one of them."""
    return joints - joints[:, root, None]


def with_root(confidence: Tensor, root: int = 0) -> Tensor:
    """Confidence (B, J) in places relative to the root: none where the root is not known."""
    return confidence * (confidence[:, root, None] > 0)


def weighted(errors: Tensor, weights: Tensor) -> Tensor:
    """Mean over joints by confidence, summed over the rows that have any, over B: (B, J) -> ()."""
    total = weights.sum(1)
    return ((errors * weights).sum(1) / total.clamp(min=1e-6)).mean()


@in_full_precision
def placing_errors(mine: Tensor, true: Tensor, intrinsics: Tensor) -> Tensor:
    """How far apart two places of a root are in a picture: (B, 3) metres twice -> (B,).

    L1 over three numbers: the logarithm of the depth along the ray through the crop's centre, which
    is that of a weak-perspective camera's scale, and the two ways across the ray, in crop sides at
    the true depth. intrinsics (B, 3, 3) for 0..1 coordinates; 0 for a row without them (zeros),
    whose depth another focal length would change.

    Joints in the picture alone teach a wrong scale as long as a rotation is unknown: they are then
    least wrong for a small mesh far away, all of it near the middle of where joints may be.
    """
    known = intrinsics[:, 0, 0] > 0
    intrinsics = known_intrinsics(intrinsics, 1.0, mine)
    ray = rotation_to_ray(intrinsics)
    mine, true = ((place[:, None] @ ray)[:, 0] for place in (mine, true))
    depth, true_depth = (place[:, 2].clamp(min=1e-3) for place in (mine, true))
    across = (mine[:, :2] - true[:, :2]).abs() * (intrinsics[:, 0, 0] / true_depth)[:, None]
    along = (depth / true_depth).log().abs()
    return torch.cat((across, along[:, None]), dim=1).mean(1) * known


@in_full_precision
def turned_errors(mine: Tensor, true: Tensor, weights: Tensor) -> Tensor:
    """L1 of points after the rotation and shift that fit them best: (B, N, 3) twice -> (B, N).

    weights (B, N): how much each point counts for the fit; a row without any is fitted by all. The
    gradient takes the rotation as it is. While the rotation of a picture's person is not known yet,
    errors in the camera frame are least for limbs drawn in towards the body: these are not.
    """
    weights = weights.where(weights.sum(1, keepdim=True) > 0, 1.0)
    share = (weights / weights.sum(1, keepdim=True))[..., None]
    mine, true = mine - (mine * share).sum(1, keepdim=True), true - (true * share).sum(1, True)
    with torch.no_grad():
        rotation = similarity(mine.detach().double(), true.double(), weights.double())[1]
    return (mine @ rotation.to(mine.dtype).mT - true).abs().mean(-1)
