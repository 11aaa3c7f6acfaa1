"""An encoder that does not see its pictures: how far a task's labels alone lead.

What is learnt on top of it is the best answer that needs no look, of a task of poses about the mean
pose: a source that is not ahead of it has taught nothing about pictures.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_MARK = "blind"


def blindfold(encoder: nn.Module) -> None:
    """Have an encoder look at one and the same picture, whatever it is given: `places`. It learns
    as ever."""
    setattr(encoder, _MARK, True)
    encoder.register_forward_pre_hook(_instead)


def is_blind(encoder: nn.Module) -> bool:
    """Whether `blindfold` was called on it."""
    return getattr(encoder, _MARK, False)


def places(image: Tensor) -> Tensor:
    """A picture of nothing but places, of the size of image (B, 3, H, W): its channels run from -1
    to 1 from left to right, from top to bottom, and are 0. So answers that differ from place to
    place, as heat maps do, can be given by models that do not number their tokens."""
    height, width = image.shape[-2:]
    across = torch.linspace(-1, 1, width, device=image.device, dtype=image.dtype)
    down = torch.linspace(-1, 1, height, device=image.device, dtype=image.dtype)
    y, x = torch.meshgrid(down, across, indexing="ij")
    return torch.stack((x, y, torch.zeros_like(x))).expand_as(image)


def _instead(encoder: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    image, *rest = inputs
    return places(image), *rest
