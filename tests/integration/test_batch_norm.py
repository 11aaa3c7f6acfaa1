"""Batch norm over two real ranks: outputs, gradients and statistics of the whole batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from hpse_dist.models.batch_norm import over_all_ranks

pytestmark = pytest.mark.integration


def rank_of_two(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    x = torch.load(f"{folder}/x.pt")[3 * rank : 3 * rank + 3].requires_grad_()
    norm = over_all_ranks(made())
    y = norm(x)
    weigh(y, 3 * rank).backward()
    found = {"y": y.detach(), "x": x.grad, "weight": norm.weight.grad, "bias": norm.bias.grad}
    torch.save(found | dict(norm.named_buffers()), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def made() -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(4)
    nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(1))
    return norm


def weigh(y: Tensor, start: int) -> Tensor:
    """A loss in which no two elements weigh alike: those of batch norm cancel otherwise."""
    rows = torch.arange(start, start + len(y))[:, None, None, None]
    return (y * torch.sin(7.0 * rows + torch.arange(y[0].numel()).view(y[0].shape))).sum()


def test_two_halves_are_one_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 4, 3, 5) * torch.tensor([1.0, 2.0, 0.1, 5.0]).view(4, 1, 1) + 3.0
    torch.save(x, tmp_path / "x.pt")
    torch.multiprocessing.spawn(rank_of_two, (str(tmp_path),), nprocs=2)
    one, two = torch.load(tmp_path / "0.pt"), torch.load(tmp_path / "1.pt")
    norm, x = made(), x.requires_grad_()
    y = norm(x)
    weigh(y, 0).backward()
    near = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(torch.cat((one["y"], two["y"])), y.detach(), **near)
    torch.testing.assert_close(torch.cat((one["x"], two["x"])), x.grad, **near)
    for name in ("weight", "bias"):
        torch.testing.assert_close(one[name] + two[name], getattr(norm, name).grad, **near)
    for name, buffer in norm.named_buffers():
        torch.testing.assert_close(one[name], buffer, **near)
        torch.testing.assert_close(two[name], buffer, **near)
