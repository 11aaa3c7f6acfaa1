"""`bench growth`, its axis of ranks: what each of 1 to 8 processes costs that train together.

A small model by gloo on this machine, fed by the real loader with as many samples to a rank's step
whatever their number. Start: from making the engine to the end of the first update. The figures are
those of the dearest rank.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from hpse_dist.accounting import Clock
from hpse_dist.data.augment import AugmentConfig
from hpse_dist.data.collection import Collection
from hpse_dist.data.loader import Loader, Source
from hpse_dist.engine import Engine, build_engine
from hpse_dist.meter import forget_peak, peak_memory_mb
from hpse_dist.models.decoder import DecoderConfig
from hpse_dist.models.encoder import EncoderConfig, build_encoder
from hpse_dist.objectives.completion import Completion, CompletionConfig
from hpse_dist.optim import OptimConfig
from hpse_dist.train import update
from hpse_dist.world import World
from pipelines.growing import CROP_PX

RANK_BATCH = 16  # pairs to a rank's step
_PATCH_PX = 8
_WARM = 3  # updates before the first that counts
_MEET_S = 600.0  # for all ranks to be there


def rank_costs(folder: Path, ranks: int, steps: int) -> dict[str, float]:
    """What training on a collection costs each of so many ranks, as a `Point` of growth has it.

    The first rank that fails ends all of them: RuntimeError with its words.
    """
    with tempfile.TemporaryDirectory() as place:
        try:
            mp.spawn(train_rank, (str(folder), place, steps, ranks), nprocs=ranks)
        except (mp.ProcessRaisedException, mp.ProcessExitedException) as error:
            *_, reason = str(error).strip().splitlines()
            raise RuntimeError(f"a rank that was measured failed: {reason}") from None
        costs = [json.loads((Path(place) / f"{n}.json").read_text()) for n in range(ranks)]
    return {name: max(cost[name] for cost in costs) for name in costs[0]}


def train_rank(rank: int, folder: str, place: str, steps: int, ranks: int) -> None:
    """Train as one rank of several, and write what that costs this process to place/<rank>.json."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)  # gloo greets every rank on standard output
    torch.set_num_threads(1)
    world = World(rank, ranks, rank, ranks)
    alone = _loader(folder, World(), ("image", "image_ref"))
    next(iter(alone))  # what any process needs once: imports, compiled kernels
    alone.close()
    dist.init_process_group(
        *("gloo", f"file://{place}/meet", timedelta(seconds=_MEET_S)),
        world_size=world.size,
        rank=world.rank,
    )
    forget_peak()
    before, began, busy = peak_memory_mb(), time.perf_counter(), time.process_time()
    engine = _engine(world)
    loader = _loader(folder, world, engine.module.needs)
    batches, clock, seconds = iter(loader), Clock(), list[float]()
    update(engine, clock, batches)
    cost = {"start_s": time.perf_counter() - began, "start_cpu_s": time.process_time() - busy}
    for _ in range(_WARM + steps):
        busy = time.process_time()
        update(engine, clock, batches)
        seconds.append(time.process_time() - busy)
    peak, kept = peak_memory_mb(), seconds[_WARM:]
    loader.close()
    engine.close()
    cost |= {"step_ms": 1e3 * statistics.median(kept), "worst_step_ms": 1e3 * max(kept)}
    cost |= {"memory_mib": peak - before}
    (Path(place) / f"{rank}.json").write_text(json.dumps(cost))
    dist.destroy_process_group()


def _engine(world: World) -> Engine:
    torch.manual_seed(0)
    encoder = EncoderConfig(
        "custom", image_px=CROP_PX, patch_px=_PATCH_PX, dim=96, depth=3, heads=3
    )
    decoder = DecoderConfig("custom", dim=64, depth=2, heads=2)
    model = Completion(
        CompletionConfig(decoder=decoder, person_ratio=None), build_encoder(encoder), seed=0
    )
    engine = build_engine(
        "ddp",
        model,
        OptimConfig(lr=1e-4),
        world=world,
        device=torch.device("cpu"),
        accumulation=1,
        micro_batch=RANK_BATCH,
    )
    engine.set_lr(1e-4)
    return engine


def _loader(folder: str, world: World, needs: Sequence[str]) -> Loader:
    return Loader(
        [Source(Collection.open(folder))],
        needs=needs,
        sampling="pairs",
        world=world,
        seed=0,
        global_batch=RANK_BATCH * world.size,
        micro_batch=RANK_BATCH,
        augment=AugmentConfig(crop_scale=(1.0, 1.0)),
        image_px=CROP_PX,
        patch_px=_PATCH_PX,
    )
