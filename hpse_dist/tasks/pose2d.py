"""2D pose: a heatmap per joint.

After Xiao et al., "Simple Baselines for Human Pose Estimation" (ECCV 2018) and ViTPose (Xu et al.,
2022): tokens are enlarged to maps, and each labelled joint leaves a gaussian on its own. The 2D
annotation that Choi et al. (ICLR 2023) and Armando et al. (CVPR 2024) compare with as pre-training;
a downstream task as well.
"""

from __future__ import annotations

import math
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
from hpse_dist.tasks.base import Prediction, Task


@dataclass(frozen=True)
class Pose2dConfig:
    """A heatmap per joint from the encoder's tokens."""

    num_joints: int = 24
    """Joints of the collection's joint set: channels of the heatmaps."""
    sigma: float = 2.0
    """Width of the gaussians, cells; 2 is SimpleBaseline's for maps of 64 cells."""
    cell_px: int = 4
    """Pixels of the picture to a cell of the maps."""
    head_dim: int = 256
    """Channels of the head."""

    def __post_init__(self) -> None:
        for name in ("num_joints", "cell_px", "head_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
        if self.sigma <= 0:
            raise ValueError(f"sigma must be above 0, found {self.sigma}")

    @property
    def needs(self) -> tuple[str, ...]:
        """The fields read from a batch."""
        return ("image", "joints2d")


class Pose2d(Task):
    """Encoder and heatmaps."""

    Config = Pose2dConfig
    protocols = ("crop-pck",)
    set_protocols = ("coco-keypoints",)
    config: Pose2dConfig

    def __init__(self, config: Pose2dConfig, encoder: Encoder, seed: int) -> None:
        super().__init__(config, encoder, seed)
        self.head = MapHead(
            encoder.dim,
            config.head_dim,
            config.num_joints,
            cells_per_patch(encoder.patch_px, config.cell_px),
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`: squared error of the heatmaps, 1 for empty maps; a mean over a picture's known
        joints, summed over pictures and divided by B."""
        maps = self._maps(batch["image"])
        loss = heatmap_errors(maps, self._joints(batch), self.config.sigma)
        return {"loss": loss.mean()}

    @torch.no_grad()
    def predict(self, batch: Batch) -> Prediction:
        """joints2d (B, J, 2) in 0..1 of the crop, confidence (B, J): the height of the peaks."""
        joints, height = peaks(self._maps(batch["image"]))
        return {"joints2d": joints, "confidence": height.clamp(0.0, 1.0)}

    @torch.no_grad()
    def truth(self, batch: Batch) -> Prediction:
        """The labelled joints; confidence 1 where a joint is labelled and in the crop."""
        joints = self._joints(batch)
        return {"joints2d": joints[..., :2], "confidence": in_crop(joints).float()}

    def errors(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """joint_error in percent of the person's side; pck_005 and pck_01, percent of joints within
        0.05 and 0.1 of it. Joints outside the crop do not count."""
        joints = self._joints(batch)
        known, true, mine = in_crop(joints), joints[..., :2], prediction["joints2d"]
        return {
            "joint_error": joint_error(mine, true, known),
            "pck_005": pck(mine, true, known, 0.05),
            "pck_01": pck(mine, true, known, 0.1),
        }

    @torch.no_grad()
    def panels(self, batch: Batch) -> dict[str, Tensor]:
        """Predicted and labelled joints on the picture, and all heatmaps in one."""
        batch = {name: value[:PANEL_ROWS] for name, value in batch.items()}
        maps, pictures = self._maps(batch["image"]), to_rgb(batch["image"]).cpu()
        guess, truth = self.predict(batch), self.truth(batch)
        error = self.errors(guess, batch)["joint_error"].tolist()
        rows = [
            [
                with_joints(picture, guess["joints2d"][i].cpu(), truth["confidence"][i].cpu()),
                with_joints(picture, truth["joints2d"][i].cpu(), truth["confidence"][i].cpu()),
                maps[i].amax(0).clamp(0.0, 1.0).cpu().expand(3, -1, -1),
            ]
            for i, picture in enumerate(pictures)
        ]
        captions = [f"{value:.0f} %" if math.isfinite(value) else "" for value in error]
        return {"pose2d": sheet(rows, ("predicted", "labelled", "heatmaps"), captions)}

    def _joints(self, batch: Batch) -> Tensor:
        """(B, J, 3) labelled joints."""
        return checked_joints(batch["joints2d"], self.config.num_joints)

    def _maps(self, image: Tensor) -> Tensor:
        """(B, J, h, w) float32."""
        return self.head(self.encoder(image), self.encoder.grid(image)).float()
