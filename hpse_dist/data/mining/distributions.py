"""How candidates and the pairs kept of them are spread: counted piece by piece, in plain numbers.

candidates, kept         how many, each pair once whatever its orders
left_out                 {reason: candidates}
angle_deg, ...           edges, and counts of candidates and of kept in each bin between them
per_subject, per_moment, per_camera
                         how many have candidates, the most to the least pairs of one (every
                         tenth of them), and the share of the one with most
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from hpse_dist.data.mining.candidates import Pairs
from hpse_dist.data.mining.frames import Names
from hpse_dist.data.mining.rules import KIND_NAMES, POSE, VIEW, PairsConfig

MEASURES = {
    VIEW: ("angle_deg", "overlap", "difficulty"),
    POSE: ("time_gap_s", "pose_distance", "overlap", "angle_deg", "difficulty"),
}
OWNERS = ("subject", "moment", "camera")
CANDIDATES, KEPT = "candidates", "kept"


def bin_edges(measure: str, config: PairsConfig) -> np.ndarray:
    """Edges of a measure's bins, growing; values beyond them count in the outermost."""
    low, high = config.time_gap_s
    return {
        "angle_deg": np.linspace(0, 180, 19),
        "time_gap_s": np.geomspace(low, high, 13),
        "pose_distance": np.linspace(0, 2, 21),
        "overlap": np.linspace(0, 1, 21),
        "difficulty": np.linspace(0, 1, 21),
    }[measure]


class Distributions:
    """Counts over all candidates and over the pairs kept, of each kind."""

    def __init__(self, names: Names, config: PairsConfig) -> None:
        self._edges = {measure: bin_edges(measure, config) for measure in MEASURES[POSE]}
        self._owners = {
            "subject": names.person,
            "moment": names.moment,
            "camera": names.camera,
        }
        self._sizes = {
            name: int(owner.max()) + 1 if len(owner) else 0 for name, owner in self._owners.items()
        }
        self.left_out = {kind: Counter[str]() for kind in KIND_NAMES}
        self._counts: dict[tuple[int, str, str], np.ndarray] = {}
        for kind in KIND_NAMES:
            for which in (CANDIDATES, KEPT):
                for name in MEASURES[kind]:
                    self._counts[kind, which, name] = np.zeros(len(self._edges[name]) - 1, np.int64)
                for name in OWNERS:
                    self._counts[kind, which, name] = np.zeros(self._sizes[name], np.int64)
        self._totals = Counter[tuple[int, str]]()

    def add(self, kind: int, which: str, pairs: Pairs) -> None:
        """Count some candidates, or pairs kept."""
        self._totals[kind, which] += len(pairs)
        for measure in MEASURES[kind]:
            values, edges = getattr(pairs, measure).astype(np.float64), self._edges[measure]
            values = np.clip(values[np.isfinite(values)], edges[0], edges[-1])
            self._counts[kind, which, measure] += np.histogram(values, edges)[0]
        for name in OWNERS:
            self._counts[kind, which, name] += self._owned(name, pairs)

    def _owned(self, name: str, pairs: Pairs) -> np.ndarray:
        """How many of some pairs each subject, moment or camera has; two cameras share a pair."""
        owner = self._owners[name]
        count = np.bincount(owner[pairs.a], minlength=self._sizes[name])
        if name == "camera":
            other = pairs.b[owner[pairs.a] != owner[pairs.b]]
            count += np.bincount(owner[other], minlength=self._sizes[name])
        return count

    def drop(self, kind: int, reasons: dict[str, np.ndarray]) -> np.ndarray:
        """Count each candidate under its first reason; returns the rows of those without one."""
        keep = np.ones_like(next(iter(reasons.values())), dtype=bool)
        for reason, holds in reasons.items():
            if count := int((keep & holds).sum()):
                self.left_out[kind][reason] += count
            keep &= ~holds
        return np.flatnonzero(keep)

    def summary(self) -> dict[str, Any]:
        """All of it by the names of the kinds, as numbers and lists for a manifest."""
        return {name: self._kind(kind) for kind, name in KIND_NAMES.items()}

    def _kind(self, kind: int) -> dict[str, Any]:
        found: dict[str, Any] = {which: self._totals[kind, which] for which in (CANDIDATES, KEPT)}
        found["left_out"] = dict(self.left_out[kind].most_common())
        for measure in MEASURES[kind]:
            counts = {which: self._counts[kind, which, measure] for which in (CANDIDATES, KEPT)}
            if counts[CANDIDATES].any():
                edges = [float(f"{edge:.4g}") for edge in self._edges[measure]]
                found[measure] = {"edges": edges, **{k: v.tolist() for k, v in counts.items()}}
        for name in OWNERS:
            counts = {which: self._counts[kind, which, name] for which in (CANDIDATES, KEPT)}
            has = counts[CANDIDATES] > 0
            if has.any():
                parts = {which: _parts(values[has]) for which, values in counts.items()}
                found[f"per_{name}"] = {"number": int(has.sum()), **parts}
        return found


def _parts(counts: np.ndarray) -> dict[str, Any]:
    """Pairs of every tenth owner, from the one with most to the one with least."""
    ordered = np.sort(counts)[::-1]
    at = np.round(np.linspace(0, len(ordered) - 1, 11)).astype(np.int64)
    share = float(ordered[0] / max(1, counts.sum()))
    return {"most_to_least": ordered[at].tolist(), "largest_share": round(share, 4)}
