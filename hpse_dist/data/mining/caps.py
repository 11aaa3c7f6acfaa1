"""Which pairs stay where there are more than a cap allows: a draw keyed by sample ids.

The same table, rules and seed keep the same pairs on any machine and in any order of the rows.
"""

from __future__ import annotations

import numpy as np
import torch

from hpse_dist.data.mining.candidates import Pairs
from hpse_dist.data.mining.frames import Names, groups
from hpse_dist.data.mining.rules import POSE, VIEW, PairsConfig, view_weight
from hpse_dist.draws import uniform

_BINS = 9  # of the angle, 10 degrees each, or of the time gap's range


def draw(seed: int, stream: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """One number in [0, 1) for each pair of sample ids: (n,) float64."""
    ids = torch.from_numpy(np.ascontiguousarray(a)), torch.from_numpy(np.ascontiguousarray(b))
    return uniform(seed, stream, ids[1], ids[0])[:, 0].numpy().astype(np.float64)


def heaviest_draw(group: np.ndarray, cap: int, weight: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Which stay, (n,) bool: up to `cap` of each group, drawn without replacement by weight.

    The largest log(u) / weight are such a draw (Efraimidis and Spirakis 2006).
    """
    score = np.log(np.maximum(drawn, 2.0**-25)) / np.maximum(weight, 1e-9)
    order = np.lexsort((-score, group))
    keep: np.ndarray = np.empty(len(group), bool)
    keep[order] = place_in_run(group[order]) < cap
    return keep


def spread_draw(
    group: np.ndarray, cap: int, stratum: np.ndarray, within: np.ndarray, drawn: np.ndarray
) -> np.ndarray:
    """Which stay, (n,) bool: up to `cap` of each group, their spread over strata kept.

    A systematic sample: a group's pairs are ordered by stratum, then by `within`, then by their
    draw, and every (n / cap)-th is taken from a drawn start: each stretch of the order gives its
    share to within one pair.
    """
    size = np.bincount(group)
    keep: np.ndarray = np.ones(len(group), bool)
    over = np.flatnonzero(size[group] > cap)
    order = over[np.lexsort((drawn[over], within[over], stratum[over], group[over]))]
    place, size = place_in_run(group[order]), size[group[order]]
    first = drawn[order][np.arange(len(order)) - place]  # the draw of the group's first
    start = (first * size).astype(np.int64)
    keep[order] = ((place + 1) * cap + start) // size > (place * cap + start) // size
    return keep


def place_in_run(group: np.ndarray) -> np.ndarray:
    """0, 1, 2 ... within each run of equal numbers: (n,) -> (n,)."""
    index: np.ndarray = np.arange(len(group))
    starts = np.concatenate([[True], group[1:] != group[:-1]])[: len(group)]
    return index - np.maximum.accumulate(np.where(starts, index, 0))


def within_moment(pairs: Pairs, ids: np.ndarray, names: Names, config: PairsConfig) -> np.ndarray:
    """Which cross-view pairs stay under max_view_per_moment, (n,) bool."""
    moment, cap = names.moment[pairs.a], config.max_view_per_moment
    drawn = draw(config.seed, "pairs/view", ids[pairs.a], ids[pairs.b])
    if config.weigh_views:
        weight = view_weight(pairs.angle_deg.astype(np.float64))
        return heaviest_draw(moment, cap, weight, drawn)
    _, moment = np.unique(moment, return_inverse=True)
    return spread_draw(moment, cap, *strata(VIEW, pairs, config), drawn)


def within_cap(
    kind: int, cap: str, pairs: Pairs, ids: np.ndarray, names: Names, config: PairsConfig
) -> np.ndarray:
    """Which pairs stay under one of `rules.CAPS`, (n,) bool."""
    limit = getattr(config, cap)
    if limit is None or len(pairs) == 0 or (cap == "max_per_camera_pair" and kind == POSE):
        return np.ones(len(pairs), bool)
    if cap == "max_per_subject":
        group = groups(names.person[pairs.a])
    elif cap == "max_per_sequence":
        group = groups(names.sequence[pairs.a])
    else:
        cameras = names.camera[pairs.a], names.camera[pairs.b]
        sequence = names.sequence[pairs.a]
        group = groups(sequence, np.minimum(*cameras), np.maximum(*cameras))
    drawn = draw(config.seed, f"pairs/{cap}/{kind}", ids[pairs.a], ids[pairs.b])
    return spread_draw(group, limit, *strata(kind, pairs, config), drawn)


def strata(kind: int, pairs: Pairs, config: PairsConfig) -> tuple[np.ndarray, np.ndarray]:
    """What a capped draw keeps the spread of: (bin of the first measure, the second measure).

    Cross-view: angle in bins of 10 degrees, then overlap. Cross-pose: time gap in logarithmic bins
    of the recipe's range, then pose distance.
    """
    if kind == VIEW:
        share, second = pairs.angle_deg / 90, pairs.overlap
    else:
        low, high = config.time_gap_s
        share = np.log(np.maximum(pairs.time_gap_s, 1e-6) / low) / np.log(high / low)
        second = pairs.pose_distance
    stratum = np.clip(np.floor(share * _BINS), 0, _BINS - 1).astype(np.int64)
    return stratum, np.nan_to_num(second, nan=-1.0)
