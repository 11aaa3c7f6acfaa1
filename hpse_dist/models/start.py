"""Start weights that do not depend on what was drawn before them, nor on other layers' sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from hpse_dist.draws import key

# torch's functions that draw numbers, by name: in place, or new tensors
_DRAWING = {"uniform_", "normal_", "trunc_normal_", "bernoulli_", "rand", "randn", "randperm"}
_DRAWING |= {f"{kind}_{law}_" for kind in ("xavier", "kaiming") for law in ("uniform", "normal")}
_DRAWING |= {"orthogonal_", "randint", "bernoulli", "normal"}


@contextmanager
def start_weights(seed: int, stream: str) -> Iterator[None]:
    """Inside, the n-th tensor to be drawn is a function of (seed, stream, n) and its shape alone.

    So a task's head starts from the same weights on top of any encoder: were the generator merely
    seeded, a first layer of another width would shift every later layer's numbers. Afterwards the
    generator stands at a place that depends on (seed, stream) alone.
    """
    with _Numbered(seed, stream):
        yield
    torch.manual_seed(key(seed, stream, -1) >> 1)


class _Numbered(TorchFunctionMode):
    """Seeds torch's generator anew before each function that draws."""

    def __init__(self, seed: int, stream: str) -> None:
        super().__init__()
        self.seed, self.stream, self.count = seed, stream, 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        inputs: tuple[Any, ...] = (),
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") in _DRAWING:
            torch.manual_seed(key(self.seed, self.stream, self.count) >> 1)
            self.count += 1
        return func(*inputs, **(options or {}))
