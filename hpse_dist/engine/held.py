"""What a process holds for training: the tensors behind the weights and the optimizer's state."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def held_whole(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, list[Tensor]]:
    """Of a rank that holds everything whole."""
    parameters = list(module.parameters())
    return {
        "weights": [*parameters, *module.buffers()],
        "gradients": [p.grad for p in parameters if p.grad is not None],
        "optimizer": moments_of(optimizer),
        "away": [],
    }


def moments_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """All tensors of an optimizer's state."""
    states = optimizer.state.values()
    return [value for state in states for value in state.values() if isinstance(value, Tensor)]
