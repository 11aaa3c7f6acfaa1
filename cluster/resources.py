"""What a run needs against what a cluster has: plain numbers without Ray."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Need:
    """Workers of a run and the share of one node that each of them occupies."""

    workers: int = 1
    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, found {self.workers}")
        if self.cpus <= 0:
            raise ValueError(f"each worker needs a positive number of CPUs, found {self.cpus:g}")
        if self.gpus < 0:
            raise ValueError(f"GPUs per worker cannot be negative, found {self.gpus:g}")

    def __str__(self) -> str:
        each = " each" if self.workers > 1 else ""
        return f"{_count(self.workers, 'worker')} with {_room(self.cpus, self.gpus)}{each}"


@dataclass(frozen=True)
class Node:
    """One machine of a cluster: what it has in all, whether in use or not."""

    cpus: float
    gpus: float = 0.0

    def holds(self, need: Need) -> int:
        """How many workers of this kind fit on the node when it is empty."""
        by_cpu = int((self.cpus + 1e-6) / need.cpus)
        return by_cpu if need.gpus == 0 else min(by_cpu, int((self.gpus + 1e-6) / need.gpus))


def nodes_of(ray_nodes: Sequence[Mapping[str, Any]]) -> tuple[Node, ...]:
    """The living nodes in what `ray.nodes()` returns."""
    return tuple(
        Node(cpus=node["Resources"].get("CPU", 0.0), gpus=node["Resources"].get("GPU", 0.0))
        for node in ray_nodes
        if node["Alive"]
    )


def places(need: Need, nodes: Sequence[Node]) -> int:
    """How many workers of this kind the whole cluster holds when it is empty."""
    return sum(node.holds(need) for node in nodes)


def shortage(need: Need, nodes: Sequence[Node]) -> str | None:
    """One sentence when the cluster is too small even when empty; None when the run fits."""
    room = places(need, nodes)
    if room >= need.workers:
        return None
    if room:
        advice = f"ask for at most {_count(room, 'worker')}, or for less per worker"
    elif need.gpus and not any(node.gpus for node in nodes):
        advice = "ask for no GPU, or run where there are some"
    else:
        advice = "ask for less per worker"
    return (
        f"the run needs {need}, but {describe(nodes)} has room for {room or 'none'} of them: "
        f"{advice}, or add machines to the cluster"
    )


def gpus_for(device: str, nodes: Sequence[Node]) -> float:
    """GPUs of one worker for a recipe's `machine.device`: auto takes one where there is one."""
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, found {device!r}")
    return float(device == "cuda" or (device == "auto" and any(node.gpus for node in nodes)))


def even_share(workers: int, gpus: float, nodes: Sequence[Node]) -> float:
    """Whole CPUs per worker that as many workers as find a place at one CPU each can all have.

    A worker with a GPU takes no more than the CPUs that come with the GPU: else four workers on
    two machines of eight GPUs would be spread over both for the sake of CPUs, away from the fast
    links within one, and the GPUs left over would have no CPU for another run.
    """
    placed = min(workers, places(Need(1, 1.0, gpus), nodes))
    most = math.inf
    if gpus and placed:
        most = min(node.cpus * gpus / node.gpus for node in nodes if node.gpus >= gpus)
    share = 1
    while placed and share + 1 <= most and places(Need(1, share + 1.0, gpus), nodes) >= placed:
        share += 1
    return float(share)


def fitting(
    counts: Sequence[int], gpus: float, nodes: Sequence[Node], cpus: float | None = None
) -> Need | None:
    """What to ask for: the first of `counts` workers that fits the empty cluster, if any does.

    cpus: of each worker; None shares the machines evenly.
    """
    needs = (Need(count, cpus or even_share(count, gpus, nodes), gpus) for count in counts)
    return next((need for need in needs if shortage(need, nodes) is None), None)


def crowding(need: Need, threads: int) -> str | None:
    """One sentence where a worker decodes with more threads than it has CPUs; else None."""
    if threads <= need.cpus:
        return None
    return (
        f"each worker decodes with {threads} threads on {_count(need.cpus, 'CPU')}: they will wait "
        f"for one another; set machine.loader_threads to {max(1, int(need.cpus))}"
    )


def data_apart(need: Need, count: int, nodes: Sequence[Node]) -> bool:
    """Whether each worker's `count` data workers get CPUs of their own, wherever there are some.

    They stay within the worker's own CPUs where these suffice, or where the cluster has no others.
    """
    left = sum(node.cpus for node in nodes) - need.workers * need.cpus
    return count + 1 > need.cpus and left >= need.workers * count


def data_crowding(need: Need, count: int) -> str | None:
    """One sentence where a worker and its data workers have fewer CPUs than they are; else None."""
    if count == 0 or count + 1 <= need.cpus:
        return None
    return (
        f"each worker and its {_count(count, 'data worker')} share {_count(need.cpus, 'CPU')}, and "
        "the cluster has no others: they will wait for one another; lower machine.data_workers, or "
        "set machine.loader to inline"
    )


def describe(nodes: Sequence[Node]) -> str:
    """`the cluster (2 nodes: 8 CPUs, no GPU)`."""
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    return f"the cluster ({_count(len(nodes), 'node')}: {_room(cpus, gpus, say_none=True)})"


def _room(cpus: float, gpus: float, say_none: bool = False) -> str:
    text = _count(cpus, "CPU")
    if gpus:
        return f"{text} and {_count(gpus, 'GPU')}"
    return f"{text}, no GPU" if say_none else text


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}" if number == 1 else f"{number:g} {noun}s"
