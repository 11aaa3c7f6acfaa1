"""Errors of 3D joints and meshes, in millimetres, one number per example.

Inputs are in metres. An example without anything to compare gets NaN, which evaluation leaves out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hpse_dist.geometry.procrustes import align

MM_PER_METRE = 1000.0


def mpjpe(predicted: Tensor, true: Tensor, known: Tensor | None = None, root: int = 0) -> Tensor:
    """(B,) mean distance of joints (B, J, 3) after both roots are put at the origin.

    known (B, J): confidence or bool, counted where above 0; NaN where the root is not known, as
    nothing is known relative to it.
    """
    distance = _distances(predicted - predicted[:, root, None], true - true[:, root, None])
    if known is None:
        return distance.mean(dim=1)
    counted = (known > 0) & (known[:, root, None] > 0)
    return _masked_mean(distance, counted)


def pa_mpjpe(predicted: Tensor, true: Tensor, known: Tensor | None = None) -> Tensor:
    """(B,) mean distance of joints (B, J, 3) after the best similarity, as HMR2 and SPIN define it.

    known as for `mpjpe`; NaN where fewer than three joints are, since those fit anything.
    """
    predicted, true = predicted.double(), true.double()
    if known is None:
        return _distances(align(predicted, true), true).mean(dim=1).float()
    counted = known > 0
    enough = counted.sum(dim=1) >= 3
    weights = torch.where(enough[:, None], counted, True).double()
    # A joint that is not counted may hold anything, NaN included; it must not touch the alignment.
    true = torch.where(counted[..., None], true, predicted)
    distance = _distances(align(predicted, true, weights), true)
    return _masked_mean(distance, counted & enough[:, None]).float()


def pve(predicted: Tensor, true: Tensor, predicted_root: Tensor, true_root: Tensor) -> Tensor:
    """(B,) mean distance of vertices (B, V, 3), each mesh seen from its own root (B, 3).

    The root is the mesh's own regressed pelvis.
    """
    distance = _distances(predicted - predicted_root[:, None], true - true_root[:, None])
    return distance.mean(dim=1)


def _distances(predicted: Tensor, true: Tensor) -> Tensor:
    return torch.linalg.vector_norm(predicted - true, dim=-1) * MM_PER_METRE


def _masked_mean(values: Tensor, counted: Tensor) -> Tensor:
    """(B,) mean of values (B, N) where counted, NaN where nothing is."""
    count = counted.sum(dim=1)
    total = values.where(counted, 0.0).sum(dim=1)
    return (total / count.clamp(min=1)).where(count > 0, math.nan)
