"""Cross-view and cross-pose completion: most of a picture is hidden, a second picture helps.

After Armando et al., "Cross-view and Cross-pose Completion for 3D Human Understanding" (CVPR 2024)
and CroCo, on which it builds. The first picture's hidden patches are predicted from its visible
patches and from the whole second picture, which shows the same person from another viewpoint at
the same instant (view) or at another time (pose). L = w_view mean_view + w_pose mean_pose of the
squared error over hidden patches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hpse_dist.fields import Batch
from hpse_dist.models.decoder import Decoder, DecoderConfig
from hpse_dist.models.encoder import Encoder
from hpse_dist.objectives.attention_panels import ATTENTION_COLUMNS, attention_rows
from hpse_dist.objectives.base import PANEL_ROWS, sheet, to_rgb
from hpse_dist.objectives.hidden import HiddenConfig, HiddenPatches

KINDS = ("view", "pose")  # by their number in the field pair_kind


@dataclass(frozen=True)
class CompletionConfig(HiddenConfig):
    """Completion of hidden patches from a second picture."""

    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """The decoder's size."""
    view_weight: float = 1.0
    """Weight of the mean loss over cross-view pairs."""
    pose_weight: float = 1.0
    """Weight of the mean loss over cross-pose pairs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (
            min(self.view_weight, self.pose_weight) < 0.0
            or self.view_weight == self.pose_weight == 0
        ):
            raise ValueError(
                "view_weight and pose_weight must be 0 or more and not both 0, found "
                f"{self.view_weight} and {self.pose_weight}"
            )

    @property
    def needs(self) -> tuple[str, ...]:
        """The fields read from a batch."""
        needs = ("image", "image_ref", "sample_id", "epoch", "subject", "pair_kind", "pair_weight")
        return needs if self.person_ratio is None else (*needs, "person")


class Completion(HiddenPatches):
    """Encoder, cross-attending decoder, and the squared error over hidden patches."""

    Config = CompletionConfig
    config: CompletionConfig

    def __init__(self, config: CompletionConfig, encoder: Encoder, seed: int) -> None:
        super().__init__(config, encoder, seed)
        self.decoder = Decoder(config.decoder, encoder)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`, and `loss_view` and `loss_pose`, each kind's mean.

        `pair_weight` is the global batch over the number of its pair's kind in it, so the mean of
        weight * error over micro-batches and ranks is exact whatever the split, with no exchange
        between ranks. A kind that the global batch lacks counts 0.
        """
        visible, hidden = self._hide(batch, batch["epoch"])
        tokens, memory = self.encoder.forward_pair(batch["image"], visible, batch["image_ref"])
        prediction = self._decode(tokens, visible, hidden, memory, batch)
        errors = self.errors(prediction, batch["image"], hidden) * batch["pair_weight"]
        view, pose = ((errors * (batch["pair_kind"] == kind)).mean() for kind in range(len(KINDS)))
        loss = self.config.view_weight * view + self.config.pose_weight * pose
        return {"loss": loss, "loss_view": view.detach(), "loss_pose": pose.detach()}

    @torch.no_grad()
    def metrics(self, batch: Batch) -> dict[str, Tensor]:
        """Errors with the true and with a wrong second picture, on masks that never change.

        hidden_loss: the error. hidden_loss_swapped: the error with the second picture of the next
        row in the batch that shows another subject; hidden_loss_true: the error with its own second
        picture, over the rows that have such a partner. Each also per kind (`_view`, `_pose`).
        Beside them the errors of the two baselines.
        """
        visible, hidden = self._hide(batch, 0)
        tokens, memory = self.encoder.forward_pair(batch["image"], visible, batch["image_ref"])
        true = self._decode(tokens, visible, hidden, memory, batch)
        partner, found = other_subject(batch["subject"], batch.get("valid"))
        swapped = self._decode(tokens, visible, hidden, memory[partner], batch)
        loss = self.errors(true, batch["image"], hidden)
        figures = {
            "hidden_loss": loss,
            "hidden_loss_true": loss.where(found, math.nan),
            "hidden_loss_swapped": self.errors(swapped, batch["image"], hidden).where(
                found, math.nan
            ),
        }
        for name in list(figures):
            for number, kind in enumerate(KINDS):
                rows = batch["pair_kind"] == number
                figures[f"{name}_{kind}"] = figures[name].where(rows, math.nan)
        return figures | self.baselines(batch["image"], visible, hidden)

    def summary(self, means: dict[str, float]) -> dict[str, float]:
        """Reference gain in percent: how much larger the error is with a wrong second picture.

        A figure that the evaluation cannot give, for want of rows, is left out.
        """
        gains = {}
        for suffix in ("", *(f"_{kind}" for kind in KINDS)):
            true = means.get(f"hidden_loss_true{suffix}", math.nan)
            swapped = means.get(f"hidden_loss_swapped{suffix}", math.nan)
            if math.isfinite(swapped) and math.isfinite(true) and true > 0.0:
                gains[f"reference_gain{suffix}"] = 100.0 * (swapped / true - 1.0)
        return gains

    @torch.no_grad()
    def panels(self, batch: Batch) -> dict[str, Tensor]:
        """What is given (hidden | reference) and what comes of it, beside the truth; and where in
        the reference some hidden patches look."""
        batch = {name: value[:PANEL_ROWS] for name, value in batch.items()}
        image = batch["image"]
        visible, hidden = self._hide(batch, 0)
        tokens, memory = self.encoder.forward_pair(image, visible, batch["image_ref"])
        # first of all: ZeRO-3 takes the mask token away when a forward pass of its decoder ends
        weights = self.decoder.looks_at(
            tokens,
            visible,
            memory,
            self.encoder.grid(image),
            self.encoder.grid(batch["image_ref"]),
        )
        prediction = self._decode(tokens, visible, hidden, memory, batch)
        columns = self._columns(image, hidden, prediction)
        columns["reference"] = to_rgb(batch["image_ref"])
        captions = [KINDS[kind] for kind in batch["pair_kind"].tolist()]
        rows = list(zip(*columns.values(), strict=True))
        looks = attention_rows(image, batch["image_ref"], hidden, weights, self.encoder.grid(image))
        return {
            "completion": sheet(rows, list(columns), captions),
            "attention": sheet(looks, ATTENTION_COLUMNS, captions),
        }

    def _decode(
        self, tokens: Tensor, visible: Tensor, hidden: Tensor, memory: Tensor, batch: Batch
    ) -> Tensor:
        grid, other = self.encoder.grid(batch["image"]), self.encoder.grid(batch["image_ref"])
        return self.decoder(tokens, visible, hidden, memory, grid, other)


def other_subject(subject: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """For each row the next row, going round, that shows another subject and is no padding.

    subject (B,) int64, valid (B,) bool or None -> index (B,) int64, found (B,) bool; where none
    is found the index is of no use.
    """
    count = len(subject)
    rows = torch.arange(count, device=subject.device)
    distance = (rows[None, :] - rows[:, None]) % count  # [i, j]: steps from row i on to row j
    fits = subject[None, :] != subject[:, None]
    if valid is not None:
        fits = fits & valid[None, :]
    distance = distance.where(fits, count)
    return distance.argmin(dim=1), fits.any(dim=1)
