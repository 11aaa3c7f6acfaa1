"""Where the time of a study went: into steps that count, and what restarts have cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hpse_dist.report.runs import Run, Study


@dataclass(frozen=True)
class Spent:
    """The account of a run over all its starts, or of several runs together."""

    name: str
    useful_s: float
    """In updates that count."""
    wall_s: float
    """From each command's start of the run to its last sign of life."""
    starts: int
    ended: Mapping[str, int] = field(default_factory=dict)
    """How starts other than the last ended: cause -> how many."""
    lost_steps: int = 0
    lost_s: float = 0.0
    """The time those steps had taken, at the run's mean."""
    recover_s: float | None = None
    """The longest time from a last sign of life to the first new step."""

    @property
    def effective(self) -> float:
        return self.useful_s / self.wall_s

    @property
    def causes(self) -> str:
        """`killed 2, told to stop 1`"""
        return ", ".join(f"{cause} {count}" for cause, count in self.ended.items())


def spent(study: Study) -> list[Spent]:
    """An account for each finished run that kept one, in the order of the plan."""
    return [_of(run) for run in study.runs if run.account.get("wall_s")]


def _of(run: Run) -> Spent:
    account: Mapping[str, Any] = run.account
    per_step = account["useful_s"] / run.steps if run.steps else 0.0
    return Spent(
        run.name,
        account["useful_s"],
        account["wall_s"],
        account["starts"],
        account.get("ended", {}),
        account.get("lost_steps", 0),
        per_step * account.get("lost_steps", 0),
        account.get("recover_s", {}).get("worst"),
    )


def together(found: Sequence[Spent]) -> Spent:
    """Several accounts as one."""
    causes = Counter[str]()
    for one in found:
        causes.update(one.ended)
    waits = [one.recover_s for one in found if one.recover_s is not None]
    return Spent(
        "all",
        sum(one.useful_s for one in found),
        sum(one.wall_s for one in found),
        sum(one.starts for one in found),
        dict(causes.most_common()),
        sum(one.lost_steps for one in found),
        sum(one.lost_s for one in found),
        max(waits, default=None),
    )
