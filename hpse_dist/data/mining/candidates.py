"""Which frames could be pairs, with every measure taken, in pieces of bounded size.

Cross-view candidates are all pairs of one person and moment in different cameras. Cross-pose
candidates are drawn: all pairs of a track would grow with the square of its length.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hpse_dist.data.mining.frames import Frames, groups
from hpse_dist.data.mining.rules import POSE, VIEW, PairsConfig, difficulty
from hpse_dist.draws import permutation, uniform

AT_ONCE = 1 << 16  # candidates measured at a time
_TRIES = 4  # gaps drawn for each cross-pose pair wanted


@dataclass(frozen=True)
class Pairs:
    """Pairs of frames with their measures, each array (n,); NaN where unknown."""

    a: np.ndarray
    """Row in frames.parquet."""
    b: np.ndarray
    angle_deg: np.ndarray
    """Between the viewing directions at the person."""
    time_gap_s: np.ndarray
    pose_distance: np.ndarray
    """Of cross-pose pairs."""
    overlap: np.ndarray
    """Jaccard index of the body surface both show; where that is unknown, of cross-pose pairs,
    intersection over union of the boxes."""
    difficulty: np.ndarray
    """0 easy .. 1 hard."""
    of_silhouettes: np.ndarray
    """Whether the pose distance is one of silhouettes."""

    def __len__(self) -> int:
        return len(self.a)

    def take(self, index: np.ndarray) -> Pairs:
        """Some of them."""
        fields = dataclasses.fields(self)
        return Pairs(**{field.name: getattr(self, field.name)[index] for field in fields})


def join(parts: Sequence[Pairs]) -> Pairs:
    """Pieces put together; none of them is a table of no pairs."""
    names = [field.name for field in dataclasses.fields(Pairs)]
    if not parts:
        types = {"a": np.int64, "b": np.int64, "of_silhouettes": np.bool_}
        return Pairs(**{name: np.zeros(0, types.get(name, np.float32)) for name in names})
    return Pairs(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})


def view_candidates(frames: Frames, config: PairsConfig) -> Iterator[tuple[Pairs, int]]:
    """Pieces of whole moments: (pairs with ids a < b, how many pairs were not looked at).

    A moment of over `AT_ONCE` pairs gives so many, drawn by how far apart their ids stand.
    """
    rows = np.flatnonzero(frames.names.has_subject)
    moment = frames.names.moment[rows]
    order = np.lexsort((frames.ids[rows], moment))
    rows, moment = rows[order], moment[order]
    starts = np.flatnonzero(np.diff(moment, prepend=-1))
    sizes: np.ndarray = np.diff(np.append(starts, len(rows)))
    couples = sizes * (sizes - 1) // 2
    piece = (np.cumsum(couples) - couples) // AT_ONCE
    crowded = couples > AT_ONCE  # alone in its piece
    new = np.diff(piece, prepend=-1) + crowded + np.append(False, crowded[:-1]) > 0
    edges: np.ndarray = np.append(starts[new], len(rows))
    for start, stop in itertools.pairwise(edges):
        a, b, left = _couples(rows[start:stop], moment[start:stop], config.seed)
        other = frames.names.camera[a] != frames.names.camera[b]
        yield _measured(frames, VIEW, a[other], b[other], config), left


def _couples(rows: np.ndarray, moment: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Pairs (a, b) of rows of one moment, and how many were left out of a crowded one."""
    most = int(np.unique(moment, return_counts=True)[1].max())
    lags: np.ndarray = np.arange(1, most)  # from a frame to the one so many places on
    left = 0
    if most * (most - 1) // 2 > AT_ONCE and most == len(moment):
        drawn: np.ndarray = permutation(seed, "pairs/lags", 0, most - 1) + 1
        lags = np.sort(drawn[np.cumsum(most - drawn) <= AT_ONCE])
        left = most * (most - 1) // 2 - int((most - lags).sum())
    firsts = [np.flatnonzero(moment[lag:] == moment[:-lag]) for lag in lags]
    none: np.ndarray = np.zeros(0, np.int64)
    a = np.concatenate([none, *firsts])
    lengths = [len(first) for first in firsts]
    return rows[a], rows[a + np.repeat(lags, lengths).astype(np.int64)], left


def pose_candidates(frames: Frames, config: PairsConfig) -> Iterator[Pairs]:
    """Pieces of whole frames' candidates in the order of drawing, a earlier than b.

    Each frame draws time gaps, log-uniformly, and takes the frame of its track nearest to each.
    """
    names = frames.names
    rows = np.flatnonzero(names.has_person)
    if len(rows) == 0:
        return
    keys = (names.person, names.sequence, names.camera, names.split)
    group = groups(*[key[rows] for key in keys])
    order = np.lexsort((frames.ids[rows], names.time[rows], group))
    rows, group = rows[order], group[order]
    low, high = config.time_gap_s
    time = names.time[rows] - names.time[rows].min()
    place = time + group * (time.max() + 2 * high + 1)  # one axis, groups far apart
    tries = _TRIES * config.max_pose_per_frame
    step = max(1, AT_ONCE // tries)
    for start in range(0, len(rows), step):
        here = np.arange(start, min(start + step, len(rows)))
        ids = torch.from_numpy(frames.ids[rows[here]])
        u = uniform(config.seed, "pairs/pose", 0, ids, tries).numpy()
        wanted = place[here, None] + low * (high / low) ** u.astype(np.float64)
        after = np.clip(np.searchsorted(place, wanted), 1, len(place) - 1)
        nearest = np.where(wanted - place[after - 1] < place[after] - wanted, after - 1, after)
        first: np.ndarray = np.repeat(here, tries)
        second = nearest.reshape(-1)
        gap = place[second] - place[first]
        slack = 1e-6  # times come as rounded frame numbers over rates
        real = (group[first] == group[second]) & (gap >= low - slack) & (gap <= high + slack)
        first, second = first[real], second[real]
        drawn = np.sort(np.unique(first * len(rows) + second, return_index=True)[1])
        yield _measured(frames, POSE, rows[first[drawn]], rows[second[drawn]], config)


def _measured(
    frames: Frames, kind: int, a: np.ndarray, b: np.ndarray, config: PairsConfig
) -> Pairs:
    """Frames' rows (n,) and (n,) as pairs of the collection's rows."""
    angle, overlap = frames.angle(a, b), frames.covisibility(a, b)
    gap = np.abs(frames.names.time[a] - frames.names.time[b])
    if kind == VIEW:
        distance: np.ndarray = np.full(len(a), np.nan)
        of_silhouettes: np.ndarray = np.zeros(len(a), bool)
    else:
        distance, of_silhouettes = frames.pose_change(a, b)
        overlap = np.where(np.isnan(overlap), frames.box_overlap(a, b), overlap)
    hard = difficulty(kind, angle, gap, distance, overlap, config)
    return Pairs(
        a=frames.rows[a],
        b=frames.rows[b],
        angle_deg=angle.astype(np.float32),
        time_gap_s=gap.astype(np.float32),
        pose_distance=distance.astype(np.float32),
        overlap=overlap.astype(np.float32),
        difficulty=hard.astype(np.float32),
        of_silhouettes=of_silhouettes,
    )
