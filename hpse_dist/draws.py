"""Counter-based random numbers: a draw is a pure function of (seed, stream, epoch, sample id).

Nothing is advanced and nothing is stored, so a draw does not depend on the machine, on the
number of ranks, on how a batch was split, or on what was drawn before. The arithmetic is 64-bit
integers only (the SplitMix64 finaliser of Steele, Lea and Flood, OOPSLA 2014), the same in torch
on any device and in numpy.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: the counter's stride
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


def _signed(value: int) -> int:
    """The int64 with the lowest 64 bits of a number: torch has no full uint64 arithmetic."""
    value &= (1 << 64) - 1  # an epoch times _GAMMA has more
    return value - (1 << 64) if value >= 1 << 63 else value


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift: torch's >> on int64 copies the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 bit patterns: (any shape) -> (same shape)."""
    x = (x ^ _shift_right(x, 30)) * _signed(_MIX_1)
    x = (x ^ _shift_right(x, 27)) * _signed(_MIX_2)
    return x ^ _shift_right(x, 31)


def key(seed: int, stream: str, *more: int) -> int:
    """A 64-bit key from a seed and the name of what is drawn."""
    text = ":".join([str(seed), stream, *map(str, more)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def bits(seed: int, stream: str, epoch: int | Tensor, sample_ids: Tensor, count: int = 1) -> Tensor:
    """Uniform 64-bit patterns, one row per sample: sample_ids (B,) int64 -> (B, count) int64."""
    sample_ids = sample_ids.to(torch.int64)
    if isinstance(epoch, Tensor):
        shift = epoch.to(sample_ids.device, torch.int64) * _signed(_GAMMA)
        row = _mix(_mix(sample_ids + _signed(key(seed, stream))) + shift)
    else:
        row = _mix(_mix(sample_ids + _signed(key(seed, stream))) + _signed(epoch * _GAMMA))
    counter = torch.arange(1, count + 1, dtype=torch.int64, device=sample_ids.device)
    return _mix(row[:, None] + counter * _signed(_GAMMA))


def uniform(
    seed: int, stream: str, epoch: int | Tensor, sample_ids: Tensor, count: int = 1
) -> Tensor:
    """Draws from [0, 1): sample_ids (B,) int64, epoch a number or (B,) -> (B, count) float32.

    On the device of `sample_ids`; 24 random bits each, exact in float32.
    """
    return _shift_right(bits(seed, stream, epoch, sample_ids, count), 40).to(torch.float32) / 2**24


def permutation(seed: int, stream: str, epoch: int, n: int) -> np.ndarray:
    """A random order of 0..n-1, (n,) int64: numbers sorted by their own draw."""
    keys = bits(seed, stream, epoch, torch.arange(n, dtype=torch.int64))[:, 0].numpy()
    return np.argsort(keys, kind="stable")


def generator(seed: int, stream: str, *keys: int) -> np.random.Generator:
    """A numpy generator of its own for (seed, stream, keys): for offline work such as rendering."""
    return np.random.Generator(np.random.Philox(key=key(seed, stream, *keys)))
