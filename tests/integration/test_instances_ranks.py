"""Instance objectives on one rank and on two: the same losses, weights, queues and centres."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.integration.clusters import ROOT, free_ports
from tests.waiting import PATIENCE_S


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What one rank and what two ranks have come to."""
    folder = tmp_path_factory.mktemp("ranks")
    port = str(free_ports(1)[0])
    worker = str(Path(__file__).with_name("instances_worker.py"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    found = []
    for ranks in (1, 2):
        file = folder / f"{ranks}.pt"
        processes = [
            subprocess.Popen(
                [sys.executable, worker, str(rank), str(ranks), port, str(file)],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(ranks)
        ]
        try:
            said = [process.communicate(timeout=PATIENCE_S)[1] for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert [process.returncode for process in processes] == [0] * ranks, "\n".join(said)
        found.append(torch.load(file, weights_only=True))
    return found


@pytest.mark.parametrize("name", ["densecl", "dino", "moco", "peclr"])
def test_one_rank_or_two_are_the_same(states: list[Any], name: str) -> None:
    one, two = (state[name] for state in states)
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=2e-5, msg=f"{name}: {key}")
