"""Transformer blocks shared by the encoder, the decoder and the heads.

Pre-norm, GELU, LayerNorm with eps 1e-6; submodules are named as in timm's vision transformer, so
that a state dict goes over by copying. Legend: B batch, N tokens, M memory tokens, C channels,
H heads, D channels per head.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hpse_dist.models.attention import Lengths, attend
from hpse_dist.models.drop_path import dropped

Rotation = tuple[Tensor, Tensor]
"""Cosine and signed sine of every token's rotary angles, each (B, N, 1, D) float32."""


def layer_norm(dim: int) -> nn.LayerNorm:
    """LayerNorm with the vision transformer's eps."""
    return nn.LayerNorm(dim, eps=1e-6)


def init_weights(modules: Iterable[nn.Module]) -> None:
    """Xavier-uniform weights and zero biases in every linear layer (as in MAE and CroCo)."""
    for module in modules:
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """The tokens at some indices: tokens (B, N, ...), index (B, K) int64 -> (B, K, ...)."""
    rest = tokens.shape[2:]
    return tokens.gather(1, index[(..., *[None] * len(rest))].expand(*index.shape, *rest))


def rotation_table(positions: Tensor, head_dim: int, base: float = 100.0) -> Rotation:
    """Rotary angles of 2D positions: (B, N, 2) rows and columns -> cosine, sine (B, N, 1, D).

    RoPE2D of CroCo v2: half of a head's channels turns with the row, half with the column; with
    d = D/2 the i-th frequency of a half is base^(-2i/d). The sine has the sign of its term.
    """
    half = head_dim // 2
    exponent = torch.arange(0, half, 2, device=positions.device, dtype=torch.float32) / half
    angles = positions.float()[:, :, None, :, None] * base**-exponent
    cos, sin = angles.cos(), angles.sin()  # (B, N, 1, 2, D/4)
    return torch.stack((cos, cos), -2).flatten(-3), torch.stack((-sin, sin), -2).flatten(-3)


def rotation_at(rotation: Rotation | None, index: Tensor) -> Rotation | None:
    """That of the tokens at some indices (B, K) only."""
    if rotation is None:
        return None
    cos, sin = (take(part.expand(len(index), -1, -1, -1), index) for part in rotation)
    return cos, sin


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turns channel i of each half against channel i + D/4: x (B, N, H, D) -> same shape, dtype."""
    return _Rotate.apply(x, *rotation)


class _Rotate(torch.autograd.Function):
    """A rotation, whose gradient is the rotation back: nothing of x is kept, in two passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(gradient, cos, sin, -1.0), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, way: float) -> Tensor:
    """In float32 whatever x is; way is 1 forth and -1 back."""
    # to roll a pair by one is to flip it, in a quarter of the time on a CPU
    across = x.unflatten(-1, (2, 2, x.shape[-1] // 4)).roll(1, -2).flatten(-3)
    return (x * cos).addcmul_(across.to(cos.dtype), sin, value=way).to(x.dtype)


class Mlp(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        return self.fc2(F.gelu(self.fc1(x)))


class SelfAttention(nn.Module):
    """Multi-head self-attention with a fused qkv projection, optionally rotary."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None = None,
        lengths: Lengths | None = None,
        mask: Tensor | None = None,
        only: Tensor | None = None,
    ) -> Tensor:
        """(B, N, C) -> (B, N, C); mask (N, N) bool, True where a token sees another. only (B, L):
        indices of the tokens that are wanted, -> (B, L, C); they see all."""
        qkv = self.qkv(x).unflatten(-1, (3 * self.heads, -1))
        if rotation is None:
            q, k, v = qkv.chunk(3, dim=2)
        else:
            qk, v = qkv.split((2 * self.heads, self.heads), dim=2)
            q, k = rotate(qk, rotation).chunk(2, dim=2)  # both in one go
        if only is not None:
            assert lengths is None and mask is None, (
                "some tokens only, of sequences packed or masked"
            )
            q = take(q, only)
        return self.proj(attend(q, k, v, lengths, mask).flatten(-2))


class CrossAttention(nn.Module):
    """Multi-head attention of tokens over a memory; `kv` is one projection, as is `qkv` above."""

    def __init__(
        self, dim: int, heads: int, memory_dim: int | None = None, head_dim: int | None = None
    ) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * (head_dim or dim // heads)
        self.q = nn.Linear(dim, inner)
        self.kv = nn.Linear(memory_dim or dim, 2 * inner)
        self.proj = nn.Linear(inner, dim)

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        rotation: Rotation | None = None,
        memory_rotation: Rotation | None = None,
    ) -> Tensor:
        """x (B, N, C), memory (B, M, Cm) -> (B, N, C)."""
        q, k, v = self._project(x, memory, rotation, memory_rotation)
        return self.proj(attend(q, k, v).flatten(-2))

    def weights(
        self,
        x: Tensor,
        memory: Tensor,
        rotation: Rotation | None = None,
        memory_rotation: Rotation | None = None,
    ) -> Tensor:
        """How much each token looks at each of the memory, mean of the heads: (B, N, M), rows sum
        to 1. Written out, so slow and large: for pictures of a few samples."""
        q, k, _ = self._project(x, memory, rotation, memory_rotation)
        logits = torch.einsum("bnhd,bmhd->bhnm", q.float(), k.float()) / q.shape[-1] ** 0.5
        return logits.softmax(-1).mean(1)

    def _project(
        self,
        x: Tensor,
        memory: Tensor,
        rotation: Rotation | None,
        memory_rotation: Rotation | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, N, heads, D), keys and values (B, M, heads, D); both turned, or neither."""
        q = self.q(x).unflatten(-1, (self.heads, -1))
        k, v = self.kv(memory).unflatten(-1, (2, self.heads, -1)).unbind(2)
        if rotation is not None and memory_rotation is not None:
            q, k = rotate(q, rotation), rotate(k, memory_rotation)
        return q, k, v


class TransformerBlock(nn.Module):
    """What `recompute_blocks` and `compiling.compile_blocks` change, in training alone."""

    recompute = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.training:
            # As written, compiled or not: evaluations, panels and probes have shapes of their own,
            # each of which would be compiled for a few batches.
            return self._call_impl(*args, **kwargs)
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(super().__call__, *args, use_reentrant=False, **kwargs)
        return super().__call__(*args, **kwargs)


def recompute_blocks(module: nn.Module, wanted: bool) -> None:
    """Whether the blocks of a module make their activations again in the backward pass."""
    for part in module.modules():
        if isinstance(part, TransformerBlock):
            part.recompute = wanted


class Block(TransformerBlock):
    """Self-attention, then MLP, each on its norm and added to its input."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float = 4.0):
        super().__init__()
        self.norm1 = layer_norm(dim)
        self.attn = SelfAttention(dim, heads)
        self.norm2 = layer_norm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None = None,
        lengths: Lengths | None = None,
        kept: Tensor | None = None,
        only: Tensor | None = None,
    ) -> Tensor:
        """(B, N, C) -> (B, N, C). kept (B, 2): factors of each sample's two branches, see
        `drop_path.dropped`. only (B, L): the tokens that are wanted, -> (B, L, C)."""
        first, second = (None, None) if kept is None else kept.unbind(1)
        seen = self.attn(self.norm1(x), rotation, lengths, only=only)
        x = (x if only is None else take(x, only)) + dropped(seen, first)
        return x + dropped(self.mlp(self.norm2(x)), second)


class CrossBlock(TransformerBlock):
    """Self-attention, cross-attention to a memory that is never updated, then MLP."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1 = layer_norm(dim)
        self.attn = SelfAttention(dim, heads)
        self.norm2 = layer_norm(dim)
        self.norm_memory = layer_norm(dim)
        self.cross_attn = CrossAttention(dim, heads)
        self.norm3 = layer_norm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        rotation: Rotation | None = None,
        memory_rotation: Rotation | None = None,
        mask: Tensor | None = None,
        only: Tensor | None = None,
    ) -> Tensor:
        """x (B, N, C), memory (B, M, C) -> (B, N, C); mask (N, N) of the self-attention. only
        (B, L): the tokens that are wanted, -> (B, L, C)."""
        seen = self.attn(self.norm1(x), rotation, mask=mask, only=only)
        if only is not None:
            x, rotation = take(x, only), rotation_at(rotation, only)
        x = x + seen
        memory = self.norm_memory(memory)
        x = x + self.cross_attn(self.norm2(x), memory, rotation, memory_rotation)
        return x + self.mlp(self.norm3(x))

    def weights(
        self,
        x: Tensor,
        memory: Tensor,
        rotation: Rotation | None = None,
        memory_rotation: Rotation | None = None,
    ) -> Tensor:
        """The cross-attention's weights (B, N, M) for the same x and memory as `forward`'s."""
        x = x + self.attn(self.norm1(x), rotation)
        memory = self.norm_memory(memory)
        return self.cross_attn.weights(self.norm2(x), memory, rotation, memory_rotation)
