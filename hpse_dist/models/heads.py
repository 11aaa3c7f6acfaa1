"""Heads that read an encoder's tokens."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from hpse_dist.models.blocks import CrossAttention, Mlp, init_weights, layer_norm
from hpse_dist.models.positions import Grid, sincos_table


class QueryBlock(nn.Module):
    """A query looks at the tokens, then thinks: cross-attention and MLP, each pre-norm."""

    def __init__(self, dim: int, memory_dim: int, heads: int, head_dim: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = layer_norm(dim)
        self.cross_attn = CrossAttention(dim, heads, memory_dim, head_dim)
        self.norm2 = layer_norm(dim)
        self.mlp = Mlp(dim, hidden)

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        """query (B, 1, C), memory (B, N, Cm) -> (B, 1, C)."""
        query = query + self.cross_attn(self.norm1(query), memory)
        return query + self.mlp(self.norm2(query))


class QueryHead(nn.Module):
    """One learned query through a small transformer decoder over the encoder's tokens.

    After HMR 2.0 (Goel et al., ICCV 2023). With one query its self-attention is the attention of a
    token to itself, whose scores change nothing, so there is none here. A fixed table of positions
    is added to the tokens: those of an encoder with rotary positions say what is there and where
    other things are from there, but not where in the picture that is.
    """

    def __init__(
        self, memory_dim: int, dim: int, depth: int, heads: int, head_dim: int, hidden: int
    ) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(1, 1, dim))
        self.blocks = nn.ModuleList(
            QueryBlock(dim, memory_dim, heads, head_dim, hidden) for _ in range(depth)
        )
        self.norm = layer_norm(dim)
        init_weights(self.modules())
        nn.init.normal_(self.query, std=0.02)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """What the query has read: tokens (B, kN, C), k times the N of rows and columns `grid`, one
        set after the other -> (B, dim)."""
        sets = tokens.shape[1] // (grid[0] * grid[1])
        tokens = tokens + fixed_positions(grid, tokens).repeat(1, sets, 1)
        x = self.query.expand(len(tokens), -1, -1)
        for block in self.blocks:
            x = block(x, tokens)
        return self.norm(x)[:, 0]


def fixed_positions(grid: Grid, tokens: Tensor) -> Tensor:
    """The fixed table (1, N, C) of a grid, for tokens (B, N, C): on their device, of their type."""
    return _table(grid, tokens.shape[-1], tokens.device).to(tokens.dtype)


class GridHead(nn.Module):
    """Tokens brought to a few cells along each side, each cell with weights of its own, and an MLP:
    where something is in the picture counts from the first step on, as in a fully connected head
    over a last feature map. A query has to learn that first."""

    def __init__(self, memory_dim: int, dim: int, cells: int = 4) -> None:
        super().__init__()
        self.cells = cells
        self.norm = layer_norm(memory_dim)
        self.fc1 = nn.Linear(cells * cells * memory_dim, dim)
        self.fc2 = nn.Linear(dim, dim)
        init_weights(self.modules())

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """tokens (B, N, C) of rows and columns `grid` -> (B, dim)."""
        cells = self.norm(tokens).transpose(1, 2).unflatten(2, grid)
        cells = nn.functional.adaptive_avg_pool2d(cells, self.cells)
        return self.fc2(nn.functional.gelu(self.fc1(cells.flatten(1))))


@lru_cache(maxsize=16)
def _table(grid: Grid, dim: int, device: torch.device) -> Tensor:
    return sincos_table(grid, dim).to(device)
