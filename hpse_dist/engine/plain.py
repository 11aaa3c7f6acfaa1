"""One process, plain torch: the engine the others are measured against."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hpse_dist.engine.base import Engine, Precision
from hpse_dist.engine.held import held_whole
from hpse_dist.engine.state import (
    SavedState,
    Snapshot,
    kept_aside,
    snapshot_of_whole,
    take_kept,
    take_whole,
    trained,
)
from hpse_dist.fields import Batch
from hpse_dist.world import World


class PlainEngine(Engine):
    """fp32 weights and AdamW states; bf16 is torch's autocast around the forward pass."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        world: World,
        device: torch.device,
        accumulation: int,
        clip: float,
        precision: Precision,
    ) -> None:
        super().__init__(world=world, device=device, accumulation=accumulation, precision=precision)
        self.module = module
        self.optimizer = optimizer
        self.clip = clip
        self.trainable = [p for p in module.parameters() if p.requires_grad]

    @property
    def _groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def _forward(self, batch: Batch) -> dict[str, Tensor]:
        with self.autocast():
            return self.module(batch)

    def _backward(self, loss: Tensor) -> None:
        (loss / self.accumulation).backward()

    def _step(self, boundary: bool) -> float:
        if not boundary:
            return 0.0
        self._finish_gradients()
        gradients = [p.grad for p in self.trainable if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        size = norm.item()
        if math.isfinite(size):
            if self.clip > 0:
                nn.utils.clip_grads_with_norm_(self.trainable, self.clip, norm)
            self.optimizer.step()
        self._clear_gradients()
        return size

    def _finish_gradients(self) -> None:
        """A parameter that no loss touched has the gradient 0, not none: as ZeRO sees it."""
        for parameter in self.trainable:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def _clear_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    # -- state

    def held(self) -> dict[str, list[Tensor]]:
        return held_whole(self.module, self.optimizer)

    def snapshot(self) -> Snapshot:
        """Every rank holds all: each takes its share of the parameters, the first what is left."""
        parameters, state = trained(self.module), self.optimizer.state
        steps = [int(values["step"]) for values in state.values() if "step" in values]
        snapshot = self._new_snapshot(max(steps, default=0))
        share = itertools.islice(parameters.items(), self.world.rank, None, self.world.size)
        snapshot_of_whole(snapshot, dict(share), state)
        if self.world.is_main:
            for name, value in kept_aside(self.module).items():
                snapshot.add(f"kept:{name}", value.shape, 0, value)
        return snapshot

    def load(self, folder: Path) -> None:
        saved = SavedState(folder)
        take_whole(saved, trained(self.module), self.optimizer.state)
        take_kept(saved, self.module)
        self.updates = saved.facts["updates"]

    def full_state_dict(self) -> dict[str, Tensor]:
        if not self.world.is_main:
            return {}
        state = self.module.state_dict()
        return {name: value.detach().to("cpu", copy=True) for name, value in state.items()}

    def close(self) -> None:
        self._clear_gradients()
