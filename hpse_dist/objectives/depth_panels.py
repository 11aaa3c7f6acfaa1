"""Pictures of relative depth: people coloured from near to far."""

from __future__ import annotations

from collections.abc import Sequence
from colorsys import hsv_to_rgb

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from hpse_dist.body.joints import PARENTS
from hpse_dist.objectives.base import TILE_PX, sheet

# near is yellow and red, far is blue
_COLOURS = np.array(
    [[255 * c for c in hsv_to_rgb((0.15 - 0.5 * k / 255) % 1, 0.9, 1.0)] for k in range(256)]
)


def depth_panel(
    pictures: Tensor,
    people: Tensor,
    seen: Tensor,
    z: Tensor,
    true: Tensor | None,
    depth_map: Tensor,
    heatmaps: Tensor,
    captions: Sequence[str],
) -> Tensor:
    """One row per picture: it, people by the model's depth and by the true one, both maps.

    pictures (B, 3, H, W) 0..1, people (B, P, J, 3), seen (B, P, J), z and true (B, P, J), depth_map
    (B, h, w), heatmaps (B, J, h, w) -> (3, H', W') 0..1.
    """
    rows = []
    for i, picture in enumerate(pictures.cpu()):
        tile = _enlarged(picture)
        joints, in_sight = people[i].float().cpu().numpy(), seen[i].cpu().numpy()
        row = [tile, _skeletons(tile, joints, in_sight, _ranks(z[i], seen[i]))]
        if true is not None:
            row.append(_skeletons(tile, joints, in_sight, _ranks(true[i], seen[i])))
        near_to_far = depth_map[i].float().cpu()
        spread = (near_to_far.max() - near_to_far.min()).clamp(min=1e-6)
        share = ((near_to_far - near_to_far.min()) / spread * 255).round().byte().numpy()
        row.append(torch.from_numpy(_COLOURS[share] / 255).permute(2, 0, 1).float())
        hottest = heatmaps[i].float().amax(0).clamp(0, 1).cpu()
        row.append(hottest.expand(3, -1, -1))
        rows.append(row)
    titles = ["picture", "near to far", *(["true"] if true is not None else []), "depth", "joints"]
    return sheet(rows, titles, captions)


def _enlarged(picture: Tensor) -> Tensor:
    size = (TILE_PX, TILE_PX)
    large = F.interpolate(picture[None], size, mode="bicubic", antialias=True, align_corners=False)
    return large[0].clamp(0, 1)


def _ranks(depth: Tensor, seen: Tensor) -> np.ndarray:
    """Depths of joints (P, J) as 0..1 from the nearest in sight to the farthest."""
    values = depth.float().cpu().numpy()
    there = values[seen.cpu().numpy()]
    if len(there) == 0:
        return np.zeros_like(values)
    return np.clip((values - there.min()) / max(float(np.ptp(there)), 1e-6), 0, 1)


def _skeletons(tile: Tensor, people: np.ndarray, seen: np.ndarray, ranks: np.ndarray) -> Tensor:
    """Everybody's joints and bones on a darkened picture (3, h, w), coloured by rank."""
    grey = tile.mean(0, keepdim=True).expand(3, -1, -1) * 0.6
    canvas = Image.fromarray((grey * 255).byte().permute(1, 2, 0).numpy())
    draw = ImageDraw.Draw(canvas)
    parents = PARENTS if people.shape[1] == len(PARENTS) else (-1,) * people.shape[1]
    farthest_first = np.argsort(-np.where(seen, ranks, 0).max(1))
    for person in farthest_first:
        places = [(x * TILE_PX, y * TILE_PX) for x, y in people[person, :, :2].tolist()]
        colours = [tuple(c.astype(int)) for c in _COLOURS[(ranks[person] * 255).astype(int)]]
        for joint, parent in enumerate(parents):
            if parent >= 0 and seen[person, joint] and seen[person, parent]:
                draw.line([places[parent], places[joint]], fill=colours[joint], width=3)
            elif parent < 0 and seen[person, joint]:
                draw.circle(places[joint], 2, fill=colours[joint])
    return torch.from_numpy(np.asarray(canvas).copy()).permute(2, 0, 1).float() / 255
