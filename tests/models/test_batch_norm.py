"""Batch norms that judge one kind of picture and learn from another."""

from __future__ import annotations

import torch
from torch import nn

from hpse_dist.models.batch_norm import over_all_ranks, unfollowed


def test_statistics_stay_within_and_are_followed_again_after() -> None:
    module = over_all_ranks(nn.Sequential(nn.BatchNorm2d(3)))
    norm = module[0]
    x = torch.randn(4, 3, 5, 5) + 7.0
    with unfollowed(module):
        y = module(x)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    assert not norm.running_mean.any() and norm.running_var.eq(1).all()
    module(x)
    assert norm.running_mean.min() > 0.5
