"""Easy pairs first: which pairs come is a pure function of the seed and the place in the sequence.

Under a curriculum an epoch is as long as ever, and each pair keeps its place in it. A pair that is
too hard for its place gives it to an easier one of its kind out of the same window of shards, all
easier ones in equal turns. So a pair within the share comes at least once in an epoch, at most
about 1 / share times; and where the share is 1, exactly once, in the order that there would be
without a curriculum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpse_dist.draws import permutation

_STAND_IN = 1 << 40  # repeats of pairs in another's place start here: no pass has so high a number


@dataclass(frozen=True)
class CurriculumConfig:
    """From a share of the easiest pairs to more of them; each kind's pairs are graded apart."""

    start: float = 0.3
    """Share of the easiest pairs that the first step draws from."""
    end: float = 1.0
    """The share from `steps` on; below 1 the hardest pairs never come."""
    steps: int = 10_000
    """Optimizer steps over which the share grows, evenly."""

    def __post_init__(self) -> None:
        if not 0 < self.start <= self.end <= 1:
            raise ValueError(
                "curriculum must grow from a start above 0 to an end of at most 1, found "
                f"{self.start} to {self.end}"
            )
        if self.steps < 1:
            raise ValueError(f"curriculum.steps must be at least 1, found {self.steps}")


@dataclass(frozen=True)
class Curriculum:
    """One source's."""

    difficulty: np.ndarray
    """(items,) 0 easy .. 1 hard."""
    kind: np.ndarray
    """(items,)"""
    start: float
    end: float
    samples: int
    """Of the whole sequence, over which the share grows."""

    def share(self, place: np.ndarray) -> np.ndarray:
        """Share of the pairs at hand that are easy enough at places (n,) of the sequence."""
        return self.start + (self.end - self.start) * np.minimum(place / self.samples, 1)


def replace_hard(
    item: np.ndarray,
    repeat: np.ndarray,
    source: np.ndarray,
    place: np.ndarray,
    curricula: Sequence[Curriculum | None],
    keys: Sequence[int],
) -> None:
    """Replace the pairs of a window that are too hard, and their repeats, in these arrays (n,).

    place: of the window's items in the endless sequence. keys: seed, epoch, number of the window.
    """
    for number, curriculum in enumerate(curricula):
        if curriculum is None or len(place) == 0 or curriculum.share(place[:1])[0] >= 1:
            continue
        for kind in np.unique(curriculum.kind).tolist():
            here = np.flatnonzero(source == number)
            here = here[curriculum.kind[item[here]] == kind]
            if len(here):
                stream = f"curriculum.{number}.{kind}"
                _replace(item, repeat, here, place, curriculum, stream, keys)


def _replace(
    item: np.ndarray,
    repeat: np.ndarray,
    here: np.ndarray,
    place: np.ndarray,
    curriculum: Curriculum,
    stream: str,
    keys: Sequence[int],
) -> None:
    """Put easier items in the place of those of `here` that are too hard, in these arrays."""
    at_hand, which = np.unique(item[here], return_inverse=True)
    order = np.argsort(curriculum.difficulty[at_hand], kind="stable")
    rank = np.argsort(order)[which]  # of each place's pair, 0 the easiest
    at_hand = at_hand[order]
    allowed = np.maximum(1, np.ceil(curriculum.share(place[here]) * len(at_hand))).astype(np.int64)
    hard = rank >= allowed
    item[here[hard]] = at_hand[_in_turn(allowed[hard], stream, keys)]
    repeat[here[hard]] = _STAND_IN + place[here[hard]]


def _in_turn(allowed: np.ndarray, stream: str, keys: Sequence[int]) -> np.ndarray:
    """One of 0..allowed - 1 for each of the places (n,), whose `allowed` never falls: all of them
    in a drawn order, again and again, and those that join from the next time on."""
    seed, epoch, number = keys
    found, start = np.empty_like(allowed), 0
    while start < len(allowed):
        count = int(allowed[start])
        same = int(np.searchsorted(allowed, count, "right")) - start
        stop = min(start + -(-same // count) * count, len(allowed))
        turns = permutation(seed, f"{stream}.{number}.{start}", epoch, count)
        found[start:stop] = np.resize(turns, stop - start)
        start = stop
    return found
