"""What the tests with real engines share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster.connection import Cluster
from tests.integration.clusters import own_cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One Ray cluster for all tests of a file, with two CPUs at least."""
    with own_cluster() as made:
        if sum(node.cpus for node in made.nodes) < 2:
            pytest.skip("two CPUs are needed for two workers")
        yield made
