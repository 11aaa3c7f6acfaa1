"""The encoder: a vision transformer over patches, without a class token.

It may be given the visible patches only, as completion does: the hidden ones are dropped before
the first layer and cost nothing. Parameter names are those of timm's VisionTransformer, so a state
dict goes to and from `timm.create_model(name, class_token=False, ...)` by copying.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpse_dist.models.attention import Lengths
from hpse_dist.models.blocks import (
    Block,
    Rotation,
    init_weights,
    layer_norm,
    rotation_table,
    take,
)
from hpse_dist.models.conv_encoder import ConvEncoder
from hpse_dist.models.drop_path import DropKeys, keep_factors
from hpse_dist.models.positions import Grid, grid_positions, resample, sincos_table
from hpse_dist.models.timm_encoder import VIT, TimmEncoder

PRESETS: dict[str, tuple[int, int, int]] = {  # dim, depth, heads
    "tiny": (64, 2, 2),
    "vit_t": (192, 12, 3),
    "vit_s": (384, 12, 6),
    "vit_b": (768, 12, 12),
    "vit_l": (1024, 24, 16),
    "vit_h": (1280, 32, 16),
    "conv": (128, 2, 1),  # channels at the end, convolutions a stage
}


@dataclass(frozen=True)
class EncoderConfig:
    """Size and positions of the encoder."""

    name: Literal["tiny", "vit_t", "vit_s", "vit_b", "vit_l", "vit_h", "custom", "conv", "timm"] = (
        "vit_b"
    )
    """Preset of dim, depth and heads; 'custom' needs all three given below; 'timm' takes a model of
    timm's and 'conv' is a small plain convolutional one, quick on CPUs: both look at whole
    pictures, for objectives and tasks that hide no patches."""
    image_px: int = 224
    """Side of the square training picture; other multiples of the patch work too."""
    patch_px: int = 16
    """Side of a patch."""
    dim: int | None = None
    """Channels of a token, in place of the preset's."""
    depth: int | None = None
    """Number of blocks, in place of the preset's."""
    heads: int | None = None
    """Attention heads, in place of the preset's."""
    positions: Literal["rotary", "sincos"] = "rotary"
    """Rotary (CroCo v2) turns queries and keys; sincos adds a fixed table (CroCo v1, MAE)."""
    drop_path: float = 0.0
    """Share of blocks left out per sample in training, rising linearly with depth to this."""
    timm: str = ""
    """timm's name of the model, such as resnet50; 'vit' for a ViT of the sizes given here."""
    output_stride: Literal[8, 16, 32] | None = None
    """Pixels to a token of a convolutional model, finer than its own by dilation where it can, as
    ResNets and RegNets; null for the model's own, mostly 32 (timm only)."""
    class_token: bool = False
    """A class token among the patches (timm 'vit' only)."""
    registers: int = 0
    """Register tokens among the patches, as DINOv2's (timm 'vit' only)."""
    layer_scale: bool = False
    """Learned scales of each block's branches, as DINOv2's (timm 'vit' only)."""
    input_mean: tuple[float, float, float] | None = None
    """Mean that the model's pictures were normalised by, where it is not ImageNet's (timm only)."""
    input_std: tuple[float, float, float] | None = None
    """The standard deviation with it (timm only)."""

    def __post_init__(self) -> None:
        if self.name == "custom" and None in (self.dim, self.depth, self.heads):
            raise ValueError("name 'custom' needs dim, depth and heads")
        if self.patch_px < 1 or self.image_px < 1 or self.image_px % self.patch_px:
            raise ValueError(
                f"image_px must be a multiple of patch_px, found {self.image_px} and "
                f"{self.patch_px}"
            )
        if (self.name == "timm") != bool(self.timm):
            raise ValueError(
                "name 'timm' needs timm's name of a model in timm, and only it has one"
            )
        if not 0.0 <= self.drop_path < 1.0:
            raise ValueError(f"drop_path must be in [0, 1), found {self.drop_path}")
        if self.output_stride is not None and self.timm in ("", VIT):
            raise ValueError("output_stride is for timm's convolutional models; set it to null")
        if self.name == "timm" and self.timm != VIT:
            return  # its sizes are timm's
        if self.name == "conv" and (self.patch_px < 2 or self.patch_px.bit_count() > 1):
            raise ValueError(
                f"patch_px of encoder conv must be a power of two, found {self.patch_px}"
            )
        dim, depth, heads = self.sizes()
        if min(dim, depth, heads) < 1:
            raise ValueError(f"dim, depth, heads must be positive, found {dim}, {depth}, {heads}")
        if dim % (4 * heads):
            raise ValueError(f"dim must be a multiple of 4 * heads, found {dim} and {heads} heads")

    def sizes(self) -> tuple[int, int, int]:
        """dim, depth and heads, the preset's where none is given."""
        dim, depth, heads = PRESETS.get(self.name, (0, 0, 0))
        return (
            dim if self.dim is None else self.dim,
            depth if self.depth is None else self.depth,
            heads if self.heads is None else self.heads,
        )

    def grid(self) -> Grid:
        """Rows and columns of patches of the training picture."""
        side = self.image_px // self.patch_px
        return side, side


class PatchEmbed(nn.Module):
    """Patches to tokens. `proj` is a convolution by name and shape, as in timm, but applied as a
    linear layer to cut-out patches: so hidden patches can be left out first."""

    def __init__(self, patch_px: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_px, stride=patch_px)

    def forward(self, image: Tensor, visible: Tensor | None) -> Tensor:
        """image (B, 3, H, W), visible (B, K) or None -> (B, K or N, C)."""
        p = self.proj.kernel_size[0]
        patches = image.unflatten(3, (-1, p)).unflatten(2, (-1, p))  # (B, 3, h, p, w, p)
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (B, N, 3pp)
        if visible is not None:
            patches = take(patches, visible)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class Encoder(nn.Module):
    """Vision transformer: pictures to normalised tokens."""

    over_patches = True  # it can be given some patches only
    pos_embed: Tensor | None

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.dim, depth, self.heads = config.sizes()
        # image_px: of the pictures to be seen; a source's config keeps that of its positions
        self.image_px, self.patch_px = config.image_px, config.patch_px
        self.patch_embed = PatchEmbed(config.patch_px, self.dim)
        # a buffer: the table is fixed, yet travels in the state dict as timm's does
        table = sincos_table(config.grid(), self.dim) if config.positions == "sincos" else None
        self.register_buffer("pos_embed", table)
        self.drop_keys = DropKeys()
        self.drop_path = config.drop_path
        self.blocks = nn.ModuleList(Block(self.dim, self.heads) for _ in range(depth))
        self.norm = layer_norm(self.dim)
        init_weights(self.modules())
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.view(self.dim, -1))
        nn.init.zeros_(self.patch_embed.proj.bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor, visible: Tensor | None = None) -> Tensor:
        """Tokens of a picture: image (B, 3, H, W) normalised -> (B, N, C), patches row by row.

        With `visible` (B, K) int64, indices of patches, only those are looked at: -> (B, K, C).
        Raises ValueError where H or W is no multiple of the patch.
        """
        x, rotation = self._embed(image, visible)
        return self._run(x, rotation, None)

    def forward_pair(
        self, image: Tensor, visible: Tensor, reference: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Tokens of the visible patches of one picture and of all patches of another, in one pass.

        image (B, 3, H, W), visible (B, K), reference (B, 3, H', W') -> (B, K, C), (B, N', C). The
        same numbers as two calls: the sequences are packed end to end and attend only within
        themselves, so each layer is one large matrix product in place of two smaller ones.
        """
        if self.training and self.drop_path > 0.0:  # drops whole samples: not packed ones
            return self(image, visible), self(reference)
        x, x_rotation = self._embed(image, visible)
        y, y_rotation = self._embed(reference, None)
        batch, split = len(x), x.shape[0] * x.shape[1]
        lengths = [x.shape[1]] * batch + [y.shape[1]] * batch
        rotation = None
        if x_rotation is not None and y_rotation is not None:
            pairs = zip(x_rotation, y_rotation, strict=True)
            cos, sin = (pack(a, b, batch) for a, b in pairs)
            rotation = cos, sin
        tokens = self._run(pack(x, y, batch), rotation, (lengths, lengths))[0]
        first, second = tokens.split((split, len(tokens) - split))
        return first.unflatten(0, (batch, -1)), second.unflatten(0, (batch, -1))

    def grid(self, image: Tensor) -> Grid:
        """Rows and columns of patches of a picture (B, 3, H, W)."""
        height, width = image.shape[-2:]
        if height % self.patch_px or width % self.patch_px:
            raise ValueError(
                f"image: its height and width must be multiples of the patch, {self.patch_px} px; "
                f"found {height} x {width}"
            )
        return height // self.patch_px, width // self.patch_px

    def _embed(self, image: Tensor, visible: Tensor | None) -> tuple[Tensor, Rotation | None]:
        """Tokens with their positions added, or with the rotation that will turn them."""
        grid = self.grid(image)
        x = self.patch_embed(image, visible)
        if self.pos_embed is not None:
            table = resample(self.pos_embed, self.config.grid(), grid).to(x.dtype)
            return x + (table if visible is None else table[0][visible]), None
        positions = grid_positions(grid, image.device)
        if visible is not None:
            positions = positions[0][visible]
        return x, rotation_table(positions, self.dim // self.heads)

    def _run(self, x: Tensor, rotation: Rotation | None, lengths: Lengths | None) -> Tensor:
        kept = self._kept(x)
        for i, block in enumerate(self.blocks):
            x = block(x, rotation, lengths, kept[i])
        return self.norm(x)

    def _kept(self, x: Tensor) -> Sequence[Tensor | None]:
        """For each block the factors (B, 2) of its samples' branches; None drops nothing."""
        depth = len(self.blocks)
        if not self.training or self.drop_path == 0.0:
            return [None] * depth
        draw = self.drop_keys.draw(len(x), 2 * depth, x.device).unflatten(1, (depth, 2))
        rates = [self.drop_path * i / max(depth - 1, 1) for i in range(depth)]
        return [keep_factors(draw[:, i], rate) for i, rate in enumerate(rates)]


def pack(x: Tensor, y: Tensor, batch: int) -> Tensor:
    """All sequences of x, then all of y, end to end.

    x (B, K, ...), y (B, N, ...) or (1, N, ...), the same for every row -> (1, B(K+N), ...).
    """
    y = y.expand(batch, *y.shape[1:])
    return torch.cat((x.flatten(0, 1), y.flatten(0, 1))).unsqueeze(0)


def build_encoder(config: EncoderConfig) -> Encoder:
    """A new encoder with random weights from torch's generator.

    timm's models and the convolutional one are read like `Encoder`: they have its attributes,
    `grid` and `forward`.
    """
    if config.name == "conv":
        return cast(Encoder, ConvEncoder(config))
    return cast(Encoder, TimmEncoder(config)) if config.name == "timm" else Encoder(config)
