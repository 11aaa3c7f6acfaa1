"""Ray data workers: the batches of the inline loader, whatever happens to them.

A whole run with one of them killed, under Ray Train, takes a while and is made by hand only:

    HPSE_DATA_WORKERS=1 python -m pytest tests/integration/test_data_workers.py
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import ray

from cluster.data_workers import DataWorkers
from cluster.lanes import Lane
from cluster.launch import launch
from hpse_dist import run
from hpse_dist.data.items import Source
from hpse_dist.data.shared import Place
from hpse_dist.guard import read_incidents
from hpse_dist.world import World
from tests.data.made_collection import made_collection
from tests.data.test_bad_records import with_damage
from tests.data.test_loader import equal, joined, loader, take
from tests.integration.clusters import own_cluster
from tests.integration.data_worker_trainers import Trainer, mixed, processes
from tests.test_run import losses, pretraining, weights
from tests.waiting import lives, until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
]
AHEAD = 8  # more micro-batches than two workers have under way or waiting


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with own_cluster(batches=True):
        yield


def end(numbers: list[int]) -> None:
    """Wait for processes to end by themselves."""
    until(lambda: not any(map(lives, numbers)), "a data worker outlives its trainer")


def test_those_that_die_or_hang_are_replaced_at_the_exact_sample(tmp_path: Path) -> None:
    source = Source(with_damage(tmp_path / "c"), split=None)  # pairs, some to be replaced
    calm = loader(source, micro_batch=4)
    made = loader(source, micro_batch=4, kind="workers", hire=DataWorkers(2), decode_limit_s=5.0)
    batches, found = iter(made), []
    found += take(batches, 3)
    first = processes(made)
    assert len(made._crew._workers) == 2 and os.getpid() not in first  # type: ignore[union-attr]
    os.kill(first[0], signal.SIGKILL)
    found += take(batches, AHEAD)
    os.kill(first[1], signal.SIGSTOP)
    found += take(batches, AHEAD)
    assert equal(joined(found), joined(take(iter(calm), len(found))))
    said = {one.kind: one.why for one in made.incidents}
    assert f"process {first[0]} on " in said["lost_data_worker"]
    assert "has been at a micro-batch for " in said["hung_decode"]
    assert {*made.bad_records} == {*calm.bad_records} != set()
    assert made.core_seconds > 0
    # the next iterator goes on elsewhere with the same workers
    for one in (made, calm):
        one.load_state_dict({"epoch": 0, "cursor": 16})
    assert equal(joined(take(iter(made), 4)), joined(take(iter(calm), 4)))
    last = processes(made)
    assert not {*first} & {*last}
    made.close()
    end([*first, *last])


def test_those_that_do_not_reach_the_trainers_memory_go_through_rays_store(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = Place("/proc/self/fd/0", 0, 0)  # as for another user, or in another container
    monkeypatch.setattr(Lane, "ends", (wrong, wrong))
    made = mixed(kind="workers", hire=DataWorkers(1))
    assert equal(joined(take(iter(made), 5)), joined(take(iter(mixed()), 5)))
    assert "does not reach its trainer's memory (/proc/self/fd/0 is another" in caplog.text
    made.close()


def test_they_end_with_their_trainer() -> None:
    trainer = ray.remote(num_cpus=0)(Trainer).remote()
    number, workers, found = ray.get(trainer.begin.remote())
    assert equal(found, joined(take(iter(mixed()), 3)))
    os.kill(number, signal.SIGKILL)
    end([number, *workers])


@pytest.mark.skipif("HPSE_DATA_WORKERS" not in os.environ, reason="slow; set HPSE_DATA_WORKERS=1")
def test_a_run_under_ray_has_the_losses_of_one_without(tmp_path: Path) -> None:
    alone = pretraining(tmp_path / "alone", made_collection())
    run.pretrain(alone, World(), alone.folder())
    recipe = pretraining(tmp_path / "ray", made_collection())
    recipe = replace(recipe, machine=replace(recipe.machine, loader="workers"))
    target = f"{Trainer.__module__}:pretrain_and_kill"
    launch(target, recipe, recipe.folder(), cpus_per_worker=1, data_workers=1, progress=False)
    assert losses(recipe.folder()) == losses(alone.folder())
    mine, theirs = weights(recipe.folder()), weights(alone.folder())
    assert all(mine[name].equal(theirs[name]) for name in theirs)
    incidents = read_incidents(recipe.folder() / "incidents.jsonl")
    (lost,) = [one for one in incidents if one["kind"] == "lost_data_worker"]
    assert "died" in lost["why"]
    names = [one.name() for one in psutil.Process().children(recursive=True)]
    assert not [name for name in names if "DataWorker" in name]
