"""Stochastic depth (Huang et al., ECCV 2016) with draws keyed by sample, not by a generator.

What is left out for a sample in an epoch is then the same on any number of ranks, in any split into
micro-batches, and after a resume.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hpse_dist.draws import uniform


class DropKeys:
    """Whose branches are drawn: set before a forward pass, read by every drop path of an encoder.

    Without keys, as in an encoder used on its own, the draws come from torch's generator.
    """

    def __init__(self) -> None:
        self._seed = 0
        self._epoch: Tensor | None = None
        self._ids: Tensor | None = None
        self._calls = 0

    def set(self, seed: int, epoch: Tensor, sample_ids: Tensor) -> None:
        """The rows of the batch to come, (B,) both."""
        self._seed, self._epoch, self._ids, self._calls = seed, epoch, sample_ids, 0

    def draw(self, rows: int, count: int, device: torch.device) -> Tensor:
        """(rows, count) in [0, 1), other ones at every call; rows may be the batch several times
        over, as with several views of each picture."""
        if self._ids is None or self._epoch is None or rows % len(self._ids):
            return torch.rand(rows, count, device=device)
        times = rows // len(self._ids)
        stream = f"drop_path.{self._calls}"
        self._calls += 1
        drawn = uniform(self._seed, stream, self._epoch, self._ids, times * count).to(device)
        return drawn.unflatten(1, (times, count)).transpose(0, 1).flatten(0, 1)


def dropped(branch: Tensor, kept: Tensor | None) -> Tensor:
    """A residual branch with whole samples left out: branch (B, ...), kept (B,) factors, 0 or
    1 / (1 - rate), so that the expectation stays."""
    if kept is None:
        return branch
    return branch * kept.to(branch.dtype).view(-1, *[1] * (branch.ndim - 1))


def keep_factors(draw: Tensor, rate: float) -> Tensor:
    """Draws in [0, 1) -> factors of `dropped`, same shape."""
    return (draw >= rate).float() / (1.0 - rate)


class DropPath(nn.Module):
    """In the place of timm's own drop path; its factors come from the encoder's keys."""

    def __init__(self, rate: float, keys: DropKeys) -> None:
        super().__init__()
        self.rate, self.keys = rate, keys

    def forward(self, branch: Tensor) -> Tensor:
        """(B, ...) -> same shape."""
        if not self.training or self.rate == 0.0:
            return branch
        draw = self.keys.draw(len(branch), 1, branch.device)[:, 0]
        return dropped(branch, keep_factors(draw, self.rate))
