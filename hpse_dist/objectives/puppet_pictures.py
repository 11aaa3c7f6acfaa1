"""Pictures of paper dolls, whose pose is known because it was chosen: labels that cost nothing.

The first teacher of part-guided synthesis, before its painter can paint, and later the teacher that
keeps it honest. Clothes are colours that limbs share as sleeves and trousers do; behind the doll
stands a place without anybody: the side strips of a real picture, widened.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hpse_dist.body.joints import PART_NAMES
from hpse_dist.constants import constant, numbers
from hpse_dist.draws import bits, uniform
from hpse_dist.fields import IMAGE_MEAN, IMAGE_STD
from hpse_dist.objectives.base import to_rgb
from hpse_dist.objectives.dolls import SHADES, Dolls
from hpse_dist.objectives.unpaired import Posed

_LOOKS = (*PART_NAMES[1:], "face", "throat", "skirt")
_STRIP = (0.25, 0.35)  # width of a side strip over the picture's, drawn uniformly
_STOUT = (0.85, 1.25)  # radii over the body's own, drawn uniformly
_SKIN, _HAIR = (0.75, 0.55, 0.45), (0.30, 0.20, 0.12)
_CLOTH_CELLS, _LIGHT_CELLS = 24, 6  # cells of the patterns of cloth and of light
_SKIRTS = 0.3  # share of people who wear one
_THINGS = 6  # at most, behind a person
_FINE = 2  # cells of a drawn doll along a pixel's side: edges are their means
_COVERED = 0.2  # share of pictures in which something stands before the person


def thickness(count: int, seed: int, epoch: int | Tensor, sample_id: Tensor) -> Tensor:
    """Factors of limbs' radii, (B, count): thin and stout people."""
    draw = uniform(seed, "puppet.thickness", epoch, sample_id, 1 + count)
    return (_STOUT[0] + (_STOUT[1] - _STOUT[0]) * draw[:, :1]) * (0.9 + 0.2 * draw[:, 1:])


def puppet_pictures(
    dolls: Dolls, posed: Posed, around: Tensor, seed: int, epoch: Tensor, sample_id: Tensor
) -> Tensor:
    """Pictures of posed people; around (B, 3, n, n) normalised pictures that lend their
    surroundings -> (B, 3, n, n) normalised."""

    def draw(name: str, *shape: int) -> Tensor:
        found = uniform(seed, f"puppet.{name}", epoch, sample_id, math.prod(shape))
        return found.view(-1, *shape)

    size = around.shape[-2:]
    lamp = draw("lamp", 3)
    angle = 2 * math.pi * lamp[:, :1]
    towards = lamp[:, 1:2] * torch.cat((angle.cos(), angle.sin()), dim=1)
    thick = thickness(len(dolls.names), seed, epoch, sample_id)
    skirt = draw("skirt", 2)
    skirt = (skirt[:, 0] < _SKIRTS) * (0.4 + 0.9 * skirt[:, 1])
    hidden = _hidden(draw("cover", 5))
    things = _things(draw("things", _THINGS, 6))
    seen = dolls.draw(posed, thick, skirt, towards, (things, hidden), _FINE * size[0])
    colours = _looks(_muted(draw("looks", 9 + len(_LOOKS), 3), draw("muted", 9 + len(_LOOKS), 1)))
    order = tuple(_LOOKS.index(name) for name in dolls.names)
    colours = colours[:, numbers(order, colours.device)]
    colours = colours * (0.9 + 0.2 * draw("limbs", len(dolls.names), 1))
    depth = 0.25 + 0.75 * lamp[:, 2:]  # of the shades
    seen = seen.to(around.device)
    things = _muted(draw("colours", _THINGS, 3), draw("plain", _THINGS, 1))
    person, cover = _coloured(seen, colours, things, depth)
    light = _spread(draw("light", 1, _LIGHT_CELLS, _LIGHT_CELLS), size, "bicubic")
    cloth = _spread(draw("cloth", 3, _CLOTH_CELLS, _CLOTH_CELLS), size, "bilinear") - 0.5
    loud = 0.8 * draw("loud", 1, 1, 1).square()
    person = person * (0.75 + 0.5 * light) + loud * cloth * cover
    behind = _surroundings(to_rgb(around), draw("around", 5))
    grain = 0.02 * (_grain(seed, epoch, sample_id, (3, *size)) - 0.5)
    picture = (person + (1 - cover) * behind + grain).clamp(0.0, 1.0)
    mean, std = (
        constant(value, picture.device)[:, None, None] for value in (IMAGE_MEAN, IMAGE_STD)
    )
    return (picture - mean) / std


def _hidden(draw: Tensor) -> Tensor:
    """Corners of what stands before a person, shares of the crop: draw (B, 5) -> (B, 4)."""
    wide, high = 0.08 + 0.3 * draw[:, 1], 0.15 + 0.8 * draw[:, 2]
    x, y = draw[:, 3] - wide / 2, 0.35 + 0.65 * draw[:, 4]
    corners = torch.stack((x, y, x + wide, y + high), dim=1)
    return corners * (draw[:, :1] < _COVERED)


def _things(draw: Tensor) -> Tensor:
    """Corners of things that stand behind a person or hang there, shares of the crop: draw
    (B, N, 6) -> (B, N, 4, 2); a third of them are not there, and have no size."""
    length, width = (0.02 + 0.4 * draw[..., k, None].square() for k in (0, 1))
    turn = math.pi * (draw[..., 2, None] - 0.5) * (draw[..., 3, None] < 0.5)  # half hang straight
    along = length * torch.cat((turn.cos(), turn.sin()), dim=-1)
    across = width * torch.cat((-turn.sin(), turn.cos()), dim=-1)
    corners = torch.stack((along + across, along - across, -along - across, across - along), dim=2)
    there = draw[..., 0] + draw[..., 1] < 4 / 3
    return (draw[..., None, 4:] + corners / 2) * there[..., None, None]


def _coloured(
    seen: Tensor, colours: Tensor, things: Tensor, depth: Tensor
) -> tuple[Tensor, Tensor]:
    """Numbers of limbs and shades, and of things, (B, S, S) in colours (B, K, 3) and (B, N, 3), the
    outer shades darker by up to depth (B, 1) / 3 -> what they add to each pixel (B, 3, n, n), and
    cover of it (B, 1, n, n)."""
    shades = 0.75 + depth * torch.linspace(0.0, 0.33, SHADES, device=depth.device)  # (B, SHADES)
    limbs = (colours[:, :, None] * shades[:, None, :, None]).flatten(1, 2)
    table = F.pad(torch.cat((limbs, things), dim=1), (0, 1), value=1.0)  # red, green, blue, cover
    table = F.pad(table, (0, 0, 1, 0))  # the background's
    rows = torch.arange(len(seen), device=seen.device)[:, None] * table.shape[1]
    numbers = (seen.flatten(1).int() + rows.int()).view_as(seen)
    fine = [numbers[:, y::_FINE, x::_FINE] for y in range(_FINE) for x in range(_FINE)]
    colour = torch.zeros(fine[0].numel(), 4, device=table.device)
    for cells in fine:
        colour += table.flatten(0, 1).index_select(0, cells.flatten()) / len(fine)
    colour = colour.view(*fine[0].shape, 4).permute(0, 3, 1, 2)
    return colour[:, :3], colour[:, 3:]


def _muted(draw: Tensor, mute: Tensor) -> Tensor:
    """Colours (B, P, 3) brought towards greys of more contrast by (B, P, 1), as clothes' are."""
    grey = 0.5 + 1.7 * (draw.mean(-1, keepdim=True) - 0.5)
    return (grey + (draw - grey) * mute).clamp(0.0, 1.0)


def _looks(draw: Tensor) -> Tensor:
    """A colour for each of _LOOKS: draw (B, 9 + P, 3) -> (B, P, 3) in 0..1."""
    skin = constant(_SKIN, draw.device) * (0.35 + 0.9 * draw[:, :1, :1]) + 0.1 * (
        draw[:, 1:2] - 0.5
    )
    hair = constant(_HAIR, draw.device) * 2 * draw[:, 2:3, :1] + 0.1 * draw[:, 3:4]
    top, trousers, shoes = (draw[:, k : k + 1] for k in (4, 5, 6))
    short = draw[:, 7, :2] < 0.5  # sleeves and trousers that leave forearms and shins bare
    none = short & (draw[:, 8, :2] < 0.5)
    skirt = torch.where(draw[:, 7:8, 2:] < 0.5, top, draw[:, 8:9].roll(1, dims=2))
    columns = []
    for name in _LOOKS:
        bare = name.removeprefix("left_").removeprefix("right_")
        cloth = {
            "torso": top,
            "skirt": skirt,
            "upper_arm": top,
            "lower_arm": top,
            "head": hair,
            "foot": shoes,
        }
        colour = cloth.get(bare, trousers)
        if bare in ("hand", "face", "throat"):
            colour = skin
        elif bare in ("lower_arm", "lower_leg", "upper_arm", "upper_leg"):
            shown = (short if bare.startswith("lower") else none)[:, int(bare.endswith("leg"))]
            colour = torch.where(shown[:, None, None], skin, colour)
        columns.append(colour)
    looks = torch.cat(columns, dim=1) + 0.15 * (draw[:, 9:] - 0.5)
    return looks.clamp(0.0, 1.0)


def _grain(seed: int, epoch: Tensor, sample_id: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Noise in 0..1, (B, *shape): draws of eight bits, each row's 64-bit draws cut in eight."""
    numbers = bits(seed, "puppet.grain", epoch, sample_id, -(-math.prod(shape) // 8))
    return numbers.view(torch.uint8)[:, : math.prod(shape)].view(-1, *shape) / 255


def _surroundings(picture: Tensor, draw: Tensor) -> Tensor:
    """Both side strips of a picture, mirrored inwards to a half each, in other colours: a person's
    crop shows the person in its middle. Not stretched: what is blurred would be told from a person
    by that alone. picture (B, 3, H, W) 0..1, draw (B, 5) -> same shape."""
    width = picture.shape[-1]
    x = (torch.arange(width, device=picture.device) + 0.5) / width
    x = torch.where((draw[:, 0] < 0.5)[:, None], x, 1 - x)
    strip = (_STRIP[0] + (_STRIP[1] - _STRIP[0]) * draw[:, 1])[:, None]
    inwards = strip - (strip - torch.minimum(x, 1 - x)).abs()
    at = torch.where(x < 0.5, inwards, 1 - inwards)
    rows = (torch.arange(picture.shape[-2], device=picture.device) + 0.5) / picture.shape[-2]
    grid = torch.stack(
        torch.broadcast_tensors(2 * at[:, None] - 1, 2 * rows[None, :, None] - 1), dim=-1
    )
    behind = F.grid_sample(picture, grid, padding_mode="border", align_corners=False)
    return (behind * (0.7 + 0.6 * draw[:, 2:])[..., None, None]).clamp(0.0, 1.0)


def _spread(cells: Tensor, size: torch.Size | tuple[int, int], mode: str) -> Tensor:
    """Cells as a smooth map of the picture's size."""
    return F.interpolate(cells, size=tuple(size), mode=mode, align_corners=False)
