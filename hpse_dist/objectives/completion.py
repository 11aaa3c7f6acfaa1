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

from hpse_dist import masking
from hpse_dist.fields import Batch
from hpse_dist.masking import CountRule
from hpse_dist.models.decoder import Decoder, DecoderConfig
from hpse_dist.models.encoder import Encoder, take
from hpse_dist.objectives.base import PANEL_ROWS, Objective, sheet, to_rgb

KINDS = ("view", "pose")  # by their number in the field pair_kind


@dataclass(frozen=True)
class CompletionConfig:
    """Completion of hidden patches from a second picture."""

    mask_ratio: float = 0.75
    """Share of patches hidden, the same number in every picture."""
    count_rule: CountRule = "round"
    """How the share becomes a number: round, or floor as in CroCo."""
    person_ratio: float | None = 0.85
    """Share of the person's patches hidden, drawn first; null for uniform masks."""
    person_patch_min: float = 0.1
    """A patch is the person's if the person covers at least this share of it."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """The decoder's size."""
    normalise_targets: bool = True
    """Standardise each target patch by its own mean and variance."""
    view_weight: float = 1.0
    """Weight of the mean loss over cross-view pairs."""
    pose_weight: float = 1.0
    """Weight of the mean loss over cross-pose pairs."""

    def __post_init__(self) -> None:
        if not 0.0 < self.mask_ratio < 1.0:
            raise ValueError(f"mask_ratio must be between 0 and 1, found {self.mask_ratio}")
        if self.person_ratio is not None and not 0.0 <= self.person_ratio <= 1.0:
            raise ValueError(f"person_ratio must be in [0, 1] or null, found {self.person_ratio}")
        if not 0.0 < self.person_patch_min <= 1.0:
            raise ValueError(f"person_patch_min must be in (0, 1], found {self.person_patch_min}")
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


class Completion(Objective):
    """Encoder, cross-attending decoder, and the squared error over hidden patches."""

    Config = CompletionConfig
    config: CompletionConfig

    def __init__(self, config: CompletionConfig, encoder: Encoder, seed: int) -> None:
        super().__init__(config, encoder, seed)
        rows, columns = encoder.config.grid()
        count = masking.num_hidden(rows * columns, config.mask_ratio, config.count_rule)
        if not 0 < count < rows * columns:
            raise ValueError(
                f"mask_ratio: {config.mask_ratio} of {rows * columns} patches hides {count}; at "
                "least one must be hidden and one visible, so choose another ratio or patch_px"
            )
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

    def errors(self, prediction: Tensor, image: Tensor, hidden: Tensor) -> Tensor:
        """Mean squared error over a sample's hidden patches.

        prediction (B, L, 3pp) for the patches `hidden` (B, L) of image (B, 3, H, W) -> (B,).
        """
        targets, _, _ = self._targets(image, hidden)
        return (prediction.float() - targets).square().mean(dim=(1, 2))

    @torch.no_grad()
    def metrics(self, batch: Batch) -> dict[str, Tensor]:
        """Errors with the true and with a wrong second picture, on masks that never change.

        hidden_loss: the error. hidden_loss_swapped: the error with the second picture of the next
        row in the batch that shows another subject; hidden_loss_true: the error with its own second
        picture, over the rows that have such a partner. Each also per kind (`_view`, `_pose`).
        hidden_loss_mean: the error of predicting every hidden patch's own mean colour.
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
        nothing = torch.zeros_like(true)
        if not self.config.normalise_targets:
            nothing = nothing + self._patches(batch["image"], hidden).mean(-1, keepdim=True)
        return figures | {"hidden_loss_mean": self.errors(nothing, batch["image"], hidden)}

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
        """What is given (hidden | reference) and what comes of it, beside the truth."""
        batch = {name: value[:PANEL_ROWS] for name, value in batch.items()}
        image, patch_px, grid = (
            batch["image"],
            self.encoder.patch_px,
            self.encoder.grid(batch["image"]),
        )
        visible, hidden = self._hide(batch, 0)
        tokens, memory = self.encoder.forward_pair(image, visible, batch["image_ref"])
        prediction = self._decode(tokens, visible, hidden, memory, batch)
        _, mean, std = self._targets(image, hidden)
        patches = masking.patchify(image, patch_px).float()
        index = hidden[..., None].expand(-1, -1, patches.shape[-1])
        completed = patches.scatter(1, index, prediction.float() * std + mean)
        grey = patches.scatter(1, index, 0.0)  # the normalised mean colour
        columns = {
            "hidden": to_rgb(masking.unpatchify(grey, grid, patch_px)),
            "completed": to_rgb(masking.unpatchify(completed, grid, patch_px)),
            "target": to_rgb(image),
            "reference": to_rgb(batch["image_ref"]),
        }
        captions = [KINDS[kind] for kind in batch["pair_kind"].tolist()]
        rows = list(zip(*columns.values(), strict=True))
        return {"completion": sheet(rows, list(columns), captions)}

    def _hide(self, batch: Batch, epoch: int | Tensor) -> tuple[Tensor, Tensor]:
        """Indices of the visible and of the hidden patches of each sample, (B, K) and (B, L)."""
        config, grid = self.config, self.encoder.grid(batch["image"])
        mask = masking.hidden_patches(
            batch.get("person"),
            config.mask_ratio,
            config.person_ratio,
            self.seed,
            epoch,
            batch["sample_id"],
            grid=grid,
            person_min=config.person_patch_min,
            rule=config.count_rule,
        )
        count = masking.num_hidden(grid[0] * grid[1], config.mask_ratio, config.count_rule)
        return masking.split(mask, count)

    def _decode(
        self, tokens: Tensor, visible: Tensor, hidden: Tensor, memory: Tensor, batch: Batch
    ) -> Tensor:
        grid, other = self.encoder.grid(batch["image"]), self.encoder.grid(batch["image_ref"])
        return self.decoder(tokens, visible, hidden, memory, grid, other)

    def _patches(self, image: Tensor, hidden: Tensor) -> Tensor:
        return take(masking.patchify(image, self.encoder.patch_px), hidden).float()

    def _targets(self, image: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Targets, mean and std of the hidden patches only."""
        return masking.pixel_targets(self._patches(image, hidden), self.config.normalise_targets)


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
