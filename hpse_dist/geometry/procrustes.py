"""The similarity (scale, rotation, translation) that brings one point set nearest to another."""

from __future__ import annotations

import torch
from torch import Tensor

from hpse_dist.precision import in_full_precision


@in_full_precision
def similarity(
    source: Tensor, target: Tensor, weights: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Scale (B,), rotation (B, 3, 3), translation (B, 3): least sum_i w_i |s R x_i + t - y_i|^2.

    source, target: (B, N, 3); weights (B, N) >= 0, not all zero. Umeyama, PAMI 1991; the rotation
    is proper (determinant +1): a mirror image is not an alignment. A source that is a single place
    has no scale; it gets 0, which puts it at the target's mean.
    """
    import roma  # late, see `rotations`

    scale: Tensor
    rotation, transl, scale = roma.rigid_points_registration(
        source, target, weights, compute_scaling=True
    )
    single_place = ~torch.isfinite(scale)
    if weights is None:
        mean = target.mean(dim=-2)
    else:
        mean = (target * weights[..., None]).sum(-2) / weights.sum(-1, keepdim=True)
    transl = torch.where(single_place[..., None], mean, transl)
    return scale.masked_fill(single_place, 0.0), rotation, transl


@in_full_precision
def align(source: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """The source (B, N, 3) after the similarity that brings it nearest to the target."""
    scale, rotation, transl = similarity(source, target, weights)
    return scale[..., None, None] * source @ rotation.transpose(-1, -2) + transl[..., None, :]
