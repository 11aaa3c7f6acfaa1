"""Ray clusters and processes of one's own, for tests."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray  # before its environment is set, as a user's script may

from cluster.connection import Cluster, connected

ROOT = Path(__file__).parents[2]
_PORTS = range(20_000, 32_000)  # the kernel and Ray give away others, so nobody takes one meanwhile


@contextmanager
def own_cluster(*, batches: bool = False) -> Iterator[Cluster]:
    """A cluster on this machine whose workers find the tests; the environment is put back."""
    assert not ray.is_initialized()
    before = dict(os.environ)
    os.environ["PYTHONPATH"] = str(ROOT)  # for workers that start from anywhere
    os.environ.pop("RAY_ADDRESS", None)
    try:
        with connected(batches=batches) as made:
            yield made
    finally:
        os.environ.clear()
        os.environ.update(before)


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody uses."""
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)):
                found.append(port)
        if len(found) == count:
            return found
    raise AssertionError(f"no {count} free ports")
