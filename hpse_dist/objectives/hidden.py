"""What objectives that hide patches share: which are hidden, the targets, errors and baselines."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hpse_dist import masking
from hpse_dist.fields import Batch
from hpse_dist.masking import CountRule
from hpse_dist.models.blocks import take
from hpse_dist.models.encoder import Encoder
from hpse_dist.models.positions import grid_positions
from hpse_dist.objectives.base import Objective, to_rgb


@dataclass(frozen=True)
class HiddenConfig:
    """How many patches are hidden, which, and what is predicted of them."""

    mask_ratio: float = 0.75
    """Share of patches hidden, the same number in every picture."""
    count_rule: CountRule = "round"
    """How the share becomes a number: round, or floor as in CroCo."""
    person_ratio: float | None = 0.85
    """Share of the person's patches hidden, drawn first; null for uniform masks."""
    person_patch_min: float = 0.1
    """A patch is the person's if the person covers at least this share of it."""
    normalise_targets: bool = True
    """Standardise each target patch by its own mean and variance."""

    def __post_init__(self) -> None:
        if not 0.0 < self.mask_ratio < 1.0:
            raise ValueError(f"mask_ratio must be between 0 and 1, found {self.mask_ratio}")
        if self.person_ratio is not None and not 0.0 <= self.person_ratio <= 1.0:
            raise ValueError(f"person_ratio must be in [0, 1] or null, found {self.person_ratio}")
        if not 0.0 < self.person_patch_min <= 1.0:
            raise ValueError(f"person_patch_min must be in (0, 1], found {self.person_patch_min}")


class HiddenPatches(Objective):
    """An objective whose error is the squared error over hidden patches."""

    config: HiddenConfig

    def __init__(self, config: HiddenConfig, encoder: Encoder, seed: int) -> None:
        super().__init__(config, encoder, seed)
        if not encoder.over_patches:
            name = encoder.config.timm or encoder.config.name
            raise ValueError(
                f"this objective hides patches, and {name} can only look at whole pictures; "
                "choose an encoder of this project's own, such as vit_b"
            )
        patches = (encoder.image_px // encoder.patch_px) ** 2
        count = masking.num_hidden(patches, config.mask_ratio, config.count_rule)
        if not 0 < count < patches:
            raise ValueError(
                f"mask_ratio: {config.mask_ratio} of {patches} patches hides {count}; at "
                "least one must be hidden and one visible, so choose another ratio or patch_px"
            )

    def errors(self, prediction: Tensor, image: Tensor, hidden: Tensor) -> Tensor:
        """Mean squared error over a sample's hidden patches.

        prediction (B, L, 3pp) for the patches `hidden` (B, L) of image (B, 3, H, W) -> (B,).
        """
        targets, _, _ = self._targets(image, hidden)
        return (prediction.float() - targets).square().mean(dim=(1, 2))

    def baselines(self, image: Tensor, visible: Tensor, hidden: Tensor) -> dict[str, Tensor]:
        """Errors of two guesses without any learning, (B,) each.

        hidden_loss_mean: every hidden patch's own mean colour. hidden_loss_nearest: the nearest
        visible patch in its place, standardised by itself where targets are.
        """
        patches = self._patches(image, hidden)
        mean = torch.zeros_like(patches)
        if not self.config.normalise_targets:
            mean = mean + patches.mean(-1, keepdim=True)
        places = grid_positions(self.encoder.grid(image), image.device)[0].float()
        apart = torch.cdist(places[hidden], places[visible])  # (B, L, K)
        nearest = visible.gather(1, apart.argmin(2))
        guess, _, _ = self._targets(image, nearest)
        return {
            "hidden_loss_mean": self.errors(mean, image, hidden),
            "hidden_loss_nearest": self.errors(guess, image, hidden),
        }

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

    def _columns(self, image: Tensor, hidden: Tensor, prediction: Tensor) -> dict[str, Tensor]:
        """The picture without its hidden patches, completed, and whole: (B, 3, H, W) 0..1 each."""
        patch_px, grid = self.encoder.patch_px, self.encoder.grid(image)
        _, mean, std = self._targets(image, hidden)
        patches = masking.patchify(image, patch_px).float()
        index = hidden[..., None].expand(-1, -1, patches.shape[-1])
        completed = patches.scatter(1, index, prediction.float() * std + mean)
        grey = patches.scatter(1, index, 0.0)  # the normalised mean colour
        return {
            "hidden": to_rgb(masking.unpatchify(grey, grid, patch_px)),
            "completed": to_rgb(masking.unpatchify(completed, grid, patch_px)),
            "target": to_rgb(image),
        }

    def _patches(self, image: Tensor, index: Tensor) -> Tensor:
        return take(masking.patchify(image, self.encoder.patch_px), index).float()

    def _targets(self, image: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Targets, mean and std of some patches only."""
        return masking.pixel_targets(self._patches(image, index), self.config.normalise_targets)
