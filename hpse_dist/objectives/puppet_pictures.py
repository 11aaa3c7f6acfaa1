"""Pictures of a puppet, whose pose is known because it was chosen: labels that cost nothing.

The first teacher of part-guided synthesis, before its painter can paint, and later the teacher that
keeps it honest. Clothes are colours that limbs share as sleeves and trousers do; behind the puppet
stands a place without anybody: the side strips of a real picture, widened.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hpse_dist.body.joints import PART_NAMES
from hpse_dist.draws import uniform
from hpse_dist.fields import IMAGE_MEAN, IMAGE_STD
from hpse_dist.objectives.base import to_rgb

NUM_LOOKS = len(PART_NAMES)  # the parts, and the face last
_STRIP = (0.25, 0.35)  # width of a side strip over the picture's, drawn uniformly
_STOUT = (0.85, 1.25)  # radii over the body's own, drawn uniformly
_SKIN, _HAIR = (0.75, 0.55, 0.45), (0.30, 0.20, 0.12)
_CLOTH_CELLS, _LIGHT_CELLS = 24, 6  # cells of the patterns of cloth and of light


def thickness(names: Sequence[str], seed: int, epoch: int | Tensor, sample_id: Tensor) -> Tensor:
    """Factors of limbs' radii, (B, K): thin and stout people, and skirts, a quarter of them.

    names (K,): the body part of each limb, the face's last."""
    draw = uniform(seed, "puppet.thickness", epoch, sample_id, 3 + len(names))
    stout = (_STOUT[0] + (_STOUT[1] - _STOUT[0]) * draw[:, :1]) * (0.9 + 0.2 * draw[:, 3:])
    thighs = torch.tensor([name.endswith("upper_leg") for name in names], device=draw.device)
    skirt = (draw[:, 1:2] < 0.25) * 1.2 * draw[:, 2:3]
    return stout * (1 + skirt * thighs)


def puppet_pictures(
    parts: Tensor, around: Tensor, seed: int, epoch: int | Tensor, sample_id: Tensor
) -> Tensor:
    """parts (B, 1 + L + 1, n, n) as seen, background first and face last; around (B, 3, n, n)
    normalised pictures that lend their surroundings -> (B, 3, n, n) normalised."""

    def draw(name: str, *shape: int) -> Tensor:
        found = uniform(seed, f"puppet.{name}", epoch, sample_id, math.prod(shape))
        return found.view(-1, *shape)

    size = around.shape[-2:]
    looks = _looks(draw("looks", 9 + NUM_LOOKS, 3))
    person = (looks.mT @ parts[:, 1:].flatten(2)).unflatten(2, size)
    light = _spread(draw("light", 1, _LIGHT_CELLS, _LIGHT_CELLS), size, "bicubic")
    cloth = _spread(draw("cloth", 3, _CLOTH_CELLS, _CLOTH_CELLS), size, "bilinear") - 0.5
    loud = 0.4 * draw("loud", 1, 1, 1)
    person = person * (0.75 + 0.5 * light) + loud * cloth * (1 - parts[:, :1])
    behind = _surroundings(to_rgb(around), draw("around", 6))
    picture = parts[:, :1] * behind + person
    grain = 0.02 * (draw("grain", 3, *size) - 0.5)
    picture = (picture + grain).clamp(0.0, 1.0)
    mean, std = (picture.new_tensor(value)[:, None, None] for value in (IMAGE_MEAN, IMAGE_STD))
    return (picture - mean) / std


def _looks(draw: Tensor) -> Tensor:
    """A colour for each part: draw (B, 9 + P, 3) -> (B, P, 3) in 0..1."""
    skin = draw.new_tensor(_SKIN) * (0.35 + 0.9 * draw[:, :1, :1]) + 0.1 * (draw[:, 1:2] - 0.5)
    hair = draw.new_tensor(_HAIR) * 2 * draw[:, 2:3, :1] + 0.1 * draw[:, 3:4]
    top, trousers, shoes = (draw[:, k : k + 1] for k in (4, 5, 6))
    short = draw[:, 7, :2] < 0.5  # sleeves and trousers that leave forearms and shins bare
    none = short & (draw[:, 8, :2] < 0.5)
    columns = []
    for name in (*PART_NAMES[1:], "face"):
        bare = name.removeprefix("left_").removeprefix("right_")
        cloth = {"torso": top, "upper_arm": top, "lower_arm": top, "head": hair, "foot": shoes}
        colour = cloth.get(bare, trousers)
        if bare in ("hand", "face"):
            colour = skin
        elif bare in ("lower_arm", "lower_leg", "upper_arm", "upper_leg"):
            shown = (short if bare.startswith("lower") else none)[:, int(bare.endswith("leg"))]
            colour = torch.where(shown[:, None, None], skin, colour)
        columns.append(colour)
    looks = torch.cat(columns, dim=1) + 0.15 * (draw[:, 9:] - 0.5)
    return looks.clamp(0.0, 1.0)


def _surroundings(picture: Tensor, draw: Tensor) -> Tensor:
    """Both side strips of a picture, widened to a half each, in other colours: a person's crop
    shows the person in its middle. picture (B, 3, H, W) 0..1, draw (B, 6) -> same shape."""
    width = picture.shape[-1]
    x = (torch.arange(width, device=picture.device) + 0.5) / width
    x = torch.where((draw[:, 0] < 0.5)[:, None], x, 1 - x)
    strip = (_STRIP[0] + (_STRIP[1] - _STRIP[0]) * draw[:, 1])[:, None]
    within = (2 * x) % 1.0
    within = torch.where((draw[:, 2] < 0.5)[:, None], within, 1 - within)
    at = torch.where(x < 0.5, within * strip, 1 - strip + within * strip)
    rows = (torch.arange(picture.shape[-2], device=picture.device) + 0.5) / picture.shape[-2]
    grid = torch.stack(
        torch.broadcast_tensors(2 * at[:, None] - 1, 2 * rows[None, :, None] - 1), dim=-1
    )
    behind = F.grid_sample(picture, grid, padding_mode="border", align_corners=False)
    return (behind * (0.7 + 0.6 * draw[:, 3:])[..., None, None]).clamp(0.0, 1.0)


def _spread(cells: Tensor, size: torch.Size | tuple[int, int], mode: str) -> Tensor:
    """Cells as a smooth map of the picture's size."""
    return F.interpolate(cells, size=tuple(size), mode=mode, align_corners=False)
