"""Masked autoencoding: most of a picture is hidden and predicted from the rest of it.

After He et al., "Masked Autoencoders Are Scalable Vision Learners" (CVPR 2022): completion without
a second picture, and one of the self-supervised sources that Armando et
al. (CVPR 2024) compare with.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from hpse_dist.fields import Batch
from hpse_dist.models.decoder import Decoder, DecoderConfig
from hpse_dist.models.encoder import Encoder
from hpse_dist.objectives.base import PANEL_ROWS, sheet
from hpse_dist.objectives.hidden import HiddenConfig, HiddenPatches


@dataclass(frozen=True)
class MaeConfig(HiddenConfig):
    """Completion of hidden patches from the picture itself."""

    person_ratio: float | None = None
    """Share of the person's patches hidden, drawn first; null for uniform masks, as the paper."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """The decoder's size; `small` (512 x 8 x 16) is the paper's."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The fields read from a batch."""
        needs = ("image", "sample_id", "epoch")
        return needs if self.person_ratio is None else (*needs, "person")


class Mae(HiddenPatches):
    """Encoder over the visible patches, a decoder over all, the error over the hidden ones."""

    Config = MaeConfig
    config: MaeConfig

    def __init__(self, config: MaeConfig, encoder: Encoder, seed: int) -> None:
        super().__init__(config, encoder, seed)
        self.decoder = Decoder(config.decoder, encoder, crosses=False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`: the mean over samples of the squared error over their hidden patches."""
        prediction, _, hidden = self._complete(batch, batch["epoch"])
        return {"loss": self.errors(prediction, batch["image"], hidden).mean()}

    @torch.no_grad()
    def metrics(self, batch: Batch) -> dict[str, Tensor]:
        """hidden_loss, the error on masks that never change, beside the two baselines'."""
        prediction, visible, hidden = self._complete(batch, 0)
        loss = self.errors(prediction, batch["image"], hidden)
        return {"hidden_loss": loss} | self.baselines(batch["image"], visible, hidden)

    @torch.no_grad()
    def panels(self, batch: Batch) -> dict[str, Tensor]:
        """What is given and what comes of it, beside the truth."""
        batch = {name: value[:PANEL_ROWS] for name, value in batch.items()}
        prediction, _, hidden = self._complete(batch, 0)
        columns = self._columns(batch["image"], hidden, prediction)
        rows = list(zip(*columns.values(), strict=True))
        return {"mae": sheet(rows, list(columns), [""] * len(rows))}

    def _complete(self, batch: Batch, epoch: int | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Prediction (B, L, 3pp), and the indices of the visible and of the hidden patches."""
        visible, hidden = self._hide(batch, epoch)
        tokens = self.encoder(batch["image"], visible)
        grid = self.encoder.grid(batch["image"])
        return self.decoder(tokens, visible, hidden, None, grid), visible, hidden
