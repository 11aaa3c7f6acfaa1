"""A run goes on with 1, 2, 4 and 1 processes, another ZeRO stage each time, and nobody can tell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hpse_dist.checkpoint import Checkpoints
from hpse_dist.log import read_metrics
from hpse_dist.world import World
from tests.integration.clusters import ROOT, free_ports
from tests.integration.engine_worker import STEPS, Worker
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.integration

LEGS = (
    ("zero1-optimizer", 1, 3),
    ("zero3-parameters", 2, 5),
    ("zero0", 4, 8),
    ("zero2-optimizer", 1, STEPS),
)
"""Engine and what it offloads, processes, the step to stop at."""


def test_one_run_over_1_2_4_and_1_processes(tmp_path: Path) -> None:
    for kind, size, until in LEGS:
        leg(kind, size, until, tmp_path)
    straight = Worker(World(), tmp_path)
    straight.run("plain", "straight", clip=0.3)

    want, found = (read_metrics(tmp_path / n / "metrics.jsonl") for n in ("straight", "elastic"))
    assert [row["step"] for row in found] == list(range(1, STEPS + 1))
    for name in ("loss", "grad_norm", "lr"):
        ours = [row[name] for row in found]
        assert ours == pytest.approx([row[name] for row in want], rel=1e-5)
    weights = torch.load(tmp_path / "weights.pt", weights_only=True)
    for name, value in straight.weights["straight"].items():
        if name != "seen":
            torch.testing.assert_close(weights[name], value, atol=1e-6, rtol=0)
    places = [ledger(tmp_path / label) for label in ("straight", "elastic")]
    assert places[0] == places[1]


def leg(kind: str, size: int, until: int, folder: Path) -> None:
    port = str(free_ports(1)[0])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = Path(__file__).with_name("elastic_worker.py")
    processes = []
    for rank in range(size):
        command = [sys.executable, str(script), kind, str(rank), str(size), port, str(until)]
        processes.append(
            subprocess.Popen(
                [*command, str(folder)],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    try:
        said = [process.communicate(timeout=PATIENCE_S)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * size, "\n".join(said)[-4000:]


def ledger(folder: Path) -> object:
    """What the last checkpoint says of its place in the data."""
    _, manifest = Checkpoints(folder / "checkpoints", STEPS, 2, "hash").newest_good() or (None, {})
    return manifest["step"], manifest["loader"]
