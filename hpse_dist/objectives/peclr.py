"""Equivariant contrast: what moves in the picture moves in the projection.

Spurr et al., "PeCLR: Self-Supervised 3D Hand Pose Estimation from Monocular RGB via Equivariant
Contrastive Learning" (ICCV 2021). Of a view's changes, colour is to be ignored, but scale, turn
and shift are to show: the projection is read as points in the plane and taken back by the view's
own geometry before views are compared.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from hpse_dist.collectives import gather_rows, gather_rows_with_gradient
from hpse_dist.fields import Batch
from hpse_dist.models.encoder import Encoder
from hpse_dist.models.projection import Projection, pooled
from hpse_dist.objectives.instances import InstanceConfig, Instances
from hpse_dist.precision import in_full_precision
from hpse_dist.views import ViewConfig


def _view() -> ViewConfig:
    return ViewConfig(
        scale=(0.36, 1.0), aspect=(1.0, 1.0), flip=0.0, rotation_deg=45.0, translation=15 / 128,
        centred=True, grey=0.0, blur=0.0,
    )  # fmt: skip


@dataclass(frozen=True)
class PeclrConfig(InstanceConfig):
    """Turns up to 45 degrees, shifts of 15 of 128 pixels, scale and colours."""

    view: ViewConfig = field(default_factory=_view)
    """How views are drawn; never flipped, as a mirror picture is not a movement of the camera."""
    hidden: int = 512
    """Channels between the head's two layers."""
    dim: int = 128
    """Channels of a projection, read as dim / 2 points."""
    temperature: float = 0.5
    """Divides the cosines."""

    def __post_init__(self) -> None:
        if self.dim < 4 or self.dim % 2:
            raise ValueError(f"dim must be even and at least 4, found {self.dim}")
        if self.hidden < 1 or self.temperature <= 0:
            raise ValueError("hidden and temperature must be positive")


class Peclr(Instances):
    """Encoder and head; negatives are the other pictures of the micro-batch, of all ranks."""

    Config = PeclrConfig
    config: PeclrConfig
    shardable: ClassVar[bool] = True
    splits: ClassVar[bool] = False

    def __init__(self, config: PeclrConfig, encoder: Encoder, seed: int) -> None:
        super().__init__(config, encoder, seed)
        self.head = Projection(encoder.dim, config.hidden, config.dim)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`: NT-Xent over the views taken back, a mean over this rank's views."""
        views = [self.view(batch, name) for name in ("first", "second")]
        tokens = self.encoder(torch.cat([view.image for view in views]))
        points = self.head(pooled(tokens)).float()
        back = taken_back(points, torch.cat([view.from_view for view in views]))
        unit = F.normalize(back, dim=-1)
        # a row is a picture: its two views next to one another, whatever rank it is on
        rows = torch.stack(unit.chunk(2), 1)
        everyone = gather_rows_with_gradient(rows)
        ids = gather_rows(batch["sample_id"])
        loss = nt_xent(rows, everyone, batch["sample_id"], ids, self.config.temperature)
        return {"loss": loss.mean()}


def taken_back(projection: Tensor, from_view: Tensor) -> Tensor:
    """Undoes a view's geometry: projection (B, 2m), from_view (B, 3, 3) -> (B, 2m).

    Channels 2i and 2i + 1 are point i. The view's geometry is in shares of its side, projections
    have no unit: as in the paper the shift is scaled by the extent of the projection, L = max -
    min over its coordinates (a constant to the gradient), so that a view's side is L and its
    middle is the origin. A change of scale alone would leave the cosine as it is; it matters
    beside the shift. Where the middle of the picture is, is the origin again.
    """
    points = projection.unflatten(1, (-1, 2))
    extent = (projection.amax(1) - projection.amin(1)).detach()[:, None, None]
    linear = from_view[:, :2, :2]
    middle = (linear.sum(2) / 2 + from_view[:, :2, 2]) - 0.5  # where the view's middle lies
    moved = (linear[:, None] * points[:, :, None]).sum(3) + middle[:, None] * extent
    return moved.flatten(1)


@in_full_precision
def nt_xent(
    rows: Tensor, everyone: Tensor, ids: Tensor, all_ids: Tensor, temperature: float
) -> Tensor:
    """Cross-entropy of a view's partner among all views but itself: -> (n, 2).

    rows (n, 2, C) and everyone (N, 2, C) of length 1, with the sample ids of each. Views of the
    same picture that come twice are no negatives of one another.
    """
    logits = torch.einsum("nvc,mwc->nvmw", rows, everyone) / temperature
    same = ids[:, None] == all_ids[None]
    others = logits.masked_fill(same[:, None, :, None], -torch.inf).flatten(2)
    own = ((rows[:, 0] * rows[:, 1]).sum(1) / temperature)[:, None].expand(-1, 2)
    return torch.cat((others, own[..., None]), 2).logsumexp(2) - own
