"""One of the processes that train the instance objectives on parts of a batch; run by
test_instances_ranks.py.

    python instances_worker.py RANK RANKS PORT FILE

Writes FILE from rank 0: the state of every objective after some steps; judges nothing.
"""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist

from hpse_dist.collectives import sum_over_ranks
from hpse_dist.models.encoder import EncoderConfig, build_encoder
from hpse_dist.objectives import build
from tests.fabricate import fabricate, rows
from tests.objectives.test_contract import SMALL

STEPS = 3


def trained(name: str, rank: int, ranks: int) -> dict[str, torch.Tensor]:
    """Plain gradient descent with gradients averaged over ranks; ids are not in rank order."""
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig("custom", 32, 8, dim=32, depth=1, heads=2))
    objective = build(SMALL[name], encoder, seed=3)
    share = 8 // ranks
    state = {}
    for step in range(STEPS):
        batch = fabricate(objective.needs, seed=step)
        batch["sample_id"] = (batch["sample_id"] * 37 + step) % 101
        mine = rows(batch, rank * share, (rank + 1) * share)
        scalars = objective(mine)
        objective.zero_grad()
        scalars["loss"].backward()
        with torch.no_grad():
            for parameter in objective.parameters():
                if parameter.grad is not None:
                    parameter -= 0.1 * sum_over_ranks(parameter.grad) / ranks
        objective.after_step((step + 1) / STEPS)
        state[f"loss{step}"] = sum_over_ranks(scalars["loss"]) / ranks
    return state | objective.state_dict()


def main() -> None:
    rank, ranks, port, file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    torch.set_num_threads(1)
    if ranks > 1:
        address = f"tcp://127.0.0.1:{port}"
        dist.init_process_group("gloo", init_method=address, rank=rank, world_size=ranks)
    states = {name: trained(name, rank, ranks) for name in ("densecl", "dino", "moco", "peclr")}
    if rank == 0:
        torch.save(states, file)
    if ranks > 1:
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
