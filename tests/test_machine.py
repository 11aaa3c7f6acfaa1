"""The sections `machine` of recipes."""

from __future__ import annotations

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
