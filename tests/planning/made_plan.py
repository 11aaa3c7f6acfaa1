"""A plan by hand: two ddp trainers, 1 s a micro-step of 8, and figures that are easy to follow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hpse_dist.planning.plan import Link, Loading, Plan, Setting, Together, Trial

DDP = Setting("ddp", 0, 8)


def made_plan(**changes: Any) -> Plan:
    plan = Plan(
        name="run",
        key="key",
        made="2026-11-21T14:00",
        seconds=60.0,
        world_size=2,
        local_size=2,
        global_batch=64,
        device="cuda",
        machine="a GPU, 16 cores",
        cores=16,
        parameter_bytes=1_000_000_000,
        trials=(Trial(DDP, 1.0, 0.5), Trial(Setting("zero", 2, 8), 1.5, 0.5)),
        loading=(Loading(1, 40.0), Loading(2, 80.0)),
        link=Link(10e9, 0.0),
        together=Together(64 / 4.5, 0.0, 4.5 / 32, 0.01, 0.01),
        chosen=DDP,
        loader_threads=2,
        evaluation_s=2.0,
        evaluation_rows=256,
    )
    return replace(plan, **changes)
