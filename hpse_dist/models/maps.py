"""Maps over a picture, made of an encoder's tokens, and the gaussians that joints leave on them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hpse_dist.models.positions import Grid


class MapHead(nn.Module):
    """Tokens to maps, `enlarge` cells to a patch."""

    def __init__(self, memory_dim: int, dim: int, channels: int, enlarge: int) -> None:
        super().__init__()
        self.widen = nn.ConvTranspose2d(memory_dim, dim, enlarge, enlarge)
        self.mix = nn.Conv2d(dim, dim, 3, padding=1)
        self.last = nn.Conv2d(dim, channels, 1)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """tokens (B, N, C) of rows and columns `grid` -> (B, channels, h, w)."""
        x = tokens.transpose(1, 2).unflatten(2, grid)
        x = torch.nn.functional.gelu(self.widen(x))
        return self.last(torch.nn.functional.gelu(self.mix(x)))


def gaussian_maps(places: Tensor, shown: Tensor, size: Grid, sigma: float) -> Tensor:
    """places (B, P, J, 2) 0..1, shown (B, P, J) -> (B, J, h, w)."""
    h, w = size
    x = places[..., 0, None] * w - 0.5 - torch.arange(w, device=places.device)
    y = places[..., 1, None] * h - 0.5 - torch.arange(h, device=places.device)
    gx, gy = (torch.exp(-v.square() / (2 * sigma**2)) for v in (x, y))
    gx = gx * shown[..., None]
    return (gy[..., :, None] * gx[..., None, :]).amax(1)


def peaks(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Where each map is highest, and how high: (..., h, w) -> (..., 2) 0..1 and (...).

    The highest cell, moved on each axis by at most half a cell to the top of the parabola through
    the logarithms of it and its two neighbours: exact for a gaussian (as in DARK, Zhang et al.,
    CVPR 2020, along the axes). A cell at the border lacks a neighbour: there the parabola is that
    of the three cells nearest to the border, which is as exact.
    """
    h, w = maps.shape[-2:]
    flat = maps.flatten(-2)
    height, index = flat.max(-1)
    row, column = index // w, index % w
    around = flat.clamp(min=1e-6).log()

    def top(at: Tensor, first: Tensor, step: int, size: int) -> Tensor:
        middle = at.clamp(max=size - 2).clamp(min=1)
        cells = (middle[..., None] + torch.arange(-1, 2, device=at.device)).clamp(max=size - 1)
        before, here, after = around.gather(-1, first[..., None] + step * cells).unbind(-1)
        bend = before - 2 * here + after
        offset = 0.5 * (before - after) / bend.where(bend < 0, 1.0)
        found = torch.where(bend < -1e-6, middle + offset, at)  # where it is flat: the cell
        return (found - at).clamp(-0.5, 0.5) + at

    x, y = top(column, row * w, 1, w), top(row, column, w, h)
    return torch.stack(((x + 0.5) / w, (y + 0.5) / h), dim=-1), height


def cells_per_patch(patch_px: int, cell_px: int) -> int:
    """Cells of a map to a patch of the encoder, along one side."""
    if patch_px % cell_px:
        raise ValueError(f"cell_px must divide the encoder's patch, {patch_px} px; found {cell_px}")
    return patch_px // cell_px


def checked_joints(joints: Tensor, num_joints: int) -> Tensor:
    """The labelled joints (B, J, 3), if there are as many as the recipe says."""
    if joints.shape[1] != num_joints:
        raise ValueError(
            f"joints2d: the labels have {joints.shape[1]} joints and the recipe says num_joints "
            f"{num_joints}; set num_joints to the collection's"
        )
    return joints


def in_crop(joints: Tensor) -> Tensor:
    """Which joints (..., 3) are labelled and inside the crop: (...) bool."""
    inside = ((joints[..., :2] >= 0) & (joints[..., :2] <= 1)).all(-1)
    return inside & (joints[..., 2] > 0)


def heatmap_errors(maps: Tensor, joints: Tensor, sigma: float) -> Tensor:
    """Squared error of heatmaps over the energy of one gaussian, so about 1 for empty maps: (B,).

    maps (B, J, h, w), joints (B, J, 3); a mean over a picture's joints by confidence, 0 where none
    is in the crop.
    """
    shown = in_crop(joints)
    weight = joints[..., 2] * shown
    size = (maps.shape[2], maps.shape[3])
    target = gaussian_maps(joints[:, None, :, :2], shown[:, None], size, sigma)
    error = (maps - target).square().sum((2, 3)) / (math.pi * sigma**2)
    return (error * weight).sum(1) / weight.sum(1).clamp(min=1e-6)
