"""Engines: what turns a loss into a weight update, on one process or many."""

from __future__ import annotations

import torch
from torch import nn

from hpse_dist.engine.base import Engine, Precision, Refusal, join
from hpse_dist.engine.ddp import DdpEngine
from hpse_dist.engine.offload import Offload
from hpse_dist.engine.plain import PlainEngine
from hpse_dist.engine.zero import ZeroEngine, bucket_elements
from hpse_dist.optim import OptimConfig, build_optimizer
from hpse_dist.world import World

ENGINES = ("plain", "ddp", "zero")

__all__ = ["ENGINES", "Engine", "Offload", "Refusal", "bucket_elements", "build_engine", "join"]


def build_engine(
    kind: str,
    module: nn.Module,
    optim: OptimConfig,
    *,
    world: World,
    device: torch.device,
    accumulation: int,
    micro_batch: int,
    precision: Precision = "fp32",
    zero_stage: int = 0,
    offload: Offload = "nothing",
) -> Engine:
    """The engine of one kind around a module; each gives the same weights from the same batches.

    `ddp` and `zero` use the process group that is there, or make one from the environment.
    """
    if kind not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, found {kind!r}")
    if kind == "plain" and world.size > 1:
        raise ValueError(
            f"the plain engine is for one process, this run has {world.size}: use ddp or zero"
        )
    module.to(device)
    optimizer = build_optimizer(module, optim)
    if kind == "zero":
        return ZeroEngine(
            module,
            optimizer,
            world=world,
            device=device,
            accumulation=accumulation,
            micro_batch=micro_batch,
            clip=optim.clip,
            precision=precision,
            stage=zero_stage,
            offload=offload,
        )
    make = PlainEngine if kind == "plain" else DdpEngine
    return make(
        module,
        optimizer,
        world=world,
        device=device,
        accumulation=accumulation,
        clip=optim.clip,
        precision=precision,
    )
