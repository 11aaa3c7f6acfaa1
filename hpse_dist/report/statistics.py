"""How sure a study can be: intervals, paired comparisons, corrections, and what follows from them.

Pure functions of arrays. Two things are left to chance in a study, and both are asked: the seeds of
the runs, and the test examples. Examples of one person resemble one another, so it is people (the
clusters) that are counted, not pictures.

  one sample                Student's t
  clustered examples        linearised variance of a ratio of sums, t with G - 1 degrees of freedom
                            (Liang and Zeger 1986; the G / (G - 1) of Cameron and Miller 2015)
  seeds and clusters        two-way clustering (Cameron, Gelbach and Miller 2011), never below
                            either way alone, t with min(S, G) - 1 degrees of freedom
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
    return _around(mean, _variance(np.bincount(number, values - mean) / len(values)), groups, level)


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
    are the same of all cells, and clusters of one label are one wherever they come. Degrees of
    freedom are those of the cell with fewest clusters.
    """
    found = [_deviations(np.asarray(values, np.float64), clusters) for values, clusters in cells]
    mean = float(np.mean([middle for middle, _, _ in found]))
    if not math.isfinite(mean):
        return Interval(math.nan, math.nan, math.nan, 0)
    parts = np.concatenate([part / len(cells) for _, part, _ in found], axis=1)
    parts = np.nan_to_num(parts[np.isfinite(parts).any(axis=1)])
    names = np.concatenate([name for _, _, name in found])
    units = [len(np.unique(name)) for _, _, name in found if name[0]]
    units += [len(parts)] if len(parts) > 1 else []
    if not units:
        return Interval(mean, math.nan, math.nan, 1)
    number = np.unique(names[names != ""], return_inverse=True)[1]
    both = np.array([np.bincount(number, row) for row in parts[:, names != ""]])
    ways = [_variance(sums) for sums in (parts.sum(1), both.sum(0)) if len(sums) > 1]
    variance = ways[0] if len(ways) == 1 else max(sum(ways) - _variance(both.ravel()), *ways)
    return _around(mean, variance, min(units), level)


def _deviations(
    values: np.ndarray, clusters: np.ndarray | None
) -> tuple[float, np.ndarray, np.ndarray]:
    """A cell's mean; by how much each of its known examples moves it, (S, E), NaN for a seed that
    has none; and the examples' clusters (E,), "" where not two are known."""
    if values.ndim != 2 or (clusters is not None and values.shape[1] != len(clusters)):
        count = "no" if clusters is None else len(clusters)
        raise ValueError(f"{values.shape} values do not fit {count} clusters")
    known = np.isfinite(values)
    examples = known.any(axis=0)
    if not known.any():
        return math.nan, values, np.full(values.shape[1], "")
    mean = float(values[known].mean())
    moves = np.where(known, values - mean, 0.0) / known.sum()
    moves[~known.any(axis=1)] = math.nan
    names = np.asarray(clusters)[examples].astype(str) if clusters is not None else np.array([""])
    if len(np.unique(names)) < 2:
        names = np.full(examples.sum(), "")
    return mean, moves[:, examples], names


def _variance(sums: np.ndarray) -> float:
    """Variance of a mean from the clusters' sums (G,) of what each example adds to it, less its
    expectation."""
    return float(len(sums) / (len(sums) - 1) * (sums**2).sum())


def _around(mean: float, variance: float, units: int, level: float) -> Interval:
    """The t-interval of a mean with this variance, estimated from so many units."""
    error = math.sqrt(variance)
    half = float(stdtrit(units - 1, 0.5 + level / 2)) * error
    if error > 0:
        p = 2 * float(stdtr(units - 1, -abs(mean) / error))
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
