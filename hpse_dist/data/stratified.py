"""Which frames to keep where a collection is to be smaller and still have all of itself in it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch

from hpse_dist import draws
from hpse_dist.data.mining.frames import Names, groups

COLUMNS = ["subject", "sequence", "track", "camera", "split", "time"]


def spread(frames: pa.Table, most: int, gap_s: float) -> np.ndarray:
    """Rows (n,) int64, ascending, of at most `most` frames: the same share, as nearly as can be,
    of every person in every sequence and split.

    What all cameras see of a person at one moment stays together, and with it a second moment
    about `gap_s` later: so there are view and pose pairs however small the share. What is kept
    lies evenly over a sequence. The same each time, and the frames of a smaller `most` are among
    those of a larger one. frames: `COLUMNS` of frames.parquet.
    """
    names = Names.of(frames)
    alone: np.ndarray = len(frames) + np.arange(len(frames))  # a frame whose time nobody knows
    _, first, moment = np.unique(
        np.where(np.isnan(names.time), alone, names.moment), return_index=True, return_inverse=True
    )
    stratum = groups(names.person, names.sequence, names.split)[first]
    couple = _couples(stratum, names.time[first], gap_s)
    _, first, unit, sizes = np.unique(
        groups(stratum, couple)[moment], return_index=True, return_inverse=True, return_counts=True
    )
    shares = _shares(stratum[moment][first], couple[moment][first])
    order = np.argsort(shares, kind="stable")
    kept = order[np.cumsum(sizes[order]) <= most]
    return np.flatnonzero(np.isin(unit, kept))


def _couples(stratum: np.ndarray, time: np.ndarray, gap_s: float) -> np.ndarray:
    """Two and two of a stratum's moments, about `gap_s` apart: stratum and time, (moments,) each
    -> (moments,), within a stratum growing with time. Moments without a time are alone.
    """
    order, place, count = _places(stratum, time)
    ends = order[np.arange(len(order)) - place + count - 1]
    starts = order[np.arange(len(order)) - place]
    step = (time[ends] - time[starts]) / np.maximum(count - 1, 1)
    known = np.isfinite(step) & (step > 0)
    apart = np.clip(np.rint(gap_s / np.where(known, step, 1)), 1, np.maximum(count // 2, 1))
    apart = apart.astype(np.int64)
    couple: np.ndarray = np.empty(len(order), np.int64)
    couple[order] = np.where(known, place // (2 * apart) * apart + place % apart, place)
    return couple


def _shares(stratum: np.ndarray, couple: np.ndarray) -> np.ndarray:
    """From which share of the whole on each unit is kept, 0..1: stratum and couple, (units,) each.

    In a stratum of n units one comes with every n-th part, from a drawn start on: so strata of one
    unit, such as people of single pictures, are drawn at random, and long ones shrink evenly.
    """
    order, place, count = _places(stratum, couple)
    ids = torch.from_numpy(stratum[order])
    start = draws.uniform(0, "spread", 0, ids)[:, 0].double().numpy()
    turn = np.empty(len(order))
    for n in np.unique(count):
        turn[count == n] = _turns(int(n))[place[count == n]]
    shares = np.empty(len(order))
    shares[order] = (turn + start) / count
    return shares


def _places(stratum: np.ndarray, key: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The order by stratum and key, and in it each one's place within its stratum and how many that
    has, (N,) each."""
    order = np.lexsort((key, stratum))
    _, starts, counts = np.unique(stratum[order], return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(starts, counts)
    return order, place, np.repeat(counts, counts)


def _turns(n: int) -> np.ndarray:
    """When each of n places in a row has its turn, (n,), so that those of any time lie evenly: in
    the order of van der Corput's sequence, 0, 1/2, 1/4, 3/4, 1/8 ..."""
    bits = (n - 1).bit_length()
    counter = np.arange(1 << bits)
    reverse = sum(((counter >> bit) & 1) << (bits - 1 - bit) for bit in range(bits))
    _, first = np.unique((reverse * n) >> bits, return_index=True)
    return np.argsort(np.argsort(first))
