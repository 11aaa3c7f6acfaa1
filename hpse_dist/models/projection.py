"""Heads that take tokens to where pictures are compared, and moving averages of networks."""

from __future__ import annotations

import copy
import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hpse_dist.models.drop_path import DropPath
from hpse_dist.models.encoder import Encoder


def pooled(tokens: Tensor) -> Tensor:
    """Global average pooling: (B, N, C) -> (B, C)."""
    return tokens.mean(1)


class Projection(nn.Module):
    """Linear layers with ReLU between, on the last dimension; no batch statistics."""

    def __init__(self, dim: int, hidden: int, out: int, layers: int = 2) -> None:
        super().__init__()
        sizes = [dim, *[hidden] * (layers - 1), out]
        pairs = itertools.pairwise(sizes)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairs)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., out)."""
        for layer in list(self.layers)[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class PrototypeHead(nn.Module):
    """DINO's head: three layers with GELU to a unit vector, then its cosine to every prototype."""

    def __init__(self, dim: int, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.prototypes = nn.Parameter(torch.randn(prototypes, bottleneck))

    def embed(self, x: Tensor) -> Tensor:
        """(B, C) -> (B, bottleneck) of length 1."""
        return F.normalize(self.mlp(x), dim=-1)

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """(B, C) -> (B, K) cosines; `frozen`: no gradient to the prototypes."""
        rows = F.normalize(self.prototypes.detach() if frozen else self.prototypes, dim=-1)
        return F.linear(self.embed(x), rows)


def frozen_copy(module: nn.Module) -> nn.Module:
    """A copy that no optimizer moves; without stochastic depth, as its outputs are targets."""
    twin = copy.deepcopy(module).requires_grad_(False)
    for part in twin.modules():
        if isinstance(part, Encoder):
            part.drop_path = 0.0
        elif isinstance(part, DropPath):
            part.rate = 0.0
    return twin


@torch.no_grad()
def follow(twin: nn.Module, module: nn.Module, momentum: float) -> None:
    """twin = momentum * twin + (1 - momentum) * module, parameter by parameter.

    Buffers such as batch statistics stay the twin's own.
    """
    for mine, theirs in zip(twin.parameters(), module.parameters(), strict=True):
        mine.lerp_(theirs.detach().to(mine.dtype), 1.0 - momentum)


@torch.no_grad()
def follow_statistics(twin: nn.Module, module: nn.Module, momentum: float) -> None:
    """The same for batch norms' running mean and variance.

    At first they are plain averages over the calls so far: what norms start with, 0 and 1, is of no
    network.
    """
    norms = zip(twin.modules(), module.modules(), strict=True)
    for mine, theirs in norms:
        if not isinstance(mine, _BatchNorm) or mine.running_mean is None:
            continue
        assert isinstance(theirs, _BatchNorm) and mine.num_batches_tracked is not None
        assert mine.running_var is not None
        assert theirs.running_mean is not None and theirs.running_var is not None
        mine.num_batches_tracked += 1
        share = (1.0 / mine.num_batches_tracked).clamp(min=1.0 - momentum)
        mine.running_mean.lerp_(theirs.running_mean, share)
        mine.running_var.lerp_(theirs.running_var, share)
