"""One process, plain torch: the engine the others are measured against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hpse_dist.engine.base import Engine, Precision
from hpse_dist.fields import Batch
from hpse_dist.world import World

STATE_FILE = "engine.safetensors"


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

    def backward(self, loss: Tensor) -> None:
        (loss / self.accumulation).backward()

    def _step(self, boundary: bool) -> None:
        if not boundary:
            return
        self._finish_gradients()
        gradients = [p.grad for p in self.trainable if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        self._check_norm(norm.item())
        if self.clip > 0:
            nn.utils.clip_grads_with_norm_(self.trainable, self.clip, norm)
        self.optimizer.step()
        self._clear_gradients()

    def _finish_gradients(self) -> None:
        """A parameter that no loss touched has the gradient 0, not none: as ZeRO sees it."""
        for parameter in self.trainable:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def _clear_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    # -- state: one file without pickles, whatever the number of ranks

    def save(self, folder: Path) -> None:
        if not self.world.is_main:
            return
        tensors = {f"module.{name}": value for name, value in self.module.state_dict().items()}
        for name, parameter in self.module.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{key}.{name}"] = value
        # safetensors refuses tensors that share memory, as tied weights do
        tensors = {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}
        try:
            save_file(tensors, folder / STATE_FILE, metadata={"updates": str(self.updates)})
        except SafetensorError as error:
            raise OSError(f"{folder / STATE_FILE}: {error}") from None

    def load(self, folder: Path) -> None:
        path = folder / STATE_FILE
        if not path.is_file():
            raise ValueError(
                f"{folder}: not a checkpoint of the plain or ddp engine; resume with the engine "
                "it was made with, or start another run folder"
            )
        with safe_open(path, "pt", device="cpu") as file:
            self.updates = int((file.metadata() or {})["updates"])
            names = set(file.keys())
            self.module.load_state_dict(
                {name: file.get_tensor(f"module.{name}") for name in self.module.state_dict()}
            )
            for name, parameter in self.module.named_parameters():
                state = {
                    key: file.get_tensor(f"optimizer.{key}.{name}")
                    for key in ("step", "exp_avg", "exp_avg_sq")
                    if f"optimizer.{key}.{name}" in names
                }
                if state:  # AdamW counts its steps on the CPU
                    self.optimizer.state[parameter] = {
                        key: value if key == "step" else value.to(self.device)
                        for key, value in state.items()
                    }

    def full_state_dict(self) -> dict[str, Tensor]:
        if not self.world.is_main:
            return {}
        state = self.module.state_dict()
        return {name: value.detach().to("cpu", copy=True) for name, value in state.items()}

    def close(self) -> None:
        self._clear_gradients()
