"""Two processes of one machine hold a collection once, each having decoded half of its shards."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from hpse_dist.data import beton
from hpse_dist.data.collection import Collection
from hpse_dist.data.items import Source
from hpse_dist.world import World
from tests.data.made_collection import made_collection
from tests.data.test_loader import equal, joined, loader, take

pytestmark = pytest.mark.integration
FRAMES = {"sampling": "frames", "needs": ["image", "sample_id", "joints2d"], "micro_batch": 8}


def rank_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    world, source = World(rank, 2, rank, 2), Source(made_collection())
    calm = joined(take(iter(loader(source, world=world, **FRAMES)), 6))
    read, decoded = beton.Shard.read, list[int]()

    def counted(self: beton.Shard, name: str, rows: np.ndarray, *rest: Any) -> None:
        decoded.extend(rows.tolist() if name == "image" else [])
        read(self, name, rows, *rest)

    beton.Shard.read = counted  # type: ignore[method-assign]
    held = loader(source, world=world, kind="resident", **FRAMES)
    assert equal(joined(take(iter(held), 6)), calm)
    assert 0 < len(decoded) < held.samples_per_epoch
    held.close()
    # what one process cannot read is said by both
    broken = loader(Source(Collection.open(f"{folder}/c")), world=world, kind="resident", **FRAMES)
    dist.barrier()
    if rank == 0:
        broken.items[0].source.collection.shards[1].unlink()  # rank 1 is to decode it
    with pytest.raises(OSError, match=r"frames-00001\.beton"):
        next(iter(broken))
    dist.destroy_process_group()


def test_ranks_of_one_machine_share_what_is_held(tmp_path: Path) -> None:
    shutil.copytree(made_collection().folder, tmp_path / "c")
    torch.multiprocessing.spawn(rank_of_two, (str(tmp_path),), nprocs=2)
