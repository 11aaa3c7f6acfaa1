"""What objectives that tell instances apart share: two views, queues, retrieval as the measure."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpse_dist.collectives import gather_rows
from hpse_dist.fields import Batch
from hpse_dist.models.projection import pooled
from hpse_dist.objectives.base import PANEL_ROWS, Objective, sheet, to_rgb
from hpse_dist.precision import in_full_precision
from hpse_dist.views import ViewConfig, Views, make_views


@dataclass(frozen=True)
class InstanceConfig:
    """Two views of one picture; the loader's own augmentation is best turned off."""

    view: ViewConfig = field(default_factory=ViewConfig)
    """How views are drawn."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The fields read from a batch."""
        return ("image", "sample_id", "epoch", "valid")


class Instances(Objective):
    """An encoder trained on views of single pictures, measured by finding a picture's other view.

    Metrics, per example: `retrieval_top1`, whether the encoder's pooled features of one view are
    nearest (cosine) to those of the same picture's other view among the valid pictures of the
    evaluation batch; `retrieval_chance`, one over their number. The views are drawn once and for
    all by `view`, so an untrained and a trained encoder see the same pictures.
    """

    config: InstanceConfig
    shardable = False  # overridden where there is no momentum copy

    def view(self, batch: Batch, name: str, epoch: int | Tensor | None = None) -> Views:
        """View `name` of the batch's pictures, by `config.view`."""
        epoch = batch["epoch"] if epoch is None else epoch
        return make_views(
            batch["image"], batch["sample_id"], epoch, self.seed, name, self.config.view
        )

    @torch.no_grad()
    def metrics(self, batch: Batch) -> dict[str, Tensor]:
        """retrieval_top1 and its chance level."""
        one, two = (self.view(batch, name, 0).image for name in ("first", "second"))
        return retrieval(pooled(self.encoder(one)), pooled(self.encoder(two)), batch["valid"])

    @torch.no_grad()
    def panels(self, batch: Batch) -> dict[str, Tensor]:
        """Pictures and their views."""
        batch = {name: value[:PANEL_ROWS] for name, value in batch.items()}
        columns = {
            "picture": batch["image"],
            "first view": self.view(batch, "first", 0).image,
            "second view": self.view(batch, "second", 0).image,
        }
        return {"views": columns_sheet(columns)}


def columns_sheet(columns: dict[str, Tensor]) -> Tensor:
    """A sheet of normalised pictures: title -> (rows, 3, h, w)."""
    rows = list(zip(*(to_rgb(value).cpu() for value in columns.values()), strict=True))
    return sheet(rows, list(columns), [""] * len(rows))


@in_full_precision
def retrieval(query: Tensor, key: Tensor, valid: Tensor) -> dict[str, Tensor]:
    """Whether query i's nearest key is key i: (B, C) each, valid (B,) bool -> two of (B,)."""
    query, key = F.normalize(query, dim=-1), F.normalize(key, dim=-1)
    likeness = (query @ key.T).masked_fill(~valid[None, :], -torch.inf)
    found = likeness.argmax(1) == torch.arange(len(query), device=query.device)
    chance = torch.full_like(likeness[:, 0], 1.0) / valid.sum().clamp(min=1)
    return {"retrieval_top1": found.float(), "retrieval_chance": chance}


class Kept:
    """Rows that forward passes leave for `after_step`, in an order that no split changes."""

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, ...]] = []

    def add(self, batch: Batch, *rows: Tensor) -> None:
        """Rows (B, ...) of a micro-batch."""
        ids, epochs = batch["sample_id"], batch["epoch"]
        self._parts.append((ids, epochs, *(r.detach().float() for r in rows)))

    def drop(self) -> None:
        """Forget the rows since the last `take`."""
        self._parts.clear()

    def take(self) -> list[Tensor]:
        """All rows of all ranks since the last call, by sample id (and pass); none: an empty list.

        Collective.
        """
        if not self._parts:
            return []
        whole = [gather_rows(torch.cat(part)) for part in zip(*self._parts, strict=True)]
        self._parts.clear()
        order = whole[1].argsort(stable=True)
        order = order[whole[0][order].argsort(stable=True)]
        return [rows[order] for rows in whole[2:]]


class Queue(nn.Module):
    """The last K keys, of length 1; starts with random ones."""

    keys: Tensor
    place: Tensor

    def __init__(self, size: int, dim: int, seed: int) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.register_buffer("keys", F.normalize(torch.randn(size, dim, generator=rng), dim=-1))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def put(self, rows: Tensor) -> None:
        """The oldest keys make room for rows (n, C)."""
        size = len(self.keys)
        index = (self.place + torch.arange(len(rows), device=rows.device)) % size
        # more rows than room: the last ones stay
        self.keys[index[-size:]] = rows[-size:].to(self.keys.dtype)
        self.place.copy_((self.place + len(rows)) % size)


def info_nce(query: Tensor, positive: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of the positive among the negatives, per row.

    query, positive (..., C) and negatives (K, C), all of length 1 -> (...). Where the run is in
    bf16 so is the product with the negatives: the largest there is, which GPUs make in fp32 at a
    tenth of the rate and less, and a logit loses no more than the network's own rounding.
    """
    own = (query * positive).sum(-1, keepdim=True)
    others = F.linear(query, negatives)
    logits = torch.cat((own, others.float()), -1) / temperature
    return logits.logsumexp(-1) - logits[..., 0]
