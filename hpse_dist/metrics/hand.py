"""FreiHAND's figures of joints and meshes: its alignment, its area under the curve, its F-score.

Zimmermann et al., ICCV 2019, as the benchmark's evaluation defines them. Inputs are in metres, one
number per example.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hpse_dist.metrics.pose3d import MM_PER_METRE

CURVE_MM = 50.0  # FreiHAND's curves reach from 0 to 50 mm
CURVE_POINTS = 100
_ROUNDING_MM = 1e-4
_TINY = 1e-8  # the benchmark's guard against a size of zero


def freihand_align(predicted: Tensor, true: Tensor) -> Tensor:
    """The points (B, N, 3) brought near to the true ones, MIRROR IMAGES ALLOWED, as FreiHAND does.

    Both sets are centred and brought to unit size; the orthogonal matrix that fits best (its
    determinant may be -1) and the sum of singular values as scale. A hand predicted as the other
    hand thus has no error after it: `geometry.procrustes.align` tells them apart. A prediction that
    is no number stays none.
    """
    dtype = torch.promote_types(predicted.dtype, true.dtype)
    predicted, true = predicted.double(), true.double()  # which autocast leaves as it is
    centre, middle = true.mean(1, keepdim=True), predicted.mean(1, keepdim=True)
    there, mine = true - centre, predicted - middle
    size = torch.linalg.matrix_norm(there)[:, None, None] + _TINY
    there, mine = there / size, mine / (torch.linalg.matrix_norm(mine)[:, None, None] + _TINY)
    both = there.mT @ mine
    lost = ~both.isfinite().flatten(1).all(1)[:, None, None]  # one such hand would end the run
    u, singular, vt = torch.linalg.svd(both.masked_fill(lost, 0.0))
    turned = mine @ (u @ vt).mT
    return (turned * singular.sum(-1)[:, None, None] * size + centre).to(dtype)


def distance_mm(predicted: Tensor, true: Tensor) -> Tensor:
    """(B,) mean distance of points (B, N, 3) as they are, in millimetres."""
    return _distances(predicted, true).mean(1)


def curve_area(predicted: Tensor, true: Tensor) -> Tensor:
    """(B,) area under the curve of points within 0..50 mm, in percent.

    FreiHAND's: PCK at 100 thresholds, a point on a threshold is within it, by the trapezoid rule.
    The rule is linear, so the mean over examples is the area of the mean curve. What is left of a
    distance of zero after alignment counts as zero, or exact points would have 99.5.
    """
    distance = _distances(predicted, true)
    distance = distance.where(distance > _ROUNDING_MM, 0.0)
    limits = torch.linspace(0.0, CURVE_MM, CURVE_POINTS, dtype=torch.float64)
    first = torch.searchsorted(limits.to(distance), distance.contiguous())  # thresholds too small
    within = CURVE_POINTS - first
    # a curve that steps from 0 to 1 has half an interval less than it has points, save a full one
    area = (within - 0.5).clamp(min=0.0).where(first > 0, CURVE_POINTS - 1.0) / (CURVE_POINTS - 1)
    return 100 * area.to(distance.dtype).mean(1)


def f_score(predicted: Tensor, true: Tensor, limit_mm: float) -> Tensor:
    """(B,) harmonic mean of precision and recall of surface points, in percent.

    predicted (B, N, 3), true (B, M, 3): a point is right if any point of the other set is nearer
    than the limit (Knapitsch et al., 2017).
    """
    apart = torch.cdist(predicted, true, compute_mode="donot_use_mm_for_euclid_dist")
    apart = apart * MM_PER_METRE
    precision = (apart.amin(2) < limit_mm).to(apart.dtype).mean(1)
    recall = (apart.amin(1) < limit_mm).to(apart.dtype).mean(1)
    both = precision + recall
    return 100 * 2 * precision * recall / both.where(both > 0, 1.0)


def _distances(predicted: Tensor, true: Tensor) -> Tensor:
    return (predicted - true).norm(dim=-1) * MM_PER_METRE
