"""What stays in fp32 where the rest of a run is in bf16.

bf16 has eight bits: a joint a metre away moves by up to four millimetres, a projected one by a
pixel of 224, and what is nearly alike becomes equal. Networks stand that, geometry, labels,
similarities and metrics do not.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

P = ParamSpec("P")
R = TypeVar("R")


def in_full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function of tensors work in fp32 under autocast too.

    Half-precision tensors among what it is given come as fp32, all others as they are.
    """

    @functools.wraps(function)
    def inner(*given: P.args, **named: P.kwargs) -> R:
        with contextlib.ExitStack() as stack:
            for kind in ("cpu", "cuda"):
                if torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, enabled=False))
            args, kwargs = tree_map(_full, (given, named))
            return function(*args, **kwargs)

    return inner


def _full(value: Any) -> Any:
    half = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if half else value
