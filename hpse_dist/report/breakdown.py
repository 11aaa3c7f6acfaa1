"""Where the errors are: by viewpoint, occlusion and difficulty of the pose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpse_dist.report.examples import stacked
from hpse_dist.report.learning import finals
from hpse_dist.report.runs import Study
from hpse_dist.report.statistics import Interval, clustered_interval
from hpse_dist.report.tables import TaskTable

FEW = 8  # examples: fewer in a bin say nothing


@dataclass(frozen=True)
class Bin:
    """One kind of example."""

    name: str
    examples: int
    values: tuple[Interval, ...]
    """Each source's figure, an interval over people."""


@dataclass(frozen=True)
class Breakdown:
    """One condition of a task's examples, in bins."""

    condition: str
    sources: tuple[str, ...]
    bins: tuple[Bin, ...]


def breakdowns(study: Study, table: TaskTable) -> list[Breakdown]:
    """One for each condition that the examples of every source in a table tell."""
    runs = finals(study, table)
    found = {source: stacked(list(r.values()), table.ranked_by) for source, r in runs.items()}
    known = {source: pair for source, pair in found.items() if pair is not None}
    if not known:
        return []
    examples = next(iter(known.values()))[1]
    known = {s: pair for s, pair in known.items() if np.array_equal(pair[1].ids, examples.ids)}
    rows = []
    for condition, values in examples.conditions.items():
        bins = []
        for name, inside in _bins(condition, values):
            if inside.sum() >= FEW:
                cells = [
                    clustered_interval(figures.mean(0)[inside], examples.people[inside])
                    for figures, _ in known.values()
                ]
                bins.append(Bin(name, int(inside.sum()), tuple(cells)))
        if len(bins) > 1:
            rows.append(Breakdown(_TITLES[condition], tuple(known), tuple(bins)))
    return rows


_TITLES = {"view_deg": "Viewpoint", "in_sight": "Occlusion", "pose_distance": "Pose"}


def _bins(condition: str, values: np.ndarray) -> Sequence[tuple[str, np.ndarray]]:
    """Names and members (E,) of a condition's bins; an unknown value is in none."""
    if condition == "view_deg":
        return [
            ("from the front", values < 45),
            ("from the side", (values >= 45) & (values < 135)),
            ("from behind", values >= 135),
        ]
    if condition == "in_sight":
        return [
            ("all joints in sight", values >= 1),
            ("some hidden", (values >= 0.8) & (values < 1)),
            ("over a fifth hidden", values < 0.8),
        ]
    known = values[np.isfinite(values)]
    if len(known) == 0:
        return []
    low, high = np.quantile(known, [1 / 3, 2 / 3])
    return [
        ("common poses", values <= low),
        ("less common", (values > low) & (values <= high)),
        ("rare poses", values > high),
    ]
