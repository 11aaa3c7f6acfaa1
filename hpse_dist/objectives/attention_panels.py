"""Where in the second picture a hidden patch of the first looks, as pictures."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hpse_dist.models.positions import Grid, grid_positions
from hpse_dist.objectives.base import TILE_PX, to_rgb

# Places of the patches that are asked, in a person's crop about the head, the hips and the feet.
PLACES = ((0.2, 0.5), (0.5, 0.5), (0.8, 0.5))
COLOURS = ((1.0, 0.25, 0.2), (0.2, 0.8, 0.3), (0.3, 0.5, 1.0))
ATTENTION_COLUMNS = ("hidden patches asked", "red looks at", "green looks at", "blue looks at")


def asked_patches(hidden: Tensor, grid: Grid) -> Tensor:
    """The hidden patch nearest to each of PLACES: hidden (B, L) -> (B, 3) patch numbers."""
    centres = (grid_positions(grid, hidden.device)[0].float() + 0.5) / torch.tensor(
        grid, device=hidden.device
    )
    places = torch.tensor(PLACES, device=hidden.device)
    apart = torch.cdist(centres[hidden], places.expand(len(hidden), -1, -1))  # (B, L, 3)
    return hidden.gather(1, apart.argmin(1))


def attention_rows(
    image: Tensor, reference: Tensor, hidden: Tensor, weights: Tensor, grid: Grid
) -> list[list[Tensor]]:
    """Tiles of a sheet with ATTENTION_COLUMNS, one row a sample.

    image, reference (B, 3, H, W) normalised; hidden (B, L) patch numbers; weights (B, N, M) of
    every patch of the image on those of the reference, whose grid is the same.
    """
    asked = asked_patches(hidden, grid)
    pictures, others = (_enlarged(to_rgb(one)) for one in (image, reference))
    rows = []
    for row, (picture, other) in enumerate(zip(pictures, others, strict=True)):
        tiles = [_marked(picture, asked[row].tolist(), grid)]
        for patch, colour in zip(asked[row].tolist(), COLOURS, strict=True):
            tiles.append(_lit(other, weights[row, patch].unflatten(0, grid), colour))
        rows.append(tiles)
    return rows


def _enlarged(pictures: Tensor) -> Tensor:
    size = (TILE_PX, TILE_PX)
    return F.interpolate(pictures, size, mode="bilinear", align_corners=False)


def _marked(picture: Tensor, patches: list[int], grid: Grid) -> Tensor:
    """A frame in its colour around each patch."""
    picture = picture.clone()
    high, wide = TILE_PX / grid[0], TILE_PX / grid[1]
    for patch, colour in zip(patches, COLOURS, strict=True):
        top, left = patch // grid[1] * high, patch % grid[1] * wide
        bottom, right = round(top + high), round(left + wide)
        frame = torch.zeros(TILE_PX, TILE_PX, dtype=torch.bool, device=picture.device)
        frame[round(top) : bottom, round(left) : right] = True
        frame[round(top) + 2 : bottom - 2, round(left) + 2 : right - 2] = False
        picture[:, frame] = picture.new_tensor(colour)[:, None]
    return picture


def _lit(picture: Tensor, weights: Tensor, colour: tuple[float, float, float]) -> Tensor:
    """The picture in grey, coloured where the weights (h, w) are; the largest is full colour."""
    heat = weights.float() / weights.max().clamp(min=1e-9)
    heat = F.interpolate(heat[None, None], (TILE_PX, TILE_PX), mode="bilinear")[0]
    grey = picture.mean(0, keepdim=True).expand(3, -1, -1) * 0.7
    return grey * (1 - 0.8 * heat) + 0.8 * heat * picture.new_tensor(colour)[:, None, None]
