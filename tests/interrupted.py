"""Runs that are cut off, for the tests that give them again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from hpse_dist.train import train


@contextlib.contextmanager
def interrupted(after: int) -> Iterator[None]:
    """The run started inside is cut off after update `after` and its log, before its checkpoint."""

    def cut_off(*positional: Any, on_step: Any, **named: Any) -> int:
        def step_then_die(step: int) -> None:
            on_step(step)
            if step == after:
                raise KeyboardInterrupt

        return train(*positional, on_step=step_then_die, **named)

    with mock.patch("hpse_dist.run.train", cut_off), pytest.raises(KeyboardInterrupt):
        yield
