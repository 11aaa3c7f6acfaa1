"""Where a token is: grid coordinates, sine-cosine tables and their resampling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]
"""Rows and columns of patches."""


def grid_positions(grid: Grid, device: torch.device | None = None) -> Tensor:
    """Row and column of every patch, row by row: (1, N, 2) int64."""
    rows, columns = torch.arange(grid[0], device=device), torch.arange(grid[1], device=device)
    return torch.cartesian_prod(rows, columns).unsqueeze(0)


def sincos_table(grid: Grid, dim: int) -> Tensor:
    """Fixed 2D sine-cosine positions: (1, N, dim) float32, rows in the first half of the channels.

    Per axis: sin and cos of position * 10000^(-2i/d), d = dim/2 (Vaswani et al. 2017, eq. 3.5).
    """
    frequencies = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    angles = grid_positions(grid).double()[..., None] * frequencies  # (1, N, 2, dim/4)
    return torch.stack((angles.sin(), angles.cos()), dim=-2).flatten(-3).float()


def resample(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """A position table (1, N, C) for another grid, bicubic; the same table if the grid is."""
    if old == new:
        return table
    square = table.unflatten(1, old).permute(0, 3, 1, 2)
    square = F.interpolate(square, size=new, mode="bicubic", antialias=True, align_corners=False)
    return square.flatten(2).transpose(1, 2)
