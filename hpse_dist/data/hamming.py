"""Which 64-bit codes are nearly equal: exact search by multi-index hashing.

Two codes that differ in at most r of 64 bits differ in at most r // 4 bits in one of their four
quarters, so only codes of nearly equal quarters need comparing (Norouzi, Punjani, Fleet 2014, "Fast
exact search in Hamming space with multi-index hashing").
"""

from __future__ import annotations

import itertools

import numpy as np

QUARTERS = 4
MAX_RADIUS = 11  # beyond it a quarter may differ in 3 bits: 697 buckets to look into instead of 137
_BLOCK = 1 << 21  # codes that are indexed at a time: 100 MB
_PIECE = 1 << 21  # comparisons made at a time

Matches = tuple[np.ndarray, np.ndarray, np.ndarray]


def near(a: np.ndarray, b: np.ndarray, radius: int, limit: int = 16) -> Matches:
    """All (i, j, distance) with a[i] and b[j] at most `radius` bits apart; a, b uint64 vectors.

    Of each code of the shorter vector at most the `limit` nearest are kept, by distance and then by
    place; int64 arrays, sorted by it. Memory does not grow with the product of the lengths.
    """
    if not 0 <= radius <= MAX_RADIUS:
        raise ValueError(f"radius must be 0..{MAX_RADIUS}, found {radius}")
    if len(a) < len(b):
        j, i, distance = near(b, a, radius, limit)
        return i, j, distance
    rows, queries, distances = _best(np.zeros((3, 0), np.int64), limit)
    for start in range(0, len(a), _BLOCK):
        for found in _in_block(a[start : start + _BLOCK], b, radius, limit):
            found[0] += start
            kept = np.stack([rows, queries, distances])
            rows, queries, distances = _best(np.concatenate([kept, found], axis=1), limit)
    return rows, queries, distances


def _in_block(codes: np.ndarray, queries: np.ndarray, radius: int, limit: int) -> list[np.ndarray]:
    """Matches of one block of codes: (3, M) rows, queries, distances for each piece of work."""
    reach = radius // QUARTERS
    flips = _flips(reach)
    found = []
    for quarter in range(QUARTERS):
        keys = _quarter(codes, quarter)
        order = np.argsort(keys, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=1 << 16))])
        sorted_codes = codes[order]
        per_query = len(flips) * max(1, len(codes) >> 16)
        step = max(1, _PIECE // per_query)
        for first in range(0, len(queries), step):
            part = queries[first : first + step]
            buckets = _quarter(part, quarter)[:, None] ^ flips
            low, count = starts[buckets].ravel(), (starts[buckets + 1] - starts[buckets]).ravel()
            for query, place in _expanded(low, count, len(flips)):
                differing = sorted_codes[place] ^ part[query]
                distance = np.bitwise_count(differing)
                near_enough = np.flatnonzero(distance <= radius)
                new = _first_found(differing[near_enough], quarter, reach)
                keep = near_enough[new]
                match = np.stack([order[place[keep]], query[keep] + first, distance[keep]])
                found.append(_best(match.astype(np.int64), limit))
    return found


def _expanded(
    low: np.ndarray, count: np.ndarray, per_query: int
) -> itertools.chain[tuple[np.ndarray, np.ndarray]]:
    """(query, place) of every entry of the buckets [low, low + count), piece by piece."""
    ends = np.cumsum(count)
    total = int(ends[-1]) if len(ends) else 0
    cuts = np.searchsorted(ends, np.arange(0, total, _PIECE), side="right")
    edges = np.unique(np.concatenate([[0], cuts, [len(count)]]))

    def piece(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        counts = count[start:stop]
        bucket: np.ndarray = np.repeat(np.arange(start, stop), counts)
        inside = np.arange(len(bucket)) - np.repeat(np.cumsum(counts) - counts, counts)
        return bucket // per_query, low[bucket] + inside

    return itertools.chain(piece(start, stop) for start, stop in itertools.pairwise(edges))


def _first_found(differing: np.ndarray, quarter: int, reach: int) -> np.ndarray:
    """Which matches no earlier quarter has found: (N,) bool."""
    new: np.ndarray = np.ones(len(differing), bool)
    for earlier in range(quarter):
        new &= np.bitwise_count(_quarter(differing, earlier)) > reach
    return new


def _quarter(codes: np.ndarray, number: int) -> np.ndarray:
    return ((codes >> np.uint64(16 * number)) & np.uint64(0xFFFF)).astype(np.int64)


def _flips(reach: int) -> np.ndarray:
    """All 16-bit masks of at most `reach` bits."""
    bits = [
        sum(1 << place for place in places)
        for count in range(reach + 1)
        for places in itertools.combinations(range(16), count)
    ]
    return np.array(bits, np.int64)


def _best(found: np.ndarray, limit: int) -> np.ndarray:
    """The `limit` nearest rows of each query: (3, M) rows, queries, distances -> (3, M')."""
    found = found[:, np.lexsort((found[0], found[2], found[1]))]
    query = found[1]
    first = np.searchsorted(query, query, side="left")
    return found[:, np.arange(len(query)) - first < limit]
