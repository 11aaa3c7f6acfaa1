"""Pictures of part-guided synthesis: poses through the puppet, appearance and pose exchanged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hpse_dist.geometry.procrustes import align
from hpse_dist.objectives.base import TILE_PX, part_colours, to_rgb, with_joints
from hpse_dist.objectives.unpaired import Posed, Unpaired

Columns = dict[str, Sequence[Tensor]]  # title -> one picture (3, h, w) for each row
_SIDE_SCALE = 0.42  # tile sides to a metre in views from the side


def pose_columns(
    unpaired: Unpaired, image: Tensor, seen: Posed, joints3d: Tensor | None
) -> Columns:
    """Joints on the picture, the puppet over it, and the pose from the side, beside the labelled
    one brought nearest to it where there is one; image (B, 3, H, W) normalised."""
    pictures = to_rgb(image).cpu()
    shown = torch.ones(seen.joints.shape[1])
    parts = unpaired.parts(seen, image.shape[-1]).cpu()
    colours = part_colours(parts.shape[1] - 1)
    colours[-1] = torch.tensor([1.0, 0.85, 0.7])  # the face
    puppet = torch.einsum("blhw,lc->bchw", parts[:, 1:], colours[1:])
    over = pictures * (0.35 + 0.65 * parts[:, :1]) + 0.65 * puppet
    columns: Columns = {
        "joints": [
            with_joints(p, j.cpu(), shown) for p, j in zip(pictures, seen.joints2d, strict=True)
        ],
        "puppet": list(over),
        "from the side": [_from_the_side(joints, shown) for joints in seen.joints],
    }
    if joints3d is not None:
        known = (joints3d[..., 3] > 0).float()
        fitted = align(joints3d[..., :3], seen.joints, known.clamp(min=1e-6))
        columns["label from the side"] = [
            _from_the_side(joints, seen_joints.cpu())
            for joints, seen_joints in zip(fitted, known, strict=True)
        ]
    return columns


def swap_columns(
    paint: Callable[[Tensor, Posed, Posed], Tensor], source: Tensor, pose: Posed
) -> Columns:
    """Each source in the pose of the next row, and the next row's person in the source's pose."""
    count = len(source)
    turned = torch.arange(count, device=source.device).roll(-1)
    next_pose = pose.rows(turned)
    return {
        "pose of next": list(to_rgb(paint(source, pose, next_pose))),
        "look of next": list(to_rgb(paint(source[turned], next_pose, pose))),
    }


def _from_the_side(joints: Tensor, shown: Tensor) -> Tensor:
    """Joints (24, 3) relative to the pelvis, seen from the person's side of the camera."""
    _, y, z = (joints - joints[:1]).float().cpu().unbind(-1)
    places = torch.stack((0.5 - _SIDE_SCALE * z, 0.5 + _SIDE_SCALE * y), dim=-1)
    return with_joints(torch.full((3, TILE_PX, TILE_PX), 0.92), places, shown)
