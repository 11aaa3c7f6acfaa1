"""Maps over a picture, made of an encoder's tokens, and the gaussians that joints leave on them."""

from __future__ import annotations

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
