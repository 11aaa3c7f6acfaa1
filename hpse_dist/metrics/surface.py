"""Errors of part maps and surface coordinates, one number per example, in percent."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def part_iou(predicted: Tensor, true: Tensor, num_parts: int) -> Tensor:
    """(B,) intersection over union, mean over the parts 1..num_parts that the true map shows.

    predicted, true (B, H, W) int64, 0 the background; NaN where no part is shown.
    """
    batch, classes = len(true), num_parts + 1
    both = torch.zeros(batch, classes * classes, device=true.device)
    cell = (true * classes + predicted).flatten(1)
    both.scatter_add_(1, cell, torch.ones_like(cell, dtype=both.dtype))
    both = both.view(batch, classes, classes)
    hit = both.diagonal(dim1=1, dim2=2)
    union = both.sum(1) + both.sum(2) - hit
    shown = both.sum(2) > 0
    shown[:, 0] = False
    count = shown.sum(1)
    return (
        100 * (hit / union.clamp(min=1)).where(shown, 0.0).sum(1) / count.where(count > 0, math.nan)
    )


def person_iou(predicted: Tensor, true: Tensor) -> Tensor:
    """(B,) intersection over union of person and background: maps (B, H, W), 0 the background."""
    mine, there = predicted.flatten(1) > 0, true.flatten(1) > 0
    union = (mine | there).sum(1)
    return 100 * (mine & there).sum(1) / union.where(union > 0, math.nan)


def share_of(right: Tensor, among: Tensor) -> Tensor:
    """(B,) percent of the cells `among` that are `right`, both (B, H, W) bool; NaN without any."""
    count = among.flatten(1).sum(1)
    return 100 * (right & among).flatten(1).sum(1) / count.where(count > 0, math.nan)
