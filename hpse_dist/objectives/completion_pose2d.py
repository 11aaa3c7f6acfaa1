"""Completion together with 2D joints: two teachers for one encoder.

Armando et al. (CVPR 2024) report that 2D-keypoint supervision combined with completion is better
than supervised pre-training on several tasks. The encoder completes as in `completion`, and in the
same step sees the first picture whole to put a heatmap on every labelled joint. Pictures without
joints only complete.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hpse_dist.fields import Batch
from hpse_dist.metrics.pose2d import joint_error, pck
from hpse_dist.models.encoder import Encoder
from hpse_dist.models.maps import (
    MapHead,
    cells_per_patch,
    checked_joints,
    heatmap_errors,
    in_crop,
    peaks,
)
from hpse_dist.objectives.base import PANEL_ROWS, sheet, to_rgb, with_joints
from hpse_dist.objectives.completion import Completion, CompletionConfig


@dataclass(frozen=True)
class CompletionPose2dConfig(CompletionConfig):
    """Completion's keys, and those of the heatmaps."""

    completion_weight: float = 1.0
    """Weight of completion's loss."""
    heatmap_weight: float = 1.0
    """Weight of the heatmaps' loss; 1 is the loss of empty maps."""
    num_joints: int = 24
    """Joints of the collection's joint set."""
    sigma: float = 2.0
    """Width of the heatmaps' gaussians, cells."""
    cell_px: int = 4
    """Pixels of the picture to a cell of the maps."""
    head_dim: int = 256
    """Channels of the heatmaps' head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_joints", "cell_px", "head_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
        for name in ("completion_weight", "heatmap_weight", "sigma"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, found {getattr(self, name)}")

    @property
    def needs(self) -> tuple[str, ...]:
        """The fields read from a batch."""
        return (*super().needs, "joints2d")


class CompletionPose2d(Completion):
    """Completion, and heatmaps from the tokens of the whole first picture."""

    Config = CompletionPose2dConfig
    config: CompletionPose2dConfig

    def __init__(self, config: CompletionPose2dConfig, encoder: Encoder, seed: int) -> None:
        super().__init__(config, encoder, seed)
        self.joints_head = MapHead(
            encoder.dim,
            config.head_dim,
            config.num_joints,
            cells_per_patch(encoder.patch_px, config.cell_px),
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Completion's scalars, `loss_heatmap`, and their weighted sum as `loss`."""
        scalars = super().forward(batch)
        joints = checked_joints(batch["joints2d"], self.config.num_joints)
        heatmap = heatmap_errors(self._maps(batch["image"]), joints, self.config.sigma).mean()
        loss = self.config.completion_weight * scalars["loss"]
        loss = loss + self.config.heatmap_weight * heatmap
        return {**scalars, "loss": loss, "loss_heatmap": heatmap.detach()}

    @torch.no_grad()
    def metrics(self, batch: Batch) -> dict[str, Tensor]:
        """Completion's figures; joint_error, pck_005 and pck_01 as in the task pose2d."""
        joints = checked_joints(batch["joints2d"], self.config.num_joints)
        mine, known, true = peaks(self._maps(batch["image"]))[0], in_crop(joints), joints[..., :2]
        return {
            **super().metrics(batch),
            "joint_error": joint_error(mine, true, known),
            "pck_005": pck(mine, true, known, 0.05),
            "pck_01": pck(mine, true, known, 0.1),
        }

    @torch.no_grad()
    def panels(self, batch: Batch) -> dict[str, Tensor]:
        """Completion's panel, and joints on the picture beside the labelled ones."""
        panels = super().panels(batch)
        batch = {name: value[:PANEL_ROWS] for name, value in batch.items()}
        mine, known = peaks(self._maps(batch["image"]))[0].cpu(), in_crop(batch["joints2d"]).cpu()
        rows = [
            [with_joints(picture, mine[i], known[i]), with_joints(picture, true, known[i])]
            for i, (picture, true) in enumerate(
                zip(to_rgb(batch["image"]).cpu(), batch["joints2d"][..., :2].cpu(), strict=True)
            )
        ]
        return {**panels, "joints": sheet(rows, ("predicted", "labelled"), [""] * len(rows))}

    def _maps(self, image: Tensor) -> Tensor:
        """(B, J, h, w) float32."""
        return self.joints_head(self.encoder(image), self.encoder.grid(image)).float()
