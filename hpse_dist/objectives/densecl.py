"""Dense contrast: besides whole views, every place of one view is told from other pictures' places.

Wang et al., "Dense Contrastive Learning for Self-Supervised Visual Pre-Training" (CVPR 2021),
written from the paper. A place's positive is the place of the other view whose encoder feature is
most alike by cosine; its negatives are a second queue, of the means over places of other pictures'
dense keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hpse_dist.fields import Batch
from hpse_dist.models.blocks import take
from hpse_dist.models.encoder import Encoder
from hpse_dist.models.projection import Projection, follow, frozen_copy, pooled
from hpse_dist.objectives.base import PANEL_ROWS
from hpse_dist.objectives.instances import Kept, Queue, columns_sheet, info_nce
from hpse_dist.objectives.moco import Moco, MocoConfig, wins
from hpse_dist.precision import in_full_precision

_SHOWN = 5  # matches marked in a panel
_MARKS = ((1.0, 0.1, 0.1), (0.1, 0.9, 0.1), (0.2, 0.4, 1.0), (1.0, 0.9, 0.0), (1.0, 0.1, 1.0))


@dataclass(frozen=True)
class DenseclConfig(MocoConfig):
    """MoCo v2's whole views and the dense loss."""

    dense_weight: float = 0.5
    """Share of the dense loss; the rest is MoCo's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.dense_weight <= 1:
            raise ValueError(f"dense_weight must be in 0..1 above 0, found {self.dense_weight}")


class Densecl(Moco):
    """MoCo with a second head and a second queue for places."""

    Config = DenseclConfig
    config: DenseclConfig

    def __init__(self, config: DenseclConfig, encoder: Encoder, seed: int) -> None:
        super().__init__(config, encoder, seed)
        self.dense_head = Projection(encoder.dim, config.hidden, config.dim)
        self.key_dense_head = frozen_copy(self.dense_head)
        self.dense_queue = Queue(config.queue, config.dim, seed + 1)
        self._dense_kept = Kept()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`, its parts `loss_global` and `loss_dense`, `queue_top1`: means over samples."""
        one, two = self.view(batch, "first").image, self.view(batch, "second").image
        tokens = self.encoder(one)
        query = F.normalize(self.head(pooled(tokens)).float(), dim=-1)
        places = F.normalize(self.dense_head(tokens).float(), dim=-1)
        with torch.no_grad():
            key_tokens = self.key_encoder(two)
            key = F.normalize(self.key_head(pooled(key_tokens)).float(), dim=-1)
            dense = self.key_dense_head(key_tokens).float()
            positives = take(F.normalize(dense, dim=-1), matches(tokens, key_tokens))
            mean_key = F.normalize(dense.mean(1), dim=-1)
        if self.training:
            self._kept.add(batch, key)
            self._dense_kept.add(batch, mean_key)
        temperature = self.config.temperature
        whole = info_nce(query, key, self.queue.keys, temperature).mean()
        part = info_nce(places, positives, self.dense_queue.keys, temperature).mean()
        share = self.config.dense_weight
        return {
            "loss": (1 - share) * whole + share * part,
            "loss_global": whole.detach(),
            "loss_dense": part.detach(),
            "queue_top1": wins(query, key, self.queue.keys).mean(),
        }

    def after_step(self, progress: float) -> None:
        """As MoCo's, for both heads and both queues."""
        super().after_step(progress)
        follow(self.key_dense_head, self.dense_head, self.config.momentum)
        for keys in self._dense_kept.take():
            self.dense_queue.put(keys)

    def after_refusal(self) -> None:
        """Nothing of this step enters a queue."""
        super().after_refusal()
        self._dense_kept.drop()

    @torch.no_grad()
    def panels(self, batch: Batch) -> dict[str, Tensor]:
        """The views; places of the first have the colours of their matches in the second."""
        batch = {name: value[:PANEL_ROWS] for name, value in batch.items()}
        one, two = self.view(batch, "first", 0).image, self.view(batch, "second", 0).image
        found = matches(self.encoder(one), self.key_encoder(two))
        shown = torch.linspace(0, found.shape[1] - 1, _SHOWN + 2).long()[1:-1]
        shown = shown.to(found.device).expand(len(found), -1)
        columns = {
            "picture": batch["image"],
            "first view": self._marked(one, shown),
            "its matches": self._marked(two, found.gather(1, shown)),
        }
        return {"matches": columns_sheet(columns)}

    def _marked(self, image: Tensor, places: Tensor) -> Tensor:
        """A square on the middle of each place: image (B, 3, H, W), places (B, n) indices."""
        image, (_, columns) = image.clone(), self.encoder.grid(image)
        side = image.shape[-1] // columns
        inset = side // 4
        for i, row in enumerate(places.tolist()):
            for place, colour in zip(row, _MARKS, strict=True):
                top, left = place // columns * side + inset, place % columns * side + inset
                area = image[i, :, top : top + side - 2 * inset, left : left + side - 2 * inset]
                # normalised pictures: a large number is full colour, a large negative one is none
                area[:] = 8 * (image.new_tensor(colour)[:, None, None] - 0.5)
        return image


@torch.no_grad()
@in_full_precision
def matches(features: Tensor, others: Tensor) -> Tensor:
    """For each place the most alike one of the other view: (B, N, C), (B, M, C) -> (B, N) int64."""
    likeness = F.normalize(features, dim=-1) @ F.normalize(others, dim=-1).mT
    return likeness.argmax(2)
