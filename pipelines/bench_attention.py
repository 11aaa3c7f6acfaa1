"""`bench attention`: the attention of a completion step, forward and backward, by every kernel.

Of each pair the encoder sees the visible patches of one picture and all of the other. Padded, both
are as long as the longer and a mask hides what is not there; packed, they lie end to end and none
is padding. A rate counts the FLOPs that are needed: the two products of each sequence with its own
length, three times the forward pass's. So what padding wastes shows as a lower rate.
`hpse_dist.models.attention` takes the packed kernels: xformers' on CUDA, else SDPA's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from hpse_dist import masking
from hpse_dist.models import attention
from hpse_dist.models.encoder import PRESETS
from pipelines.figures import Figure, figures, in_turn
from pipelines.step_bench import PRODUCT_SIDE, per_second

MODELS = ("vit_t", "vit_s", "vit_b", "vit_l")
TOKENS = 196  # 224 pixels in patches of 16
PACKED, XFORMERS = "SDPA, packed", "xformers, packed"


@dataclass(frozen=True)
class Shape:
    """One layer's attention over a batch of pairs."""

    model: str
    mask_ratio: float
    pairs: int

    @property
    def visible(self) -> int:
        """Tokens of the first picture; the other has all."""
        return TOKENS - masking.num_hidden(TOKENS, self.mask_ratio)

    @property
    def lengths(self) -> list[int]:
        """Of all sequences: first pictures, then the others."""
        return [self.visible] * self.pairs + [TOKENS] * self.pairs

    def flops(self) -> float:
        """That are needed, forward and backward."""
        dim = PRESETS[self.model][0]
        return 3.0 * sum(4 * n * n * dim for n in self.lengths)

    def __str__(self) -> str:
        return f"{self.model}, mask {self.mask_ratio:g}"


Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]


def padded(shape: Shape, device: torch.device, backend: SDPBackend | None) -> Kernel:
    """SDPA over (2 pairs, tokens, heads, D), keys that are padding masked; None: torch chooses."""
    real = torch.arange(TOKENS) < torch.tensor(shape.lengths)[:, None]
    mask = real[:, None, None, :].to(device)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        with sdpa_kernel(backend) if backend else nullcontext():
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    return attend


def _sdpa_packed(q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> Tensor:
    return attention.attend_packed(q, k, v, lengths, lengths)


def kernels(shape: Shape, device: torch.device) -> dict[str, tuple[Kernel, tuple[int, int]]]:
    """Name -> kernel, (batch, tokens) of what it takes; only what the device has."""
    batch, together = (2 * shape.pairs, TOKENS), (1, sum(shape.lengths))
    found: dict[str, tuple[Kernel, tuple[int, int]]] = {
        "SDPA math, padded": (padded(shape, device, SDPBackend.MATH), batch),
        "SDPA, padded": (padded(shape, device, None), batch),
        PACKED: (partial(_sdpa_packed, lengths=shape.lengths), together),
    }
    if device.type == "cuda" and attention.xformers_usable():
        lengths = (shape.lengths, shape.lengths)
        found[XFORMERS] = (partial(attention.attend_xformers, lengths=lengths), together)
    return found


def passes(
    shape: Shape, kernel: Kernel, size: tuple[int, int], device: torch.device, dtype: torch.dtype
) -> Callable[[], object]:
    """One forward and backward pass over made-up queries, keys and values."""
    dim, _, heads = PRESETS[shape.model]
    draw = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(*size, heads, dim // heads, generator=draw).to(device, dtype).requires_grad_()
        for _ in range(3)
    )

    def once() -> object:
        out = kernel(q, k, v)
        return torch.autograd.grad(out, (q, k, v), torch.ones_like(out))

    return once


def bench_attention(
    shapes: Sequence[Shape], device: torch.device, *, times: int, rounds: int
) -> list[Figure]:
    """Needed GFLOP/s over those of a large matrix product, then milliseconds of a pass."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    side = PRODUCT_SIDE[device.type]
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    product = partial(torch.mm, left, right, out=torch.empty_like(left))
    ceiling = f"matrix product, side {side}"
    rates, time = list[Figure](), list[Figure]()
    for shape in shapes:
        work = {ceiling: (product, 2.0 * side**3)}
        for name, (kernel, size) in kernels(shape, device).items():
            work[name] = (passes(shape, kernel, size, device, dtype), shape.flops())  # type: ignore[assignment]
        for call, _ in work.values():
            call()
        measured = in_turn(
            {n: partial(per_second, c, times, 1e-9 * f, device) for n, (c, f) in work.items()},
            rounds,
        )
        named = {n if n == ceiling else f"{shape}: {n}": v for n, v in measured.items()}
        rates += figures(named, "GFLOP/s", ceiling, {})
        seconds = {
            f"{shape}: {name}": [1e-6 * shape.flops() / rate for rate in values]
            for name, values in measured.items()
            if name != ceiling
        }
        time += figures(seconds, "ms", f"{shape}: SDPA math, padded", {})
    return rates + time


# ------------------------------------------------------------------------------------ command


def add_arguments(parts: Any) -> None:
    """The command's part `attention`."""
    part: argparse.ArgumentParser = parts.add_parser(
        "attention", help="SDPA and xformers, padded and packed, forward and backward"
    )
    part.add_argument("--models", nargs="+", choices=MODELS, help="all on a GPU, else vit_t vit_s")
    part.add_argument("--masks", nargs="+", type=float, default=[0.75, 0.9], help="shares hidden")
    part.add_argument("--pairs", type=int, help="in a batch: 64 on a GPU, else 4")
    part.add_argument("--times", type=int, default=5, help="passes of each measurement")
    part.add_argument("--rounds", type=int, default=7, help="repeats, candidates in turn")
    part.add_argument("--json", type=Path, help="write the figures here too")


def from_options(options: argparse.Namespace) -> list[Figure]:
    """What the command asks for; small where there is no GPU."""
    gpu = torch.cuda.is_available()
    models = options.models or (MODELS if gpu else MODELS[:2])
    pairs = options.pairs if options.pairs is not None else (64 if gpu else 4)
    if pairs < 1 or options.times < 1:
        raise ValueError(f"--pairs and --times must be at least 1, found {pairs}, {options.times}")
    for ratio in options.masks:
        if not 0 < ratio < 1 or masking.num_hidden(TOKENS, ratio) == TOKENS:
            raise ValueError(f"--masks must leave some of {TOKENS} patches visible, found {ratio}")
    if not gpu:
        print("xformers is left out: it has no kernels for CPUs")
    shapes = [Shape(model, ratio, pairs) for model in models for ratio in options.masks]
    device = torch.device("cuda" if gpu else "cpu")
    return bench_attention(shapes, device, times=options.times, rounds=options.rounds)
