"""Stick people standing on a floor before a pinhole camera, for tests of relative depth."""

from __future__ import annotations

import torch
from torch import Tensor

from hpse_dist.body.joints import SMPL24

# Joints of an upright person of stature 1 facing the camera, x right, y down from the floor.
_HEIGHTS = {
    "ankle": 0.04, "foot": 0.01, "knee": 0.296, "hip": 0.52, "pelvis": 0.54, "spine1": 0.6,
    "spine2": 0.67, "spine3": 0.7, "collar": 0.78, "shoulder": 0.794, "neck": 0.84, "head": 0.9,
    "elbow": 0.642, "wrist": 0.506, "hand": 0.46,
}  # fmt: skip
_WIDTHS = {"shoulder": 0.1035, "elbow": 0.1035, "wrist": 0.1035, "hand": 0.1035, "collar": 0.04}


def stick_person() -> Tensor:
    """(24, 3) joints of stature 1, standing at the origin."""
    rows = []
    for name in SMPL24:
        side, _, bare = name.rpartition("_")
        # facing the camera, the left side is on the right of the picture
        sign = {"left": 1.0, "right": -1.0}.get(side, 0.0)
        rows.append([sign * _WIDTHS.get(bare, 0.066), -_HEIGHTS[bare], 0.0])
    return torch.tensor(rows)


def stand(
    depths: list[float],
    *,
    statures: list[float] | None = None,
    sideways: list[float] | None = None,
    camera_height: float = 1.5,
    focal: float = 0.8,
) -> tuple[Tensor, Tensor]:
    """People on a floor: people2d (1, P, 24, 3) in 0..1 and people3d (1, P, 24, 4) in metres."""
    statures = statures or [1.7] * len(depths)
    sideways = sideways or [0.25 * (k - (len(depths) - 1) / 2) * d for k, d in enumerate(depths)]
    people = []
    for depth, stature, x in zip(depths, statures, sideways, strict=True):
        people.append(stature * stick_person() + torch.tensor([x, camera_height, depth]))
    metres = torch.stack(people)[None]
    return project(metres, focal), torch.cat([metres, torch.ones_like(metres[..., :1])], -1)


def project(metres: Tensor, focal: float) -> Tensor:
    """(..., 3) in the camera's frame -> (..., 3) places in a picture of side 1, confidence 1."""
    places = 0.5 + focal * metres[..., :2] / metres[..., 2:]
    return torch.cat([places, torch.ones_like(places[..., :1])], -1)
