"""How sure a study can be: intervals, paired comparisons, corrections, and what follows from them.

Pure functions of arrays. Two things are left to chance in a study, and both are asked: the seeds of
the runs, and the test examples. Examples of one person resemble one another, so it is people (the
clusters) that are counted, not pictures.

  one sample                Student's t
  clustered examples        the jackknife over clusters, t with G - 1 degrees of freedom (CV3 of
                            MacKinnon, Nielsen and Webb 2023): it covers where few people have most
                            of the pictures, as a sum of squared residuals does not
  seeds and clusters        two-way clustering (Cameron, Gelbach and Miller 2011), never below
                            either way alone, t with Satterthwaite's (1946) degrees of freedom; of
                            two seeds, which say little of how seeds vary, with one. In simulated
                            studies of 3 and 5 seeds and 5 to 80 people 2 to 8 of 100 differences
                            that are none seem sure, where the fewer of seeds and people less one
                            let 0 to 5 seem so and missed most that are some
  several comparisons       Holm's step-down (1979)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean over `n` independent units and its interval; without one low and high are NaN."""

    mean: float
    low: float
    high: float
    n: int
    p: float = math.nan
    """Two-sided probability of so large a mean if the true one were zero."""

    @property
    def known(self) -> bool:
        return math.isfinite(self.low)

    @property
    def excludes_zero(self) -> bool:
        return self.known and (self.low > 0 or self.high < 0)


def interval(values: Iterable[float], level: float = LEVEL) -> Interval:
    """Mean and Student's t-interval of independent values; NaN are left out."""
    sample = np.asarray([value for value in values if math.isfinite(value)], dtype=np.float64)
    n = len(sample)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(sample.mean())
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1)
    return _around(mean, float(sample.var(ddof=1)) / n, n, level)


def clustered_interval(values: np.ndarray, clusters: np.ndarray, level: float = LEVEL) -> Interval:
    """Mean of examples (E,) and its interval when those of one cluster are not independent.

    clusters (E,): labels of any kind; n is the number of clusters. NaN examples are left out.
    """
    known = np.isfinite(values)
    values, clusters = np.asarray(values, np.float64)[known], np.asarray(clusters)[known]
    if len(values) == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    number = np.unique(clusters, return_inverse=True)[1]
    mean = float(values.mean())
    groups = int(number.max()) + 1
    if groups == 1:
        return Interval(mean, math.nan, math.nan, 1)
    variance, _ = _jackknife([(number, (values - mean) / len(values))])
    return _around(mean, variance, groups, level)


def crossed_interval(values: np.ndarray, clusters: np.ndarray, level: float = LEVEL) -> Interval:
    """Mean of (S seeds, E examples) and its interval over both; n is the smaller count of units.

    Every seed has seen the same examples. With one seed it is the interval over clusters alone,
    with one cluster that over seeds alone.
    """
    return crossed_average([(values, clusters)], level)


def crossed_average(
    cells: Sequence[tuple[np.ndarray, np.ndarray | None]], level: float = LEVEL
) -> Interval:
    """Mean over cells of the mean of each, and its interval over seeds and clusters.

    cells: (S seeds, E examples) and clusters (E,), None where nothing is known of them. The seeds
    are the same of all cells, and clusters of one label are one wherever they come; they count as
    many as in the cell with fewest.
    """
    found = [_moves(values, clusters) for values, clusters in _numbered(cells)]
    mean = float(np.mean([cell.mean for cell in found]))
    if not math.isfinite(mean):
        return Interval(math.nan, math.nan, math.nan, 0)
    few = 1.0 / len(found)
    known = [cell for cell in found if cell.people > 1]
    seeds, num_seeds = _jackknife([(cell.seed, few * cell.moves) for cell in found])
    people, num_people = _jackknife([(cell.person, few * cell.moves) for cell in known])
    units = [*(cell.people for cell in known), *([num_seeds] if num_seeds > 1 else [])]
    if not units:
        return Interval(mean, math.nan, math.nan, 1)
    variance, freedom = max(seeds, people), min(units) - 1.0
    if num_seeds > 1 and num_people > 1:
        rows = max(len(values) for values, _ in cells)
        both = [(cell.seed + rows * cell.person, few * cell.moves) for cell in known]
        variance = max(seeds + people - _jackknife(both)[0], variance)
    if num_seeds > 2 and num_people > 1 and variance > 0:
        fewest = min(cell.people for cell in known)
        spread = seeds**2 / (num_seeds - 1) + people**2 / (fewest - 1)
        freedom = max(freedom, variance**2 / spread)
    return _around(mean, variance, min(units), level, freedom)


@dataclass(frozen=True)
class _Cell:
    """The n known examples of a cell."""

    mean: float
    moves: np.ndarray
    """(n,) by how much each moves the mean."""
    seed: np.ndarray
    """(n,) number of its seed."""
    person: np.ndarray
    """(n,) number of its cluster."""
    people: int
    """How many clusters there are; 1 where nothing is known of them."""


def _numbered(
    cells: Sequence[tuple[np.ndarray, np.ndarray | None]],
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Values as float64, and clusters as numbers that are equal where labels are; of unknown ones
    the number 0."""
    labels: list[np.ndarray] = []
    for values, clusters in cells:
        shape = np.shape(values)
        if len(shape) != 2 or (clusters is not None and shape[1] != len(clusters)):
            count = "no" if clusters is None else len(clusters)
            raise ValueError(f"{shape} values do not fit {count} clusters")
        labels.append(np.full(shape[1], "") if clusters is None else np.asarray(clusters, str))
    number = np.unique(np.concatenate(labels), return_inverse=True)[1]
    ends = np.cumsum([len(each) for each in labels])[:-1]
    wide = [np.asarray(values, np.float64) for values, _ in cells]
    return list(zip(wide, np.split(number, ends), strict=True))


def _moves(values: np.ndarray, clusters: np.ndarray) -> _Cell:
    known = np.isfinite(values)
    seed = np.broadcast_to(np.arange(len(values))[:, None], values.shape)[known]
    person = np.broadcast_to(clusters, values.shape)[known]
    here = values[known]
    if len(here) == 0:
        return _Cell(math.nan, here, seed, person, 0)
    mean = float(here.mean())
    return _Cell(mean, (here - mean) / len(here), seed, person, len(np.unique(person)))


def _jackknife(cells: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[float, int]:
    """Variance of a sum of cells' means from how it moves as each cluster is left out; and how many
    clusters there are.

    cells: of each example the number of its cluster (n,) and by how much it moves the mean (n,).
    """
    most = max((int(number.max()) + 1 for number, _ in cells), default=0)
    moved: np.ndarray = np.zeros(most)
    there: np.ndarray = np.zeros(most, bool)
    for number, moves in cells:
        count = np.bincount(number, minlength=most)
        left = len(number) - count  # 0: all there is in the cell, whose moves add up to nothing
        moved += np.bincount(number, moves, most) * len(number) / np.maximum(left, 1)
        there |= count > 0
    groups = int(there.sum())
    return (groups - 1) / max(groups, 1) * float((moved**2).sum()), groups


def _around(
    mean: float, variance: float, units: int, level: float, freedom: float | None = None
) -> Interval:
    """The t-interval of a mean with this variance, estimated from so many units; `freedom` where
    its degrees are not one fewer."""
    error = math.sqrt(variance)
    degrees = units - 1 if freedom is None else freedom
    half = float(stdtrit(degrees, 0.5 + level / 2)) * error
    if error > 0:
        p = 2 * float(stdtr(degrees, -abs(mean) / error))
    else:
        p = float(mean == 0)
    return Interval(mean, mean - half, mean + half, units, p)


def bootstrap_interval(
    values: np.ndarray,
    clusters: np.ndarray,
    statistic: Callable[[np.ndarray], float] = np.mean,
    *,
    draws: int = 2000,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Percentile interval of any statistic of examples (E,), whole clusters drawn again.

    For what has no formula, such as a median; of a mean `clustered_interval` covers better where
    there are few clusters.
    """
    known = np.isfinite(values)
    values, clusters = np.asarray(values, np.float64)[known], np.asarray(clusters)[known]
    members = [np.flatnonzero(clusters == label) for label in np.unique(clusters)]
    if not members:
        return Interval(math.nan, math.nan, math.nan, 0)
    point = float(statistic(values))
    if len(members) == 1:
        return Interval(point, math.nan, math.nan, 1)
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(members), size=(draws, len(members)))
    found = [float(statistic(values[np.concatenate([members[i] for i in c])])) for c in chosen]
    low, high = (float(np.quantile(found, 0.5 + side * level / 2)) for side in (-1, 1))
    return Interval(point, low, high, len(members))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given; a NaN is no comparison and stays one."""
    p = np.asarray(p_values, np.float64)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors: np.ndarray = len(order) - np.arange(len(order))
    adjusted = np.full(len(p), math.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return adjusted.tolist()


def relative_gap(value: float, baseline: float, better: str) -> float:
    """How much worse than the baseline in percent of it (below zero: better).

    100 (e / e_baseline - 1) for errors, after Choi et al. (ICLR 2023); for scores, where higher is
    better, with the sign turned.
    """
    if not baseline:
        return math.nan
    gap = 100.0 * (value / baseline - 1.0)
    return -gap if better == "higher" else gap


def steps_to(
    steps: Sequence[float], values: Sequence[float], target: float, better: str = "lower"
) -> float:
    """The first step at which a curve has come to `target`, linear between evaluations.

    NaN where it never comes; where the first evaluation is there already, that one's step.
    """
    sign = -1.0 if better == "higher" else 1.0
    before: tuple[float, float] | None = None
    for step, value in zip(steps, values, strict=True):
        over = sign * (value - target)
        if not math.isfinite(over):
            continue
        if over <= 0:
            if before is None:
                return float(step)
            return before[0] + (step - before[0]) * before[1] / (before[1] - over)
        before = (float(step), over)
    return math.nan


def area_under(steps: Sequence[float], values: Sequence[float]) -> float:
    """Mean height of a curve over the logarithm of its steps, so that early steps count; NaN for
    fewer than two points."""
    x, y = np.asarray(steps, np.float64), np.asarray(values, np.float64)
    known = np.isfinite(y) & (x > 0)
    if known.sum() < 2:
        return math.nan
    x, y = np.log(x[known]), y[known]
    return float(np.trapezoid(y, x) / (x[-1] - x[0]))


@dataclass(frozen=True)
class LabelsNeeded:
    """Which share of the labels a source needs to match another's figure; NaN: not reached."""

    share: float
    earliest: float
    """From here on the interval of the difference allows a match."""
    latest: float
    """From here on the interval excludes that it is worse."""
    at_most: bool = False
    """The smallest share that was run is enough: the true answer may be below it."""


def labels_to_match(
    shares: Sequence[float],
    values: np.ndarray,
    target: np.ndarray,
    better: str = "lower",
    level: float = LEVEL,
) -> LabelsNeeded:
    """Labels that a source needs, linear between the shares that were run on their logarithm.

    shares (F,) rising; values (S, F): its figure by seed and share; target (S,): the other's, of
    the same seeds. The interval inverts the paired t-test: shares where the interval of the
    difference holds zero; with one seed there is none.
    """
    sign = -1.0 if better == "higher" else 1.0
    x = np.log(np.asarray(shares, np.float64))
    fine: np.ndarray = np.union1d(np.linspace(x[0], x[-1], 512), x)
    worse = sign * (np.asarray(values, np.float64) - np.asarray(target, np.float64)[:, None])
    lines = np.array([np.interp(fine, x, row) for row in worse])
    found = [interval(column, level) for column in lines.T]

    def first(edge: Callable[[Interval], float]) -> float:
        ends = np.array([edge(each) for each in found])
        return math.exp(steps_to(fine.tolist(), ends.tolist(), 0.0))

    share = first(lambda each: each.mean)
    at_most = bool(math.isfinite(share) and found[0].mean <= 0)
    return LabelsNeeded(share, first(lambda e: e.low), first(lambda e: e.high), at_most)
