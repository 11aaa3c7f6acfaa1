"""Errors of 2D joints, one number per example; NaN for an example without labelled joints."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

COCO_SIGMAS = (
    *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072),
    *(0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
)
"""How far annotators were from one another at each of COCO's 17 keypoints, in root areas."""


def person_side(joints: Tensor, known: Tensor) -> Tensor:
    """(B,) larger side of the box around the known joints of (B, J, 2); NaN without two of them."""
    far = torch.full_like(joints, math.inf)
    low = joints.where(known[..., None], far).amin(1)
    high = joints.where(known[..., None], -far).amax(1)
    side = (high - low).amax(1)
    return side.where(side > 0, math.nan)


def joint_error(predicted: Tensor, true: Tensor, known: Tensor) -> Tensor:
    """(B,) mean distance of the known joints (B, J, 2) in percent of the person's side."""
    distance = (predicted - true).norm(dim=-1) / person_side(true, known)[:, None]
    return 100 * _mean(distance, known)


def pck(predicted: Tensor, true: Tensor, known: Tensor, share: float) -> Tensor:
    """(B,) percent of the known joints (B, J, 2) within `share` of the person's side.

    PCK of Yang and Ramanan (2013), with the larger side of the box around the labelled joints, so
    that it does not depend on how a picture was cropped.
    """
    limit = share * person_side(true, known)[:, None]
    near = ((predicted - true).norm(dim=-1) <= limit).float()
    return (100 * _mean(near, known)).where(limit[:, 0].isfinite(), math.nan)


def oks(
    predicted: Tensor, true: Tensor, known: Tensor, area: Tensor, sigmas: Sequence[float]
) -> Tensor:
    """(B,) object keypoint similarity 0..1 of joints (B, J, 2), both in pixels.

    COCO's: the mean over known joints of exp(-d^2 / (2 area (2 sigma)^2)), area (B,) that of the
    person's segment in pixels^2. Average precision over a set is in `average_precision`.
    """
    spread = 2 * torch.as_tensor(sigmas, dtype=predicted.dtype, device=predicted.device)
    tiny = torch.finfo(torch.float64).eps  # COCO's guard
    square = (predicted - true).square().sum(-1)
    return _mean((-square / (2 * spread.square() * (area[:, None] + tiny))).exp(), known)


def _mean(values: Tensor, known: Tensor) -> Tensor:
    count = known.sum(1)
    return values.where(known, 0.0).sum(1) / count.where(count > 0, math.nan)
