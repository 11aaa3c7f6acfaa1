"""Batch norm over the pictures of all ranks, on any device.

torch's own SyncBatchNorm wants CUDA tensors. Mean and variance here are sums over ranks that
gradients flow through, so two ranks with half a batch each compute what one does with all of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn


class BatchNormOverRanks(nn.BatchNorm2d):
    """nn.BatchNorm2d by name, parameters and buffers; plain where there is one rank."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> same shape."""
        alone = not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1
        if alone or not self.training:
            return super().forward(x)
        count = torch.full((1,), x.numel() / x.shape[1], device=x.device)
        total = _Sum.apply(torch.cat((x.float().sum((0, 2, 3)), count)))
        mean = total[:-1] / total[-1]
        apart = x.float() - mean[:, None, None]
        variance = _Sum.apply(apart.square().sum((0, 2, 3))) / total[-1]
        self._follow(mean.detach(), variance.detach(), total[-1].detach())
        scale = self.weight * (variance + self.eps).rsqrt()
        return (apart * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Running statistics as torch keeps them, the variance unbiased."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        momentum = self.momentum if self.momentum is not None else 0.1
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * count / (count - 1), momentum)


class _Sum(torch.autograd.Function):
    """Sum over ranks; every rank's loss depends on every rank's terms, so gradients are summed."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def over_all_ranks(module: nn.Module) -> nn.Module:
    """The module with every BatchNorm2d over all ranks; other kinds of norm stay as they are."""
    for part in module.modules():
        if type(part) is nn.BatchNorm2d:
            part.__class__ = BatchNormOverRanks  # the same parameters, buffers and names
    return module


@contextmanager
def unfollowed(module: nn.Module) -> Iterator[None]:
    """Within, batch norms leave their running statistics alone: for pictures of another kind than
    those that the module will be judged by."""
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
