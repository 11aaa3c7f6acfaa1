"""The sections `machine` of recipes."""

from __future__ import annotations

from typing import Any

import pytest

from hpse_dist.machine import Machine

COUNTS = ("workers", "micro_batch", "loader_threads", "checkpoint_every", "log_every")


@pytest.mark.parametrize("name", [*COUNTS, "panels_every", "keep_checkpoints"])
def test_a_count_of_nothing_is_refused_before_a_run_starts(name: str) -> None:
    """Not by every worker in turn, as often as a run restarts them."""
    with pytest.raises(ValueError, match=f"^{name} must be at least 1, found 0$"):
        Machine(**{name: 0})
    with pytest.raises(ValueError, match=r"^max_failures must be at least 0, found -1$"):
        Machine(max_failures=-1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"engine": "ddp", "offload": "optimizer"}, "is for engine zero alone, found ddp: set "),
        ({"engine": "auto", "offload": "optimizer"}, "is for engine zero alone, found auto: set "),
        ({"zero_stage": 0, "offload": "optimizer"}, "needs zero_stage 1, 2 or 3, found 0: set "),
        ({"zero_stage": 2, "offload": "parameters"}, "needs zero_stage 3, found 2: set that, or "),
    ],
)
def test_what_zero_does_not_shard_is_not_offloaded(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^offload {settings['offload']} {said}"):
        Machine(**settings)
    for stage, offload in ((1, "optimizer"), (3, "optimizer"), (3, "parameters")):
        Machine(zero_stage=stage, offload=offload)  # type: ignore[arg-type]


def test_stage_three_is_not_compiled() -> None:
    with pytest.raises(ValueError, match="compile does not go with ZeRO stage 3"):
        Machine(compile=True, zero_stage=3)
    assert Machine(compile=True, engine="ddp", zero_stage=3).compile  # a stage that nobody uses
