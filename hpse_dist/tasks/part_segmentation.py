"""Part segmentation: which body part each pixel shows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hpse_dist.constants import at_hand
from hpse_dist.fields import Batch
from hpse_dist.metrics.surface import part_iou, person_iou
from hpse_dist.models.encoder import Encoder
from hpse_dist.models.maps import MapHead, cells_per_patch
from hpse_dist.objectives.base import PANEL_ROWS, part_colours, sheet, to_rgb
from hpse_dist.tasks.base import Prediction, Task


@dataclass(frozen=True)
class PartSegmentationConfig:
    """A class per pixel: background, or one of the body's parts."""

    num_parts: int = 14
    """Parts besides the background; 14 are those of this project's bodies, DensePose has 24."""
    cell_px: int = 4
    """Pixels of the picture to a cell that the head predicts; enlarged to pixels bilinearly."""
    head_dim: int = 256
    """Channels of the head."""

    def __post_init__(self) -> None:
        for name in ("num_parts", "cell_px", "head_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")

    @property
    def needs(self) -> tuple[str, ...]:
        """The fields read from a batch."""
        return ("image", "part_map", "has_parts")


class PartSegmentation(Task):
    """Encoder and a map of logits per class."""

    Config = PartSegmentationConfig
    protocols = ("part-pixels",)
    config: PartSegmentationConfig

    def __init__(self, config: PartSegmentationConfig, encoder: Encoder, seed: int) -> None:
        super().__init__(config, encoder, seed)
        self.head = MapHead(
            encoder.dim,
            config.head_dim,
            1 + config.num_parts,
            cells_per_patch(encoder.patch_px, config.cell_px),
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`: cross entropy, half of it the mean over the person's pixels and half over the
        background's, summed over the pictures that have the label and divided by B."""
        logits, true = self._logits(batch["image"]), parts_of(batch, self.config.num_parts)
        loss = balanced(F.cross_entropy(logits, true, reduction="none"), true > 0)
        return {"loss": (loss * batch["has_parts"]).mean()}

    @torch.no_grad()
    def predict(self, batch: Batch) -> Prediction:
        """part_map (B, H, W) int64, 0 the background."""
        return {"part_map": self._logits(batch["image"]).argmax(1)}

    def truth(self, batch: Batch) -> Prediction:
        """The labelled map."""
        return {"part_map": parts_of(batch, self.config.num_parts)}

    def errors(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """part_iou and person_iou in percent."""
        true, mine = parts_of(batch, self.config.num_parts), prediction["part_map"]
        figures = {
            "part_iou": part_iou(mine, true, self.config.num_parts),
            "person_iou": person_iou(mine, true),
        }
        return {k: v.where(batch["has_parts"], math.nan) for k, v in figures.items()}

    @torch.no_grad()
    def panels(self, batch: Batch) -> dict[str, Tensor]:
        """Predicted and labelled parts beside the picture."""
        batch = {name: value[:PANEL_ROWS] for name, value in batch.items()}
        guess = self.predict(batch)
        iou = self.errors(guess, batch)["part_iou"].tolist()
        colours = part_colours(self.config.num_parts)
        columns = (
            to_rgb(batch["image"]).cpu(),
            colours[guess["part_map"].cpu()].permute(0, 3, 1, 2),
            colours[batch["part_map"].cpu()].permute(0, 3, 1, 2),
        )
        captions = [f"IoU {value:.0f} %" if math.isfinite(value) else "" for value in iou]
        rows = list(zip(*columns, strict=True))
        return {"part_segmentation": sheet(rows, ("picture", "predicted", "labelled"), captions)}

    def _logits(self, image: Tensor) -> Tensor:
        """(B, 1 + P, H, W) float32."""
        maps = self.head(self.encoder(image), self.encoder.grid(image)).float()
        return F.interpolate(maps, image.shape[-2:], mode="bilinear", align_corners=False)


def parts_of(batch: Batch, num_parts: int) -> Tensor:
    """(B, H, W) labelled parts; one that the recipe does not know is a ValueError.

    Looked at on the CPU only: on a GPU it would wait for the device in every step, and an index
    out of range ends the run there anyway.
    """
    parts = batch["part_map"]
    if at_hand(parts) and int(parts.max()) > num_parts:
        raise ValueError(
            f"part_map: the labels have part {int(parts.max())} and the recipe says num_parts "
            f"{num_parts}; set num_parts to the collection's"
        )
    return parts


def balanced(values: Tensor, person: Tensor) -> Tensor:
    """Half the mean over the person's pixels and half over the others: (B, H, W) twice -> (B,)."""
    halves = []
    for among in (person, ~person):
        count = among.sum((1, 2))
        halves.append((values * among).sum((1, 2)) / count.clamp(min=1))
    return 0.5 * (halves[0] + halves[1])
