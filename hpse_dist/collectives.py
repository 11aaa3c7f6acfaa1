"""What every rank holds a part of; without a process group each is its own whole."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def num_ranks() -> int:
    """Ranks that take part; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_objects(value: Any) -> list[Any]:
    """Every rank's value, in rank order, on every rank; values are small. Collective."""
    values: list[Any] = [value] * num_ranks()
    if num_ranks() > 1:
        dist.all_gather_object(values, value)
    return values


def gather_rows(x: Tensor) -> Tensor:
    """The rows of all ranks in rank order, without gradient: (n, ...) -> (ranks * n, ...).

    Collective; every rank brings as many rows.
    """
    x = x.detach()
    if num_ranks() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(num_ranks())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def gather_rows_with_gradient(x: Tensor) -> Tensor:
    """As `gather_rows`, and gradients flow back to the rank that a row came from.

    A row's gradient is the sum of what the losses of all ranks say of it. With an engine that
    averages gradients over ranks, the mean over ranks of each rank's loss has the gradient of one
    rank that holds all rows.
    """
    return x if num_ranks() == 1 else _GatherRows.apply(x)


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum over ranks, without gradient; collective."""
    x = x.detach().clone()
    if num_ranks() > 1:
        dist.all_reduce(x)
    return x


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        return gather_rows(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        start = dist.get_rank() * ctx.rows
        return sum_over_ranks(gradients[0].contiguous())[start : start + ctx.rows]
