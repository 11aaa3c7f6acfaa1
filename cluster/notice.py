"""SIGTERM at a command reaches its workers, wherever they are: they save and end first.

Schedulers send it some time before they kill: Slurm before a job's time is over, Kubernetes before
it takes a machine, `ray job stop`. The word lies in the store of Ray's head, under the number of
the command's job, and each worker looks there every second.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from cluster.repeating import again_and_again
from hpse_dist.stopping import tell

EVERY_S = 1.0
STOPPED = "stopped by a signal"


@contextlib.contextmanager
def passed_on(told: Callable[[], bool]) -> Iterator[None]:
    """While inside, a driver that is `told` to stop tells the workers of its job."""
    from ray.experimental import internal_kv

    said = threading.Event()

    def look() -> None:
        if told() and not said.is_set():
            with contextlib.suppress(Exception):  # the head is away: again in a moment
                internal_kv._internal_kv_put(_key(), b"stop")
                said.set()

    try:
        with again_and_again(look, EVERY_S / 4):
            yield
    finally:
        if said.is_set():  # the job may have other runs afterwards
            with contextlib.suppress(Exception):
                internal_kv._internal_kv_del(_key())


def told_by_driver() -> bool:
    """Whether this worker's driver has been told to stop."""
    from ray.experimental import internal_kv

    with contextlib.suppress(Exception):  # the head is away: Ray's affair, not this thread's
        return bool(internal_kv._internal_kv_exists(_key()))
    return False


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """While inside, whoever listens in this worker is told when its driver is."""

    def look() -> None:
        if told_by_driver():
            tell()

    with again_and_again(look, EVERY_S):
        yield


def _key() -> str:
    import ray

    if not ray.is_initialized():  # asked for its job, Ray would start a cluster
        raise ConnectionError("Ray has ended")
    return f"hpse_dist:stop:{ray.get_runtime_context().get_job_id()}"
