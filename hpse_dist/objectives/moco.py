"""Momentum contrast: a view is told from a queue of other pictures' views.

He et al., "Momentum Contrast for Unsupervised Visual Representation Learning" (CVPR 2020), with
the head and views of v2 (Chen et al., 2020). Keys enter the queue after the update, those of all
ranks in the order of their sample ids: so the queue does not depend on how a batch was split.

No head has batch norms, but encoders may, as ResNets. Statistics of the batch would tell a query's
key, made beside it, from the queue's; against that the paper shuffles pictures between devices.
Here the key encoder normalises by averages that follow the encoder's as its weights do (Cai et al.,
"Exponential Moving Average Normalization", CVPR 2021), which needs no second device: a key depends
on its own picture alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hpse_dist.fields import Batch
from hpse_dist.models.encoder import Encoder
from hpse_dist.models.projection import (
    Projection,
    follow,
    follow_statistics,
    frozen_copy,
    pooled,
)
from hpse_dist.objectives.instances import InstanceConfig, Instances, Kept, Queue, info_nce
from hpse_dist.precision import in_full_precision


@dataclass(frozen=True)
class MocoConfig(InstanceConfig):
    """MoCo v2."""

    dim: int = 128
    """Channels of a key."""
    hidden: int = 2048
    """Channels between the head's two layers."""
    queue: int = 65536
    """Keys kept as negatives."""
    momentum: float = 0.999
    """Of the key encoder."""
    temperature: float = 0.2
    """Divides the cosines."""

    def __post_init__(self) -> None:
        if min(self.dim, self.hidden, self.queue) < 1:
            raise ValueError("dim, hidden and queue must be positive")
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"momentum must be in 0..1, found {self.momentum}")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, found {self.temperature}")


class Moco(Instances):
    """Encoder and head, their slow copies, and the queue."""

    Config = MocoConfig
    config: MocoConfig

    def __init__(self, config: MocoConfig, encoder: Encoder, seed: int) -> None:
        super().__init__(config, encoder, seed)
        self.head = Projection(encoder.dim, config.hidden, config.dim)
        self.key_encoder = frozen_copy(encoder)
        self.key_head = frozen_copy(self.head)
        self.queue = Queue(config.queue, config.dim, seed)
        self._kept = Kept()
        self.train()

    def train(self, mode: bool = True) -> Moco:
        """As of any module, but keys are always made as in evaluation."""
        super().train(mode)
        self.key_encoder.eval()
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`: InfoNCE, a mean over samples; `queue_top1`: how often the positive wins."""
        one, two = self.view(batch, "first").image, self.view(batch, "second").image
        query = F.normalize(self.head(pooled(self.encoder(one))).float(), dim=-1)
        with torch.no_grad():
            key = F.normalize(self.key_head(pooled(self.key_encoder(two))).float(), dim=-1)
        if self.training:
            self._kept.add(batch, key)
        loss = info_nce(query, key, self.queue.keys, self.config.temperature)
        return {"loss": loss.mean(), "queue_top1": wins(query, key, self.queue.keys).mean()}

    def after_step(self, progress: float) -> None:
        """The copies follow, the keys of this step enter the queue."""
        follow(self.key_encoder, self.encoder, self.config.momentum)
        follow_statistics(self.key_encoder, self.encoder, self.config.momentum)
        follow(self.key_head, self.head, self.config.momentum)
        for keys in self._kept.take():
            self.queue.put(keys)

    def after_refusal(self) -> None:
        """The keys of this step do not enter the queue."""
        self._kept.drop()


@torch.no_grad()
@in_full_precision
def wins(query: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
    """1 where the positive is nearer than every negative: (B, C), (B, C), (K, C) -> (B,)."""
    return ((query * positive).sum(-1) > (query @ negatives.T).amax(1)).float()
