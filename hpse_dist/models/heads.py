"""Heads that read an encoder's tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hpse_dist.constants import kept
from hpse_dist.models.blocks import CrossAttention, Mlp, init_weights, layer_norm
from hpse_dist.models.positions import Grid, sincos_table
from hpse_dist.precision import in_full_precision


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


class JointHead(nn.Module):
    """Looks at the tokens once for each joint, then thinks: the mean place of a joint's look is a
    guess of where it is in the picture, which can be taught, and what was read there is the MLP's.

    A head that finds joints first learns poses from a fraction of the pictures that a fully
    connected one over the whole map wants.
    """

    def __init__(self, memory_dim: int, dim: int, num_joints: int, read_dim: int = 32) -> None:
        """dim: of the MLP; read_dim: numbers read for each joint."""
        super().__init__()
        self.look = nn.Linear(memory_dim, num_joints)
        self.read = nn.Linear(memory_dim, read_dim)
        self.fc1 = nn.Linear(num_joints * (2 + read_dim), dim)
        self.fc2 = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """tokens (B, N, C) of rows and columns `grid` -> (B, dim), and places (B, J, 2), x and y in
        0..1 of the picture."""
        rows, columns = ((torch.arange(side, device=tokens.device) + 0.5) / side for side in grid)
        cells = torch.stack(
            (columns.repeat(len(rows)), rows.repeat_interleave(len(columns))), dim=1
        )
        looks = self.look(tokens).float().softmax(dim=1).mT  # (B, J, N)
        places = _mean_places(looks, cells)
        found = torch.cat((4 * (places - 0.5), looks @ self.read(tokens).float()), dim=2)
        return nn.functional.gelu(self.fc2(nn.functional.gelu(self.fc1(found.flatten(1))))), places


@in_full_precision
def _mean_places(looks: Tensor, cells: Tensor) -> Tensor:
    """Where looks (B, J, N) of sum 1 are at cells (N, 2) on average: (B, J, 2)."""
    return looks @ cells


@kept
def _table(grid: Grid, dim: int, device: torch.device) -> Tensor:
    return sincos_table(grid, dim).to(device)
