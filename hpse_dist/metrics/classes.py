"""Figures of classification."""

from __future__ import annotations

import torch
from torch import Tensor


def accuracy(predicted: Tensor, true: Tensor) -> Tensor:
    """(B,) 100 where the class (B,) is right, 0 elsewhere."""
    return 100 * (predicted == true).float()


def macro_f1(predicted: Tensor, true: Tensor) -> float:
    """Percent: the F1 of every class that is predicted or true, (N,) int each, and their mean.

    A figure of a whole set: a mean over examples, or over batches, would be another number.
    """
    classes = torch.unique(torch.cat((predicted, true)))
    mine, there = predicted[:, None] == classes, true[:, None] == classes
    hit = (mine & there).sum(0).double()
    return float(100 * (2 * hit / (mine.sum(0) + there.sum(0))).mean())
