"""Pre-training objectives: one file each, and the table that names them."""

from __future__ import annotations

from typing import Any

from hpse_dist.models.encoder import Encoder
from hpse_dist.objectives.base import Objective
from hpse_dist.objectives.completion import Completion
from hpse_dist.objectives.completion_pose2d import CompletionPose2d
from hpse_dist.objectives.densecl import Densecl
from hpse_dist.objectives.dino import Dino
from hpse_dist.objectives.mae import Mae
from hpse_dist.objectives.moco import Moco
from hpse_dist.objectives.part_synthesis import PartSynthesis
from hpse_dist.objectives.peclr import Peclr
from hpse_dist.objectives.relative_depth import RelativeDepth

OBJECTIVES: dict[str, type[Objective]] = {
    "completion": Completion,
    "completion_pose2d": CompletionPose2d,
    "densecl": Densecl,
    "dino": Dino,
    "mae": Mae,
    "moco": Moco,
    "part_synthesis": PartSynthesis,
    "peclr": Peclr,
    "relative_depth": RelativeDepth,
}


def build(config: Any, encoder: Encoder, seed: int) -> Objective:
    """The objective that a config describes; `seed` keys its random draws."""
    for kind in OBJECTIVES.values():
        if type(config) is kind.Config:
            return kind(config, encoder, seed)
    raise ValueError(f"no objective has a config of type {type(config).__name__}")
