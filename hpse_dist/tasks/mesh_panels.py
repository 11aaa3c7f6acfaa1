"""Tiles of panels that show bodies and hands: over the picture, and from a second viewpoint."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hpse_dist.body.model import BodyOutput
from hpse_dist.body.overlay import draw_mesh
from hpse_dist.fields import Batch
from hpse_dist.objectives.base import PANEL_ROWS, TILE_PX, sheet, to_rgb, with_joints

GROUND = 235  # grey of a plain tile


def enlarged(pictures: Tensor) -> Iterable[np.ndarray]:
    """Pictures (B, 3, H, W) 0..1 as tiles of a panel, uint8 (TILE_PX, TILE_PX, 3)."""
    size = (TILE_PX, TILE_PX)
    large = F.interpolate(pictures, size, mode="bicubic", antialias=True, align_corners=False)
    return (large.clamp(0.0, 1.0) * 255.0).round().byte().permute(0, 2, 3, 1).numpy()


def tile_camera(intrinsics: Tensor) -> np.ndarray:
    """A camera matrix (3, 3) for 0..1 coordinates as one for the pixels of a panel's tile."""
    return np.diag([TILE_PX, TILE_PX, 1.0]) @ intrinsics.double().cpu().numpy()


def plain() -> np.ndarray:
    """A tile with nothing on it."""
    return np.full((TILE_PX, TILE_PX, 3), GROUND, dtype=np.uint8)


def from_the_side(
    vertices: np.ndarray, root: Tensor, faces: np.ndarray, reach: float = 1.1
) -> np.ndarray:
    """The mesh (V, 3) turned a quarter round about the vertical, on a plain ground.

    reach: metres from the root to the tile's border.
    """
    x, y, z = (vertices - root.float().cpu().numpy()).T / reach
    turned = np.stack((z, y, -x), axis=1) + np.array([0.0, 0.0, 5.4])
    camera = np.array([[2.7, 0.0, 0.5], [0.0, 2.7, 0.5], [0.0, 0.0, 1.0 / TILE_PX]]) * TILE_PX
    return draw_mesh(plain(), turned, faces, camera)


def skeleton(joints: Tensor, known: Tensor, reach: float, side: bool) -> Tensor:
    """Joints (J, 3) relative to their root on a plain tile, from the camera or from the side.

    known (J,): drawn where above 0; reach: metres from the root to the tile's border ->
    (3, TILE_PX, TILE_PX).
    """
    across = joints[:, 2] if side else joints[:, 0]
    places = 0.5 + torch.stack((across, joints[:, 1]), dim=1) / (2.0 * reach)
    return with_joints(torch.full((3, TILE_PX, TILE_PX), GROUND / 255.0), places, known)


def as_tile(tile: np.ndarray) -> Tensor:
    """uint8 (h, w, 3) -> (3, h, w) float 0..1."""
    return torch.from_numpy(tile).permute(2, 0, 1) / 255.0


def mesh_rows(
    batch: Batch,
    guess: Batch,
    true: BodyOutput,
    known: Tensor,
    faces: np.ndarray,
    error: Tensor,
    *,
    reach: float = 1.1,
    second: Tensor | None = None,
    alone: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """A sheet: the predicted mesh over the picture, and from the side beside the labelled one.

    guess: `vertices`, `joints3d` and `intrinsics` as a task predicts them; known (B,): which rows
    have a labelled mesh; error (B,): mm, written on the pictures where finite; reach: metres from
    the root to a side view's border. Of a task of two views also the second pictures (B, 3, H, W)
    and the vertices and joints predicted without them.
    """
    rows, captions = [], []

    def side(vertices: Tensor, joints: Tensor) -> Tensor:
        mesh = vertices.float().cpu().numpy()
        return as_tile(from_the_side(mesh, joints[0], faces, reach))

    for i, picture in enumerate(enlarged(to_rgb(batch["image"][:PANEL_ROWS]).cpu())):
        vertices = guess["vertices"][i].float().cpu().numpy()
        over = draw_mesh(picture, vertices, faces, tile_camera(guess["intrinsics"][i]))
        row = [as_tile(picture), *([] if second is None else [second[i]]), as_tile(over)]
        row.append(side(guess["vertices"][i], guess["joints3d"][i]))
        row += [] if alone is None else [side(alone[0][i], alone[1][i])]
        there = bool(known[i])
        row.append(side(true.vertices[i], true.joints[i]) if there else as_tile(plain()))
        rows.append(row)
        captions.append(f"{error[i]:.0f} mm" if math.isfinite(error[i]) else "")
    titles = ["picture", *([] if second is None else ["second view"]), "predicted", "from the side"]
    titles += [] if alone is None else ["of one view"]
    return sheet(rows, [*titles, "truth from the side"], captions)
