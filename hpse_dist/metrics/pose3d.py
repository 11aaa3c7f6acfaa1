"""Errors of 3D joints and meshes, in millimetres or percent, one number per example.

Inputs are in metres. An example without anything to compare gets NaN, which evaluation leaves out.
Where a function takes a root, None says that both sides are at their roots already.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hpse_dist.geometry.procrustes import align

MM_PER_METRE = 1000.0


def mpjpe(
    predicted: Tensor, true: Tensor, known: Tensor | None = None, root: int | None = 0
) -> Tensor:
    """(B,) mean distance of joints (B, J, 3) after both roots are put at the origin.

    known (B, J): confidence or bool, counted where above 0; NaN where the root is not known, as
    nothing is known relative to it.
    """
    predicted, true, counted = _from_root(predicted, true, known, root)
    return _masked_mean(_distances(predicted, true), counted)


def n_mpjpe(
    predicted: Tensor, true: Tensor, known: Tensor | None = None, root: int | None = 0
) -> Tensor:
    """(B,) `mpjpe` after the prediction is scaled to fit: Rhodin et al., ECCV 2018.

    The scale is the one of least squared error, sum of p . t over sum of p . p; a prediction that
    is a single place has none and stays there.
    """
    predicted, true, counted = _from_root(predicted, true, known, root)
    mine, there = (x.where(counted[..., None], 0.0).flatten(1) for x in (predicted, true))
    size = (mine * mine).sum(1)
    scale = (mine * there).sum(1) / size.where(size > 0, 1.0)
    return _masked_mean(_distances(scale[:, None, None] * predicted, true), counted)


def pck3d(
    predicted: Tensor,
    true: Tensor,
    known: Tensor | None = None,
    root: int | None = 0,
    limit_mm: float = 150.0,
) -> Tensor:
    """(B,) percent of joints (B, J, 3) nearer than a limit, both roots at the origin.

    150 mm is MPI-INF-3DHP's (Mehta et al., 3DV 2017).
    """
    predicted, true, counted = _from_root(predicted, true, known, root)
    near = (_distances(predicted, true) < limit_mm).to(predicted.dtype)
    return 100 * _masked_mean(near, counted)


def auc3d(
    predicted: Tensor, true: Tensor, known: Tensor | None = None, root: int | None = 0
) -> Tensor:
    """(B,) mean of PCK over the thresholds 0, 5, ... 150 mm, in percent, as MPI-INF-3DHP's script.

    Its comparison is `<`, so exact joints would miss the threshold 0 and have 96.8; here an error
    of exactly zero counts, which changes no other figure.
    """
    predicted, true, counted = _from_root(predicted, true, known, root)
    distance = _distances(predicted, true)
    limits = torch.linspace(0.0, 150.0, 31, dtype=distance.dtype, device=distance.device)
    within = (distance[..., None] < limits) | (distance[..., None] == 0.0)
    return 100 * _masked_mean(within.to(distance.dtype).mean(-1), counted)


def pa_mpjpe(predicted: Tensor, true: Tensor, known: Tensor | None = None) -> Tensor:
    """(B,) mean distance of joints (B, J, 3) after the best similarity, as HMR2 and SPIN define it.

    known as for `mpjpe`; NaN where fewer than three joints are, since those fit anything.
    """
    kind = predicted.dtype
    predicted, true = predicted.double(), true.double()
    if known is None:
        return _distances(align(predicted, true), true).mean(dim=1).to(kind)
    counted = known > 0
    enough = counted.sum(dim=1) >= 3
    weights = torch.where(enough[:, None], counted, True).double()
    # A joint that is not counted may hold anything, NaN included; it must not touch the alignment.
    predicted, true = (side.where(counted[..., None], 0.0) for side in (predicted, true))
    distance = _distances(align(predicted, true, weights), true)
    return _masked_mean(distance, counted & enough[:, None]).to(kind)


def pve(predicted: Tensor, true: Tensor, predicted_root: Tensor, true_root: Tensor) -> Tensor:
    """(B,) mean distance of vertices (B, V, 3), each mesh seen from its own root (B, 3).

    The root is the mesh's own regressed pelvis.
    """
    distance = _distances(predicted - predicted_root[:, None], true - true_root[:, None])
    return distance.mean(dim=1)


def pa_pve(predicted: Tensor, true: Tensor) -> Tensor:
    """(B,) mean distance of vertices (B, V, 3) after the similarity that fits the vertices best."""
    return pa_mpjpe(predicted, true)


def _from_root(
    predicted: Tensor, true: Tensor, known: Tensor | None, root: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Both joint sets from their roots, and which joints (B, J) count."""
    counted = torch.ones_like(predicted[..., 0], dtype=torch.bool) if known is None else known > 0
    if root is None:
        return predicted, true, counted
    counted = counted & counted[:, root, None]
    return predicted - predicted[:, root, None], true - true[:, root, None], counted


def _distances(predicted: Tensor, true: Tensor) -> Tensor:
    return torch.linalg.vector_norm(predicted - true, dim=-1) * MM_PER_METRE


def _masked_mean(values: Tensor, counted: Tensor) -> Tensor:
    """(B,) mean of values (B, N) where counted, NaN where nothing is."""
    count = counted.sum(dim=1)
    total = values.where(counted, 0.0).sum(dim=1)
    return (total / count.clamp(min=1)).where(count > 0, math.nan)
