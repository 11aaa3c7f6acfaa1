"""A tiny objective and a deterministic loader, for the tests of the training machinery."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from hpse_dist.engine import Engine, build_engine
from hpse_dist.fields import Batch
from hpse_dist.optim import OptimConfig
from hpse_dist.world import World

WIDTH = 6
GLOBAL_BATCH = 16
CPU = torch.device("cpu")


class TinyEncoder(nn.Module):
    """Two layers named as layer-wise learning rates need them."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Linear(WIDTH, 16)
        self.blocks = nn.ModuleList([nn.LayerNorm(16)])

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(self.blocks[0](self.patch_embed(x)))


class TinyObjective(nn.Module):
    """Two layers that learn a fixed function; it can be told to produce NaN in two ways."""

    needs = ("image", "sample_id")

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.encoder = TinyEncoder()
        self.head = nn.Linear(16, 1)
        self.gain = nn.Parameter(torch.ones(1, 1))  # held by the top module itself
        self.spare = nn.Parameter(torch.ones(3))  # a batch's loss touches it where it says so
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.progress = 0.0

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        error = self._errors(batch)
        if self.training:
            self.seen += len(error)
        loss = error.mean()
        if batch.get("nan_gradient", torch.zeros(1)).any():
            loss = loss + (self.gain.sum() * 0).sqrt()  # 0, with the gradient 0 * inf
        if "spare" in batch:
            loss = loss + error.mean().detach() * (self.spare - 0.5).square().sum()
        return {"loss": loss, "loss_large": error[error > 1].mean().detach()}

    def _errors(self, batch: Batch) -> Tensor:
        x = batch["image"]
        out = self.gain * self.head(self.encoder(x))[:, 0:1]
        return (out - x.sin().sum(1, keepdim=True)).square()[:, 0].float()

    def after_step(self, progress: float) -> None:
        self.progress = progress

    def after_refusal(self) -> None:
        pass

    def metrics(self, batch: Batch) -> dict[str, Tensor]:
        error = self._errors(batch)
        odd = batch["sample_id"] % 2 == 1
        return {"error": error, "error_odd": torch.where(odd, error, math.nan)}

    def summary(self, means: dict[str, float]) -> dict[str, float]:
        return {"ratio": means["error_odd"] / means["error"]}

    def panels(self, batch: Batch) -> dict[str, Tensor]:
        shade = self._errors(batch).mean().sigmoid()
        return {"errors": shade.expand(3, 8, 8)}


def make_batch(ids: Tensor) -> Batch:
    """Each sample's picture is a function of its number alone."""
    image = torch.sin(ids[:, None] * torch.arange(1, WIDTH + 1) * 0.7 + 1.0).float()
    return {"image": image, "sample_id": ids}


class TinyLoader:
    """Global batches 0..G-1, G..2G-1, ...; this rank's slice, cut into micro-batches."""

    def __init__(
        self, world: World, global_batch: int = GLOBAL_BATCH, micro_batch: int = 4
    ) -> None:
        self.world, self.global_batch, self.micro_batch = world, global_batch, micro_batch
        self.cursor = 0
        self.poison: dict[int, str] = {}  # sample_id -> "loss" or "gradient"
        self.now_and_then = False  # whether some batches' loss touches `spare`

    def __iter__(self) -> Iterator[Batch]:
        share = self.global_batch // self.world.size
        while True:
            first = self.cursor + share * self.world.rank
            ids = torch.arange(first, first + share)
            touching = ((0,), (1,), (), (0, 1))[self.cursor // self.global_batch % 4]
            for i, part in enumerate(ids.split(self.micro_batch)):
                if (i + 1) * self.micro_batch == share:
                    self.cursor += self.global_batch
                batch = self._poisoned(make_batch(part))
                if self.now_and_then and i % 2 in touching:
                    batch["spare"] = torch.ones(1)
                yield batch

    def _poisoned(self, batch: Batch) -> Batch:
        for row, number in enumerate(batch["sample_id"].tolist()):
            if self.poison.get(number) == "loss":
                batch["image"][row] = math.nan
            if self.poison.get(number) == "gradient":
                batch["nan_gradient"] = torch.ones(1)
        return batch

    def state_dict(self) -> dict[str, int]:
        return {"epoch": 0, "cursor": self.cursor}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.cursor = state["cursor"]


def make_engine(
    kind: str,
    world: World | None = None,
    *,
    seed: int = 0,
    accumulation: int | None = None,
    micro_batch: int = 4,
    clip: float = 0.0,
    precision: str = "fp32",
    stage: int = 0,
    offload: str = "nothing",
    frozen: bool = False,
    layer_decay: float | None = None,
) -> Engine:
    """An engine of one kind around a TinyObjective, for TinyLoader's global batch."""
    world = world or World()
    module = TinyObjective(seed)
    module.encoder.requires_grad_(not frozen)
    if accumulation is None:
        accumulation = GLOBAL_BATCH // (micro_batch * world.size)
    return build_engine(
        kind,
        module,
        OptimConfig(lr=3e-3, warmup_steps=2, clip=clip, layer_decay=layer_decay),
        world=world,
        device=CPU,
        accumulation=accumulation,
        micro_batch=micro_batch,
        precision=precision,  # type: ignore[arg-type]
        zero_stage=stage,
        offload=offload,  # type: ignore[arg-type]
    )
