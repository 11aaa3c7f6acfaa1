"""AdamW and its learning rate: who decays, who learns slower, and how fast at which step."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with linear warm-up and half a cosine; the defaults are CroCo's and MAE's."""

    lr: float = 1.5e-4
    """Peak learning rate for the recipe's own global batch; 1.5e-4 is CroCo's and MAE's for 256."""
    weight_decay: float = 0.05
    """Decoupled weight decay of matrices; biases, norms and other vectors have none."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Adam's two averages."""
    warmup_steps: int = 0
    """Steps of linear warm-up; CroCo warms up over a tenth of its steps."""
    min_lr: float = 0.0
    """Learning rate at the last step."""
    clip: float = 0.0
    """Largest norm of the gradient over the global batch; 0 does not clip."""
    layer_decay: float | None = None
    """Learning rate of an encoder block (a stage of a ResNet) over that of the one above it; the
    head has the full rate. 0.65 to 0.75 are usual in fine-tuning; 1 or null: all the same."""

    def __post_init__(self) -> None:
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise ValueError(f"lr must be above 0, found {self.lr}")
        if not 0 <= self.min_lr <= self.lr:
            raise ValueError(f"min_lr must lie in 0..lr ({self.lr}), found {self.min_lr}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must be 0 or more, found {self.weight_decay}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie in 0..1, 1 excluded, found {self.betas}")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must be 0 or more, found {self.warmup_steps}")
        if self.clip < 0:
            raise ValueError(f"clip must be 0 (off) or more, found {self.clip}")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must lie in 0..1, 0 excluded, found {self.layer_decay}")


def schedule(step: int, steps: int, config: OptimConfig) -> float:
    """Learning rate of one update, step 1..steps.

    Linear from 0 at step 0 to `lr` at the end of the warm-up, then half a cosine that reaches
    `min_lr` at the last step (Loshchilov and Hutter 2017, without restarts).
    """
    assert config.warmup_steps < steps  # as recipes are
    if step < config.warmup_steps:
        return config.lr * step / config.warmup_steps
    progress = min(1.0, (step - config.warmup_steps) / (steps - config.warmup_steps))
    share = 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.min_lr + (config.lr - config.min_lr) * share


def build_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the module's trainable parameters; any engine takes it, DeepSpeed's too."""
    groups = parameter_groups(module, config)
    if not groups:
        raise ValueError(f"{type(module).__name__} has no trainable parameter")
    # fused: one pass over weights and moments, in place of a dozen per tensor
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def parameter_groups(module: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Optimizer groups with keys params, weight_decay and lr_scale (times the scheduled rate).

    A module may have `lr_scale(name) -> float`, its own factor for a parameter; it comes on top
    of `layer_decay`. The order of groups and of parameters inside them is the module's.
    """
    own_scale = getattr(module, "lr_scale", None)
    layer_decay = 1.0 if config.layer_decay is None else config.layer_decay
    depth = encoder_depth(module) if layer_decay < 1.0 else 0
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        decay = config.weight_decay if _decays(name, parameter) else 0.0
        scale = float(own_scale(name)) if own_scale is not None else 1.0
        if layer_decay < 1.0:
            scale *= layer_decay ** (depth + 1 - layer_of(name, depth))
        groups.setdefault((decay, scale), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr_scale": scale}
        for (decay, scale), parameters in groups.items()
    ]


def _decays(name: str, parameter: nn.Parameter) -> bool:
    """Matrices decay; vectors do not, nor do positions and class tokens (as in MAE and BEiT)."""
    return parameter.ndim > 1 and not name.endswith((".bias", *_TOKENS))


_TOKENS = ("pos_embed", "cls_token", "dist_token", "reg_token")
_BELOW = re.compile(rf"\b(patch_embed|stem|conv_stem|conv1|bn1|{'|'.join(_TOKENS)})\b")
_STAGE = re.compile(r"^encoder\.(?:model\.)?(?:stages|layers)\.(\d+)\.")  # from 0
_RESNET_STAGE = re.compile(r"^encoder\.(?:model\.)?layer(\d+)\.")  # from 1
_BLOCK = re.compile(r"^encoder\.(?:.*\.)?blocks\.(\d+)\.")


def encoder_depth(module: nn.Module) -> int:
    """Number of layers of the module's encoder, read from timm's parameter names: the blocks of a
    vision transformer, the stages of a convolutional network or a Swin transformer."""
    found = [layer for name, _ in module.named_parameters() if (layer := _numbered(name))]
    if not found:
        raise ValueError(
            "layer_decay needs an encoder with timm's names (encoder.blocks.0. and so on, or "
            f"stages, as encoder.model.layer1.); {type(module).__name__} has none"
        )
    return max(found)


def _numbered(name: str) -> int | None:
    """1, 2, ... of a parameter inside a block or, where the encoder has them, a stage."""
    if match := _RESNET_STAGE.match(name):
        return int(match.group(1))
    # stages first: the blocks of a stage have numbers of their own
    match = _STAGE.match(name) or _BLOCK.match(name)
    return int(match.group(1)) + 1 if match else None


def layer_of(name: str, depth: int) -> int:
    """Layer of a parameter as in BEiT and MAE: 0 the embeddings (or the stem), i + 1 block i,
    depth + 1 all above: the last norm and the head."""
    layer = _numbered(name)
    if layer is not None:
        return layer
    if name.startswith("encoder.") and _BELOW.search(name):
        return 0
    return depth + 1
