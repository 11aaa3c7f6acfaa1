"""Errors of 2D joints, one number per example; NaN for an example without labelled joints."""

from __future__ import annotations

import math

import torch
from torch import Tensor


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


def _mean(values: Tensor, known: Tensor) -> Tensor:
    count = known.sum(1)
    return values.where(known, 0.0).sum(1) / count.where(count > 0, math.nan)
