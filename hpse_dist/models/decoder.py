"""The completion decoder: fills in hidden patches, looking at a second picture.

Sizes as in CroCo (Weinzaepfel et al. 2022, 2023): v1's decoder is `small`, v2's is `base`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from hpse_dist.models.blocks import (
    Block,
    CrossBlock,
    Rotation,
    init_weights,
    layer_norm,
    rotation_table,
)
from hpse_dist.models.encoder import Encoder
from hpse_dist.models.positions import Grid, grid_positions, resample, sincos_table

PRESETS: dict[str, tuple[int, int, int]] = {  # dim, depth, heads
    "tiny": (64, 2, 2),
    "small": (512, 8, 16),
    "base": (768, 12, 12),
}


@dataclass(frozen=True)
class DecoderConfig:
    """Size of the cross-attending decoder."""

    name: Literal["tiny", "small", "base", "custom"] = "small"
    """Preset of dim, depth and heads; 'custom' needs all three given below."""
    dim: int | None = None
    """Channels of a token, in place of the preset's."""
    depth: int | None = None
    """Number of blocks, in place of the preset's."""
    heads: int | None = None
    """Attention heads, in place of the preset's."""

    def __post_init__(self) -> None:
        if self.name == "custom" and None in (self.dim, self.depth, self.heads):
            raise ValueError("name 'custom' needs dim, depth and heads")
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


class Decoder(nn.Module):
    """Visible tokens of one picture and all tokens of another to pixels of the hidden patches.

    With `crosses` False there is no other picture, as in MAE.
    """

    def __init__(self, config: DecoderConfig, encoder: Encoder, crosses: bool = True) -> None:
        """Patch, grid and kind of positions follow the encoder, which is not kept."""
        super().__init__()
        self.dim, depth, self.heads = config.sizes()
        self.native_grid = encoder.config.grid()
        rotary = encoder.config.positions == "rotary"
        table = None if rotary else sincos_table(self.native_grid, self.dim)
        self.register_buffer("positions", table, persistent=False)
        self.embed = nn.Linear(encoder.dim, self.dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, self.dim))
        kind = CrossBlock if crosses else Block
        self.blocks = nn.ModuleList(kind(self.dim, self.heads) for _ in range(depth))
        self.norm = layer_norm(self.dim)
        self.head = nn.Linear(self.dim, 3 * encoder.patch_px**2)
        init_weights(self.modules())
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(
        self,
        tokens: Tensor,
        visible: Tensor,
        hidden: Tensor,
        memory: Tensor | None,
        grid: Grid,
        memory_grid: Grid | None = None,
    ) -> Tensor:
        """Predicted pixels of the hidden patches.

        tokens (B, K, C) of the patches `visible` (B, K), memory (B, M, C) of all patches of the
        reference (None without one), hidden (B, L) the indices to predict, grids in rows and
        columns -> (B, L, 3pp), in the order of `masking.patchify`.
        """
        x = self._filled(tokens, visible, grid)
        return self.head(self.norm(self._look(x, memory, grid, memory_grid, only=hidden)))

    def looks_at(
        self, tokens: Tensor, visible: Tensor, memory: Tensor, grid: Grid, memory_grid: Grid
    ) -> Tensor:
        """Which patches of the reference each patch looks at in the last block, mean of the heads.

        As for `forward` -> (B, patches, M), rows sum to 1. For pictures of a few samples.
        """
        rotation, x = self._placed(self._filled(tokens, visible, grid), grid)
        memory_rotation, memory = self._placed(self.embed(memory), memory_grid)
        for block in self.blocks[:-1]:
            x = block(x, memory, rotation, memory_rotation)
        last = cast(CrossBlock, self.blocks[-1])
        return last.weights(x, memory, rotation, memory_rotation)

    def _filled(self, tokens: Tensor, visible: Tensor, grid: Grid) -> Tensor:
        """Tokens (B, N, dim) of all patches: the visible ones' own, else the mask's."""
        known = self.embed(tokens)
        x = self.mask_token.to(known.dtype).expand(len(known), grid[0] * grid[1], -1)
        return x.scatter(1, visible[..., None].expand(-1, -1, self.dim), known)

    def read(self, tokens: Tensor, memory: Tensor, grid: Grid, memory_grid: Grid) -> Tensor:
        """What it makes of a picture with nothing hidden beside a second one, before pixels.

        tokens (B, N, C) and memory (B, M, C) of all patches of each -> (B, N, dim).
        """
        return self.norm(self._look(self.embed(tokens), memory, grid, memory_grid))

    def _look(
        self,
        x: Tensor,
        memory: Tensor | None,
        grid: Grid,
        memory_grid: Grid | None,
        only: Tensor | None = None,
    ) -> Tensor:
        """The blocks over tokens (B, N, dim) of all patches, beside those of another picture.

        Of the last block only those patches' tokens, (B, L) indices: nobody reads the others.
        """
        rotation, x = self._placed(x, grid)
        beside: tuple[Any, ...] = (rotation,)
        if memory is not None and memory_grid is not None:
            memory_rotation, memory = self._placed(self.embed(memory), memory_grid)
            beside = (memory, rotation, memory_rotation)
        for block in self.blocks[:-1]:
            x = block(x, *beside)
        return self.blocks[-1](x, *beside, only=only)

    def _placed(self, x: Tensor, grid: Grid) -> tuple[Rotation | None, Tensor]:
        """The rotation of a picture's tokens, or none and the tokens with the table added."""
        if isinstance(self.positions, Tensor):
            return None, x + resample(self.positions, self.native_grid, grid).to(x.dtype)
        return rotation_table(grid_positions(grid, x.device), self.dim // self.heads), x
