"""Dense pose: the body part and the place on its surface that each pixel shows.

After Güler et al., "DensePose" (CVPR 2018): a part index per pixel and, for every part, its own two
surface coordinates; those of the true part alone are compared, on the person alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hpse_dist.fields import Batch
from hpse_dist.metrics.surface import part_iou, share_of
from hpse_dist.models.encoder import Encoder
from hpse_dist.models.maps import MapHead, cells_per_patch
from hpse_dist.objectives.base import PANEL_ROWS, part_colours, sheet, to_rgb
from hpse_dist.tasks.base import Prediction, Task
from hpse_dist.tasks.part_segmentation import balanced, parts_of

NEAR = 0.05  # surface coordinates this near count as right


@dataclass(frozen=True)
class DensePoseConfig:
    """A part index and surface coordinates per pixel."""

    num_parts: int = 14
    """Parts besides the background; 14 are those of this project's bodies, DensePose has 24."""
    cell_px: int = 4
    """Pixels of the picture to a cell that the head predicts; enlarged to pixels bilinearly."""
    head_dim: int = 256
    """Channels of the head."""
    uv_weight: float = 0.5
    """Weight of the surface coordinates' L1 beside the parts' cross entropy."""

    def __post_init__(self) -> None:
        for name in ("num_parts", "cell_px", "head_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
        if self.uv_weight <= 0:
            raise ValueError(f"uv_weight must be above 0, found {self.uv_weight}")

    @property
    def needs(self) -> tuple[str, ...]:
        """The fields read from a batch."""
        return ("image", "part_map", "uv_map", "has_parts")


class DensePose(Task):
    """Encoder, a map of logits per part, and two maps of coordinates per part."""

    Config = DensePoseConfig
    protocols = ("synthetic-dense",)
    config: DensePoseConfig

    def __init__(self, config: DensePoseConfig, encoder: Encoder, seed: int) -> None:
        super().__init__(config, encoder, seed)
        channels = 1 + config.num_parts + 2 * config.num_parts
        self.head = MapHead(
            encoder.dim,
            config.head_dim,
            channels,
            cells_per_patch(encoder.patch_px, config.cell_px),
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss` and its parts before weighting: cross entropy of the parts (person and background
        half each) and L1 of the coordinates on the person. Each is a mean over a picture's pixels,
        summed over the pictures that have the label and divided by B."""
        logits, uv = self._maps(batch["image"])
        true = parts_of(batch, self.config.num_parts)
        person = true > 0
        parts = balanced(F.cross_entropy(logits, true, reduction="none"), person)
        apart = (of_part(uv, true) - batch["uv_map"]).abs().mean(1) * person
        place = apart.sum((1, 2)) / person.sum((1, 2)).clamp(min=1)
        part, place = ((term * batch["has_parts"]).mean() for term in (parts, place))
        loss = part + self.config.uv_weight * place
        return {"loss": loss, "loss_part": part.detach(), "loss_uv": place.detach()}

    @torch.no_grad()
    def predict(self, batch: Batch) -> Prediction:
        """part_map (B, H, W) int64, 0 the background, and uv_map (B, 2, H, W) of those parts."""
        logits, uv = self._maps(batch["image"])
        parts = logits.argmax(1)
        return {"part_map": parts, "uv_map": of_part(uv, parts).clamp(0.0, 1.0)}

    def truth(self, batch: Batch) -> Prediction:
        """The labelled maps; coordinates are zero on the background."""
        parts = parts_of(batch, self.config.num_parts)
        return {"part_map": parts, "uv_map": batch["uv_map"] * (parts > 0)[:, None]}

    def errors(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Over the labelled person's pixels, in percent: part_iou; uv_error, the mean distance of
        surface coordinates where the part is right (100 where it never is); surface_right, the
        share of pixels with the right part and coordinates within 0.05."""
        true, mine = parts_of(batch, self.config.num_parts), prediction["part_map"]
        person, right = true > 0, (mine == true) & (true > 0)
        distance = (prediction["uv_map"] - batch["uv_map"]).norm(dim=1)
        count = right.flatten(1).sum(1)
        error = (distance * right).flatten(1).sum(1) / count.clamp(min=1)
        figures = {
            "part_iou": part_iou(mine, true, self.config.num_parts),
            "uv_error": 100 * error.where(count > 0, 1.0),
            "surface_right": share_of(right & (distance <= NEAR), person),
        }
        there = batch["has_parts"] & person.flatten(1).any(1)
        return {name: value.where(there, math.nan) for name, value in figures.items()}

    @torch.no_grad()
    def panels(self, batch: Batch) -> dict[str, Tensor]:
        """Parts and coordinates (u red, v green), predicted and labelled."""
        batch = {name: value[:PANEL_ROWS] for name, value in batch.items()}
        guess, truth = self.predict(batch), self.truth(batch)
        right = self.errors(guess, batch)["surface_right"].tolist()
        colours = part_colours(self.config.num_parts)
        columns = [to_rgb(batch["image"]).cpu()]
        for maps in (guess, truth):
            parts, uv = maps["part_map"].cpu(), maps["uv_map"].float().cpu()
            person = (parts > 0)[:, None]
            columns.append(colours[parts].permute(0, 3, 1, 2))
            columns.append(torch.cat((uv, torch.full_like(uv[:, :1], 0.5)), 1) * person)
        captions = [f"{value:.0f} % right" if math.isfinite(value) else "" for value in right]
        titles = ("picture", "parts", "coordinates", "true parts", "true coordinates")
        return {"dense_pose": sheet(list(zip(*columns, strict=True)), titles, captions)}

    def _maps(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, 1 + P, H, W) and coordinates (B, P, 2, H, W), float32."""
        maps = self.head(self.encoder(image), self.encoder.grid(image)).float()
        maps = F.interpolate(maps, image.shape[-2:], mode="bilinear", align_corners=False)
        logits, uv = maps.split((1 + self.config.num_parts, 2 * self.config.num_parts), dim=1)
        return logits, uv.unflatten(1, (self.config.num_parts, 2)) + 0.5


def of_part(uv: Tensor, parts: Tensor) -> Tensor:
    """Each pixel's coordinates of its own part: (B, P, 2, H, W), (B, H, W) -> (B, 2, H, W), zero
    on the background."""
    index = (parts - 1).clamp(min=0)[:, None, None].expand(-1, 1, 2, -1, -1)
    return uv.gather(1, index)[:, 0] * (parts > 0)[:, None]
