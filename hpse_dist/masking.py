"""Which patches are hidden, cutting pictures into patches, and the pixels to be predicted.

A mask is True where hidden. Every sample of a batch hides the same number of patches, so tensors
stay rectangular; which ones is a pure function of (seed, epoch, sample id), see `draws`.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from hpse_dist import draws

CountRule = Literal["round", "floor"]


def num_hidden(num_patches: int, ratio: float, rule: CountRule = "round") -> int:
    """How many of a picture's patches are hidden: the share rounded, or cut off as in CroCo."""
    exact = ratio * num_patches
    # the tiny term undoes 0.85 * 200 = 169.99999999999997 and its like
    return math.floor(exact + (0.5 if rule == "round" else 0.0) + 1e-9)


def hidden_patches(
    person: Tensor | None,
    ratio: float,
    person_ratio: float | None,
    seed: int,
    epoch: int | Tensor,
    sample_id: Tensor,
    *,
    grid: tuple[int, int],
    person_min: float = 0.1,
    rule: CountRule = "round",
) -> Tensor:
    """A mask per sample, focused on the person: (B, N) bool, the same count True in every row.

    `person` (B, h, w) is the share of each patch that the person covers; patches with at least
    `person_min` are the foreground. Of these `person_ratio` is hidden, drawn first; the rest of the
    budget of ratio * N comes from the background. Where one side has too few patches the other
    gives more, so the total is exact for an empty, a tiny and a full foreground alike. Without
    `person` or `person_ratio`, and for a row without foreground, the mask is uniform.

    Raises ValueError where `person` is not on the patch grid.
    """
    num_patches = grid[0] * grid[1]
    total = num_hidden(num_patches, ratio, rule)
    keys = draws.uniform(seed, "mask", epoch, sample_id, num_patches)
    if person is None or person_ratio is None:
        return _rank(keys) < total
    if tuple(person.shape[1:]) != tuple(grid):
        raise ValueError(
            f"person: its grid is {tuple(person.shape[1:])} and the patches' is {tuple(grid)}; "
            "the loader must be given the encoder's image_px and patch_px"
        )
    front = person.flatten(1) >= person_min
    num_front = front.sum(1, keepdim=True)
    from_front = torch.round(num_front * person_ratio).to(torch.int64)
    from_front = torch.maximum(from_front, total - (num_patches - num_front)).clamp(max=total)
    # one ranking serves both groups: keys are in [0, 1), so +1 puts the background behind
    rank = _rank(torch.where(front, keys, keys + 1.0))
    return torch.where(front, rank < from_front, rank - num_front < total - from_front)


def _rank(keys: Tensor) -> Tensor:
    """Place of each key in its row's ascending order, (B, N); ties by index, so it is exact."""
    order = keys.argsort(dim=1, stable=True)
    places = torch.arange(keys.shape[1], device=keys.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def split(hidden: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Indices of visible and of hidden patches, each ascending: (B, N) bool -> (B, N-L), (B, L).

    `count` is L, the number hidden in every row: given, so that nothing waits for the device.
    """
    order = hidden.to(torch.uint8).argsort(dim=1, stable=True)
    boundary = hidden.shape[1] - count
    return order[:, :boundary], order[:, boundary:]


def patchify(image: Tensor, patch_px: int) -> Tensor:
    """Cuts pictures into patches, row by row: (B, 3, H, W) -> (B, N, 3pp), channel, row, column."""
    p = patch_px
    patches = image.unflatten(3, (-1, p)).unflatten(2, (-1, p))  # (B, 3, h, p, w, p)
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, grid: tuple[int, int], patch_px: int) -> Tensor:
    """The inverse of `patchify`: (B, N, 3pp) -> (B, 3, H, W)."""
    p = patch_px
    image = patches.unflatten(2, (3, p, p)).unflatten(1, grid)  # (B, h, w, 3, p, p)
    return image.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def pixel_targets(patches: Tensor, normalise: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """What is to be predicted: patches (B, N, 3pp) -> targets (B, N, 3pp), mean and std (B, N, 1).

    Each patch is standardised by its own mean and unbiased variance, (x - mean) / sqrt(var + 1e-6),
    as in MAE; without `normalise` the mean is 0 and the std is 1. target * std + mean is the patch.
    """
    patches = patches.float()
    if not normalise:
        zero = patches.new_zeros(*patches.shape[:2], 1)
        return patches, zero, zero + 1.0
    mean = patches.mean(dim=-1, keepdim=True)
    centred = patches - mean  # var_mean takes longer on a CPU
    variance = centred.square().sum(dim=-1, keepdim=True) / (patches.shape[-1] - 1)
    std = (variance + 1e-6).sqrt()
    return centred / std, mean, std
