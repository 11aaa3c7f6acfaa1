"""Machines with addresses of their own: a run goes on when one of them is lost, and then another.

The head has no CPU to give; three machines have one each. A job for two workers comes from outside.
Three to five minutes on two cores, most of it waiting for lost machines, so by hand only:

    HPSE_NODES=1 python -m pytest -s tests/integration/test_nodes.py
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hpse_dist import run
from hpse_dist.accounting import STARTS_FILE, read_starts
from hpse_dist.config import build, dump, to_dict
from hpse_dist.log import read_metrics
from hpse_dist.recipe import PretrainRecipe
from hpse_dist.world import World
from tests.data.made_collection import made_collection
from tests.integration.nodes import Machine, machines, reason_against
from tests.test_run import pretraining

SLOW = "takes minutes; set HPSE_NODES=1 to run it"
REASON = reason_against() if os.environ.get("HPSE_NODES") else SLOW
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
]
ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")
STEPS, EVERY = 120, 10
DASHBOARD, PORT = 8265, 6379


@dataclass(frozen=True)
class Cluster:
    head: Machine
    others: list[Machine]
    environment: dict[str, str]
    folder: Path

    def job(self, *words: str, **variables: str) -> subprocess.Popen[str]:
        """`ray job ...` on this machine, which is none of the cluster's."""
        return subprocess.Popen(
            [RAY, "job", *words],
            env=self.environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="hpse", dir="/tmp"))  # socket paths must be short
    (folder / "token").write_text("5" * 64)
    (folder / "token").chmod(0o600)
    environment = {
        "PATH": os.pathsep.join([str(RAY.parent), os.environ.get("PATH", "")]),
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    common = ("--block", "--disable-usage-stats", "--object-store-memory=80000000")
    try:
        (folder / "h").mkdir()
        with machines(4, disk=folder / "h") as (head, *others):
            head.start(
                *(RAY, "start", "--head", "--num-cpus=0", f"--node-ip-address={head.address}"),
                *(f"--port={PORT}", "--dashboard-host=0.0.0.0", f"--temp-dir={folder / 'h'}"),
                *common,
                environment=environment,
                log=folder / "head.log",
            )
            made = Cluster(head, others, environment, folder)
            wait_for(lambda: listening(made), 120, folder / "head.log")
            for other in others:
                other.start(
                    *(RAY, "start", f"--address={head.address}:{PORT}", "--num-cpus=1"),
                    f"--node-ip-address={other.address}",
                    *common,
                    environment=environment,
                    log=(log := folder / f"{other.address}.log"),
                )
                # one after another: two cores for four machines
                wait_for(lambda log=log: "will now block" in log.read_text(), 120, log)
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def listening(cluster: Cluster) -> bool:
    """Whether the jobs' door answers to the token."""
    listing = cluster.job("list", f"--address=http://{cluster.head.address}:{DASHBOARD}")
    return listing.communicate(timeout=60)[0] is not None and listing.returncode == 0


def wait_for(true: Callable[[], bool], seconds: float, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, log.read_text()[-3000:] if log.exists() else log
        time.sleep(0.5)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> PretrainRecipe:
    """Two workers, or one."""
    made = pretraining(tmp_path_factory.mktemp("nodes"), made_collection(), steps=STEPS)
    values = to_dict(made)
    values["evaluate_every"] = STEPS
    values["machine"] |= {"engine": "zero", "workers": 2, "min_workers": 1}
    values["machine"] |= {"checkpoint_every": EVERY, "log_every": 1}
    return build(PretrainRecipe, values)


def at_work(cluster: Cluster, folder: Path) -> list[Machine]:
    """The machines on which workers of the run are."""
    return [one for one in cluster.others if any(map(_is_worker, one.processes()))]


def _is_worker(number: int) -> bool:
    try:
        name = Path(f"/proc/{number}/cmdline").read_bytes()
    except OSError:
        return False
    return b"RayTrainWorker" in name


def step(folder: Path) -> int:
    """The last checkpoint's."""
    names = sorted(path.name for path in folder.glob("checkpoints/step_*"))
    return int(names[-1].removeprefix("step_")) if names else 0


def test_a_run_outlives_two_of_its_three_machines(
    cluster: Cluster, recipe: PretrainRecipe, tmp_path: Path
) -> None:
    path, folder = tmp_path / "recipe.yaml", recipe.folder()
    path.write_text(dump(recipe))
    address = f"--address=http://{cluster.head.address}:{DASHBOARD}"
    job = cluster.job(
        *("submit", address, "--working-dir", str(ROOT)),
        *("--", "python", "-m", "pipelines.pretrain", str(path)),
    )
    log = folder / "logs" / "worker_0.log"
    seen = []
    try:
        wait_for(lambda: step(folder) >= 2 * EVERY, 150, log)
        first = at_work(cluster, folder)
        assert len(first) == 2  # one CPU each
        killed = [(step(folder), first[1].kill())]
        spare = next(one for one in cluster.others if one not in first)
        wait_for(lambda: spare in at_work(cluster, folder), 90, log)
        seen.append([one.address for one in at_work(cluster, folder)])
        at = step(folder)
        wait_for(lambda: step(folder) >= at + EVERY, 90, log)
        killed.append((step(folder), spare.kill()))
        said = job.communicate(timeout=240)[0]
    finally:
        job.kill()
        job.wait()
    print("checkpoint and processes at each kill:", killed, seen)
    assert job.returncode == 0, said
    assert f"done: {folder}" in said
    assert "going on with 1 worker" in said
    report = json.loads((folder / "report.json").read_text())
    assert (report["steps"], report["world_size"]) == (STEPS, 1)
    starts = read_starts(folder / STARTS_FILE)  # one command's, whatever number of workers
    assert len(starts) >= 3 and len({start.launch for start in starts}) == 1

    values = to_dict(recipe)
    values["machine"] |= {"out": str(tmp_path / "undisturbed"), "workers": 1, "engine": "plain"}
    alone = build(PretrainRecipe, values)
    run.pretrain(alone, World(), alone.folder())
    found, want = (read_metrics(place / "metrics.jsonl") for place in (folder, alone.folder()))
    assert [row["step"] for row in found] == [row["step"] for row in want]
    losses = [row["loss"] for row in found if "loss" in row]
    assert losses == pytest.approx([row["loss"] for row in want if "loss" in row], rel=1e-4)


def test_outsiders_are_refused(cluster: Cluster) -> None:
    address = f"--address=http://{cluster.head.address}:{DASHBOARD}"
    words = ("submit", address, "--", "python", "-c", "print('in')")
    for stranger in (
        {"RAY_AUTH_TOKEN": "0" * 64},
        {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN_PATH": ""},
    ):
        job = cluster.job(*words, **stranger)
        said = job.communicate(timeout=60)[0]
        assert job.returncode != 0 and "oken authentication" in said, said
