"""A small plain convolutional encoder, after VGG: where only CPUs and few pictures are at hand.

Each stage halves the picture and then looks again without halving; nothing else. It learns from
fewer pictures than a vision transformer and takes a fraction of a ResNet's time a step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hpse_dist.models.batch_norm import over_all_ranks
from hpse_dist.models.drop_path import DropKeys
from hpse_dist.models.positions import Grid


class ConvEncoder(nn.Module):
    """Stages of 3 x 3 convolutions, read like an `Encoder`; it cannot leave patches out."""

    over_patches = False

    def __init__(self, config: Any) -> None:
        """config: an EncoderConfig with name 'conv': dim channels at the end, half as many each
        stage before; depth convolutions a stage; as many stages as halvings make a patch."""
        super().__init__()
        self.config = config
        self.dim, depth, _ = config.sizes()
        self.image_px, self.patch_px = config.image_px, config.patch_px
        self.drop_keys = DropKeys()
        stages = config.patch_px.bit_length() - 1
        widths = [self.dim >> (stages - 1 - stage) for stage in range(stages)]
        self.stages = nn.ModuleList(
            _stage(before, width, depth)
            for before, width in zip([3, *widths], widths, strict=False)
        )
        over_all_ranks(self)

    def forward(self, image: Tensor, visible: Tensor | None = None) -> Tensor:
        """image (B, 3, H, W) in the loader's normalisation -> (B, N, C), row by row."""
        if visible is not None:
            raise ValueError("encoder conv looks at whole pictures, not at some patches")
        self.grid(image)
        image = image.contiguous(memory_format=torch.channels_last)  # quicker, and tokens lie so
        for stage in self.stages:
            image = stage(image)
        return image.flatten(2).transpose(1, 2)

    def grid(self, image: Tensor) -> Grid:
        """Rows and columns of cells of a picture (B, 3, H, W)."""
        height, width = image.shape[-2:]
        if height % self.patch_px or width % self.patch_px:
            raise ValueError(
                f"image: its height and width must be multiples of {self.patch_px} px; found "
                f"{height} x {width}"
            )
        return height // self.patch_px, width // self.patch_px


def _stage(before: int, width: int, depth: int) -> nn.Sequential:
    """depth convolutions with batch norm and ReLU, of which the first halves the picture."""
    layers: list[nn.Module] = []
    for layer in range(depth):
        convolution = nn.Conv2d(
            before if layer == 0 else width, width, 3, 2 if layer == 0 else 1, 1, bias=False
        )
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)
