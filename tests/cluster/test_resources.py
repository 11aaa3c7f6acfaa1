"""What fits where, in plain numbers."""

from __future__ import annotations

import pytest

from cluster.resources import (
    Need,
    Node,
    crowding,
    data_apart,
    data_crowding,
    even_share,
    fitting,
    gpus_for,
    nodes_of,
    places,
    shortage,
)

LAPTOP = (Node(2),)
GPU_BOX = (Node(16, 1),)
RACK = (Node(64, 8), Node(64, 8), Node(8))


def test_a_run_that_fits_has_no_shortage() -> None:
    assert shortage(Need(2), LAPTOP) is None
    assert shortage(Need(16, 8, 1), RACK) is None


def test_a_worker_never_straddles_two_nodes() -> None:
    assert places(Need(1, 40), (Node(32), Node(32))) == 0
    assert places(Need(1, 20), (Node(32), Node(32))) == 2


@pytest.mark.parametrize(
    ("need", "nodes", "words"),
    [
        (Need(3), LAPTOP, ("3 workers with 1 CPU each", "1 node: 2 CPUs, no GPU", "at most 2")),
        (Need(1, 1, 1), LAPTOP, ("1 worker with 1 CPU and 1 GPU,", "room for none", "no GPU")),
        (Need(2, 4, 1), GPU_BOX, ("room for 1 of them", "at most 1 worker,")),
        (Need(1, 100), RACK, ("3 nodes: 136 CPUs and 16 GPUs", "ask for less per worker")),
    ],
)
def test_a_shortage_says_what_is_needed_what_is_there_and_what_to_do(
    need: Need, nodes: tuple[Node, ...], words: tuple[str, ...]
) -> None:
    sentence = shortage(need, nodes)
    assert sentence is not None
    for word in words:
        assert word in sentence
    assert "add machines" in sentence


@pytest.mark.parametrize(
    ("workers", "gpus", "nodes", "share"),
    [
        (1, 0, LAPTOP, 2),
        (2, 0, LAPTOP, 1),
        (6, 0, LAPTOP, 1),  # two at a time
        (1, 1, GPU_BOX, 16),
        (16, 1, RACK, 8),
        (6, 0, (Node(16),), 2),
        (3, 0, (Node(4), Node(2)), 2),
        (1, 1, LAPTOP, 1),  # no place at all: the shortage says so
    ],
)
def test_machines_are_shared_evenly(
    workers: int, gpus: float, nodes: tuple[Node, ...], share: float
) -> None:
    assert even_share(workers, gpus, nodes) == share


def test_a_share_still_leaves_a_place_for_every_worker() -> None:
    for workers in range(1, 40):
        share = even_share(workers, 0, RACK)
        assert places(Need(1, share), RACK) >= workers


def test_workers_with_gpus_stay_on_one_machine_where_it_holds_them() -> None:
    """Eight CPUs come with each GPU of the rack: more would spread four workers over two nodes."""
    share = even_share(4, 1, RACK)
    assert share == 8
    assert RACK[0].holds(Need(4, share, 1)) >= 4
    assert even_share(2, 1, (Node(4, 8),)) == 1  # fewer CPUs than GPUs


@pytest.mark.parametrize(
    ("counts", "gpus", "nodes", "workers"),
    [
        ((8, 4, 2), 0, LAPTOP, 2),
        ((16, 8), 1, RACK, 16),
        ((16, 8), 1, RACK[1:], 8),  # a machine was lost
        ((16, 8), 1, RACK[2:], None),
        ((), 0, RACK, None),
    ],
)
def test_the_most_workers_that_fit(
    counts: tuple[int, ...], gpus: float, nodes: tuple[Node, ...], workers: int | None
) -> None:
    need = fitting(counts, gpus, nodes)
    assert (need and need.workers) == workers


def test_more_decoding_threads_than_cpus_are_said() -> None:
    assert crowding(Need(2, 4), 4) is None
    said = crowding(Need(2, 2.5), 4)
    assert said is not None and "4 threads on 2.5 CPUs" in said and "loader_threads to 2" in said


def test_device_decides_on_gpus() -> None:
    assert gpus_for("auto", LAPTOP) == 0
    assert gpus_for("auto", GPU_BOX) == 1
    assert gpus_for("cpu", GPU_BOX) == 0
    assert gpus_for("cuda", LAPTOP) == 1
    with pytest.raises(ValueError, match="auto, cpu or cuda"):
        gpus_for("tpu", LAPTOP)


def test_dead_nodes_do_not_count() -> None:
    listed = [
        {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}},
        {"Alive": False, "Resources": {"CPU": 8.0}},
        {"Alive": True, "Resources": {}},
    ]
    assert nodes_of(listed) == (Node(4, 1), Node(0, 0))


@pytest.mark.parametrize("need", [{"workers": 0}, {"cpus": 0}, {"gpus": -1}])
def test_impossible_needs_are_refused(need: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="found"):
        Need(**need)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("need", "count", "nodes", "apart"),
    [
        (Need(1, 2), 1, LAPTOP, False),  # beside the worker
        (Need(2, 1), 1, LAPTOP, False),  # too many, and there is nowhere else
        (Need(8, 8, 1), 7, RACK, False),
        (Need(8, 8, 1), 8, RACK, True),  # the other machines' CPUs
        (Need(16, 8, 1), 8, RACK, False),
    ],
)
def test_data_workers_leave_a_crowded_worker_where_there_is_room(
    need: Need, count: int, nodes: tuple[Node, ...], apart: bool
) -> None:
    assert data_apart(need, count, nodes) == apart


def test_crowded_data_workers_are_said() -> None:
    assert data_crowding(Need(2, 1), 0) is None
    assert data_crowding(Need(1, 4), 3) is None
    said = data_crowding(Need(2, 1), 2)
    assert said is not None and "its 2 data workers share 1 CPU" in said
    assert "machine.data_workers" in said
