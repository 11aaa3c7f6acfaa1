"""Attention, one function for every model: xformers on CUDA tensors, torch's SDPA on others and in
compiled blocks.

The kernel follows the tensors, never what can be imported: the xformers package has no CPU kernels,
nor any for some types on some GPUs, so a machine may have it and still need SDPA. Layout everywhere
is (B, N, H, D): batch, tokens, heads, numbers per head. Sequences of different lengths are packed
end to end into a batch of one and told apart by `lengths`, so that no token is padding.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hpse_dist.constants import kept

Lengths = tuple[Sequence[int], Sequence[int]]
"""Tokens of each packed sequence, of queries and of keys: two lists of the same number of items."""

log = logging.getLogger(__name__)


def attend(
    q: Tensor, k: Tensor, v: Tensor, lengths: Lengths | None = None, mask: Tensor | None = None
) -> Tensor:
    """softmax(q k^T / sqrt(D)) v: q (B, N, H, D), k and v (B, M, H, D) -> (B, N, H, D).

    With `lengths`, B is 1 and the i-th run of lengths[0][i] queries sees only the i-th run of
    lengths[1][i] keys. The lengths are plain integers: reading them from a tensor would stall CUDA.

    mask (N, M) bool: True where a query sees a key, at least one in every row. It goes to SDPA on
    every device: xformers takes a mask only as numbers to add, padded and of q's type.
    """
    if mask is not None:
        assert lengths is None, "packed sequences have no mask"
        return _attend_torch(q, k, v, mask)
    # a compiled block is one graph, which SDPA can be part of and xformers' operators would cut
    compiling = torch.compiler.is_compiling()
    if not compiling and kernel_for(q.device, q.dtype, q.shape[-1]) == "xformers":
        return attend_xformers(q, k, v, lengths)
    if lengths is None:
        return _attend_torch(q, k, v)
    return attend_packed(q, k, v, *lengths)


@cache
def kernel_for(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """The kernel for such tensors; cached, so that it is decided and logged once."""
    kernel = "sdpa"
    if device.type == "cuda" and xformers_usable():
        capability = torch.cuda.get_device_capability(device)
        kernel = "xformers" if xformers_takes(dtype, head_dim, capability) else kernel
    kind = str(dtype).removeprefix("torch.")
    log.info("attention on %s in %s, heads of %d: %s", device.type, kind, head_dim, kernel)
    return kernel


def xformers_takes(dtype: torch.dtype, head_dim: int, capability: tuple[int, int]) -> bool:
    """Whether xformers 0.0.35 has kernels for training: FlashAttention's in bf16, CUTLASS's in
    fp32, which end with compute capability 9.0. For others it raises NotImplementedError."""
    if dtype == torch.bfloat16:
        return capability >= (8, 0) and head_dim % 8 == 0 and head_dim <= 256
    return dtype == torch.float32 and capability <= (9, 0) and head_dim % 4 == 0


def xformers_usable() -> bool:
    """Whether xformers' dispatcher will accept CUDA tensors.

    A wheel that does not fit torch still lists operators and then refuses each call, so the one
    trustworthy sign is the flag it sets when its own extension has loaded.
    """
    try:
        import xformers.ops
        from xformers import _cpp_lib
    except ImportError as error:
        log.warning("xformers is not usable (%s); CUDA tensors go to torch's SDPA", error)
        return False
    return bool(_cpp_lib._built_with_cuda) and hasattr(xformers.ops, "memory_efficient_attention")


def attend_xformers(q: Tensor, k: Tensor, v: Tensor, lengths: Lengths | None) -> Tensor:
    from xformers.ops import memory_efficient_attention

    bias = None
    if lengths is not None:
        bias = _block_diagonal(tuple(lengths[0]), tuple(lengths[1]), str(q.device))
    return memory_efficient_attention(q, k, v, attn_bias=bias)


@kept
def _block_diagonal(q_lengths: tuple[int, ...], k_lengths: tuple[int, ...], device: str) -> Any:
    """The mask of packed sequences; kept, because making it copies the lengths to the device."""
    from xformers.ops.fmha import BlockDiagonalMask

    return BlockDiagonalMask.from_seqlens(q_lengths, k_lengths, device=torch.device(device))


def _attend_torch(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """SDPA wants heads before tokens; the transposes are views."""
    q, k, v = (tokens.transpose(1, 2) for tokens in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def attend_packed(
    q: Tensor, k: Tensor, v: Tensor, q_lengths: Sequence[int], k_lengths: Sequence[int]
) -> Tensor:
    """Packed sequences without a mask: each run of equal lengths is a view of a dense batch."""
    assert q.shape[0] == 1 and len(q_lengths) == len(k_lengths)
    assert sum(q_lengths) == q.shape[1] and sum(k_lengths) == k.shape[1]
    pairs = zip(q_lengths, k_lengths, strict=True)
    runs = [(lengths, len(list(run))) for lengths, run in itertools.groupby(pairs)]
    # split, not slices: the gradient of each slice would be a whole tensor of zeros, to be added
    qs = q[0].split([count * length for (length, _), count in runs])
    ks, vs = (part[0].split([count * length for (_, length), count in runs]) for part in (k, v))
    outs = []
    for q_run, k_run, v_run, (_, count) in zip(qs, ks, vs, runs, strict=True):
        dense = (part.unflatten(0, (count, -1)) for part in (q_run, k_run, v_run))
        outs.append(_attend_torch(*dense).flatten(0, 1))
    return (outs[0] if len(outs) == 1 else torch.cat(outs)).unsqueeze(0)
