"""Tensors of numbers that never change: made once for a device, and kept.

Python's numbers go to a GPU only when it has done all that it was given before, and the process
waits for that: a list as an index, or a tensor made of numbers, holds up every step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

Given = ParamSpec("Given")
Made = TypeVar("Made")


def kept(make: Callable[Given, Made]) -> Callable[Given, Made]:
    """A function of hashable values, called once for each; what it makes is read, never changed.

    Among fake tensors (`planning.memory`), which have no numbers, it is called every time: one of
    them, kept, would spoil the computing that comes after.
    """
    cached = cast(Callable[Given, Made], lru_cache(maxsize=256)(make))  # which forgets types

    @wraps(make)
    def inner(*given: Given.args, **named: Given.kwargs) -> Made:
        real = type(torch.empty(0)) is Tensor
        return cached(*given, **named) if real else make(*given, **named)

    return inner


@kept
def constant(
    values: tuple[Any, ...], device: torch.device, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Numbers, or tuples of as many each, on a device."""
    return torch.tensor(values, dtype=dtype, device=device)


def constant_like(like: Tensor, values: tuple[Any, ...]) -> Tensor:
    """The same of the type of another tensor, where it is."""
    return constant(values, like.device, like.dtype)


def at_hand(tensor: Tensor) -> bool:
    """Whether its numbers can be looked at without waiting for a GPU; a fake one has none."""
    return tensor.device.type == "cpu" and not is_fake(tensor)


def numbers(values: tuple[Any, ...], device: torch.device) -> Tensor:
    """Whole ones, to index with on the device of what is indexed."""
    return constant(values, device, torch.int64)
