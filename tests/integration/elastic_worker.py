"""One process of one leg of a run whose number of processes, engine and stage change; see its test.

python elastic_worker.py KIND RANK SIZE PORT UNTIL FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from hpse_dist.world import World
from tests.integration.engine_worker import Worker, cut_small_parameters_too


def main() -> None:
    kind, rank, size, port, until, folder = sys.argv[1:]
    torch.set_num_threads(1)
    cut_small_parameters_too()
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    worker = Worker(World(int(rank), int(size), int(rank), int(size)), Path(folder))
    worker.run(kind, "elastic", until=int(until), clip=0.3)
    if worker.world.is_main:
        torch.save(worker.weights["elastic"], Path(folder) / "weights.pt")
    sys.stdout.flush()
    os._exit(0)  # several gloo groups sometimes abort when the interpreter ends


if __name__ == "__main__":
    main()
