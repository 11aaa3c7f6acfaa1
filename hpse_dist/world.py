"""Who am I among the processes of a run: four integers, no process group."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """Place of this process among all trainers. One trainer drives one device."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    def __post_init__(self) -> None:
        if not (0 <= self.rank < self.size and 0 <= self.local_rank < self.local_size <= self.size):
            raise ValueError(f"not a place in a world: {self}")

    @property
    def is_main(self) -> bool:
        """True on the one process that writes files and talks to the user."""
        return self.rank == 0
