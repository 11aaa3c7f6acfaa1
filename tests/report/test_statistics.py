"""Statistics against closed forms, scipy and, where it is installed, statsmodels; and coverage."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from hpse_dist.report.statistics import (
    Interval,
    area_under,
    bootstrap_interval,
    clustered_interval,
    crossed_average,
    crossed_interval,
    holm,
    interval,
    labels_to_match,
    relative_gap,
    steps_to,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260101)


def test_the_t_interval_is_scipys(rng: np.random.Generator) -> None:
    values = rng.normal(3, 2, 9)
    found, theirs = interval(values), stats.ttest_1samp(values, 0.0)
    low, high = theirs.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-9)


def test_seeds_that_agree_to_the_last_digit_leave_no_doubt() -> None:
    assert interval([2.0, 2.0]) == Interval(2.0, 2.0, 2.0, 2, 0.0)
    assert interval([0.0, 0.0]).p == 1.0
    assert interval([2.0, 2.0]).excludes_zero and not interval([0.0, 0.0]).excludes_zero


def test_a_paired_difference_is_scipys_paired_test(rng: np.random.Generator) -> None:
    a, b = rng.normal(0, 1, 8), rng.normal(0.5, 1, 8)
    assert interval(a - b).p == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-9)


def test_clusters_of_one_are_no_clusters(rng: np.random.Generator) -> None:
    values = rng.normal(size=30)
    mine, plain = clustered_interval(values, np.arange(30)), interval(values)
    assert (mine.low, mine.high, mine.p) == pytest.approx((plain.low, plain.high, plain.p))


def test_equal_clusters_are_the_interval_of_their_means(rng: np.random.Generator) -> None:
    """Closed form: with equally many examples in each, only the cluster means count."""
    values = rng.normal(size=(12, 7)) + rng.normal(size=(12, 1))
    mine = clustered_interval(values.ravel(), np.repeat(np.arange(12), 7))
    means = interval(values.mean(1))
    assert (mine.low, mine.high, mine.n) == pytest.approx((means.low, means.high, 12))


def test_the_clustered_variance_is_statsmodels(rng: np.random.Generator) -> None:
    statsmodels = pytest.importorskip("statsmodels.api", reason="statsmodels is not installed")
    clusters = rng.integers(0, 15, 200)
    values = rng.normal(size=200) + rng.normal(size=15)[clusters]
    fit = statsmodels.OLS(values, np.ones(200)).fit(
        cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True
    )
    low, high = fit.conf_int()[0]
    mine = clustered_interval(values, clusters)
    assert (mine.low, mine.high) == pytest.approx((low, high), rel=1e-9)


def test_unequal_clusters_by_hand() -> None:
    found = clustered_interval(np.array([1.0, 1.0, 4.0]), np.array(["a", "a", "b"]))
    # mean 2; without a it is 4, without b 1: variance 1/2 * (2^2 + 1^2)
    half = stats.t.ppf(0.975, 1) * math.sqrt(5 / 2)
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half))


def test_both_ways_is_never_narrower_than_either(rng: np.random.Generator) -> None:
    """Of two seeds, where its degrees of freedom are the fewer's, as those of seeds alone."""
    clusters = np.repeat(np.arange(10), 6)
    for _ in range(20):
        values = rng.normal(size=(2, 60)) + rng.normal(size=(2, 1)) * rng.random()
        both = crossed_interval(values, clusters)
        seeds = interval(values.mean(1))
        people = clustered_interval(values.mean(0), clusters)
        width = both.high - both.low
        assert width >= max(seeds.high - seeds.low, people.high - people.low) - 1e-9
        assert both.mean == pytest.approx(seeds.mean)


def test_both_ways_by_hand() -> None:
    """Three seeds at -3, 0, 3, three people at -2, 0, 2: their variances less the one of both."""
    values = 1 + np.array([[-3.0], [0.0], [3.0]]) + np.array([-2.0, 0.0, 2.0])
    found = crossed_interval(values, np.arange(3))
    seeds, people = 3 / 2 * 2 * 9**2 / 9**2, 3 / 2 * 2 * 6**2 / 9**2  # of sums -9, 0, 9; -6, 0, 6
    cells = 9 / 8 * (3 * 18 + 3 * 8) / 9**2
    error = math.sqrt(seeds + people - cells)
    assert error**2 > max(seeds, people)
    half = stats.t.ppf(0.975, 2) * error
    assert (found.low, found.high) == pytest.approx((1 - half, 1 + half))
    assert found.p == pytest.approx(2 * stats.t.sf(1 / error, 2)) and found.n == 3


def test_an_average_asks_the_same_people_of_all_cells(rng: np.random.Generator) -> None:
    """Sources that are alike, two tasks, 3 seeds that agree, 5 or 20 people with likings of their
    own that both tasks share: of 300 such studies at most about one in twenty is called sure."""
    for count in (5, 20):
        people, called, naive = np.repeat(np.arange(count), 3), 0, 0
        for _ in range(300):
            liking = rng.normal(size=count)[people]
            cells = [liking + 0.1 * rng.normal(size=(3, 1)) + np.zeros((3, 3 * count))] * 2
            cells[1] = cells[1] + rng.normal(size=cells[1].shape)
            called += crossed_average([(cell, people) for cell in cells]).excludes_zero
            means = np.mean([cell.mean(1) for cell in cells], axis=0)
            naive += interval(means).excludes_zero
        assert called <= 24 and naive >= 40


@pytest.mark.parametrize(("seeds", "least"), [(3, 0.6), (5, 0.7)])
def test_a_true_difference_is_seen_with_few_seeds(
    rng: np.random.Generator, seeds: int, least: float
) -> None:
    """80 people who differ, seeds that agree, a gap of 2.8 standard errors: with the degrees of
    freedom of the seeds alone 3 of them would see it 7 times of 100."""
    clusters, gap = np.arange(80), 2.8 / math.sqrt(80)
    found = {0.0: 0, gap: 0}
    for apart in found:
        for _ in range(300):
            values = rng.normal(size=80) + 0.5 * rng.normal(size=(seeds, 80)) + apart
            found[apart] += crossed_interval(values, clusters).excludes_zero
    assert found[0.0] <= 0.08 * 300 and found[gap] >= least * 300


def test_a_cell_of_unknown_people_has_its_seeds_alone(rng: np.random.Generator) -> None:
    values = rng.normal(size=(3, 8))
    alone = crossed_average([(values, None)])
    assert (alone.low, alone.high, alone.n) == pytest.approx(
        (interval(values.mean(1)).low, interval(values.mean(1)).high, 3)
    )
    nothing = crossed_average([(values[:1], None)])
    assert nothing.mean == pytest.approx(values[0].mean()) and not nothing.known
    assert crossed_average([(values, None), (np.full((3, 1), math.nan), None)]).n == 0


def test_both_ways_of_unequal_units_with_gaps(rng: np.random.Generator) -> None:
    """Three seeds, four people with one to three examples, some not measured."""
    people = np.array(["a", "b", "b", "c", "c", "c", "d"])
    places = np.unique(people, return_inverse=True)[1]
    both = 0
    for _ in range(10):
        values = rng.normal(size=(3, 7)) + 2 * rng.normal(size=(3, 1)) + rng.normal(size=4)[places]
        values[0, 1] = values[1, 4] = math.nan
        known = np.argwhere(np.isfinite(values)).tolist()
        units = [((seed, people[example]), values[seed, example]) for seed, example in known]
        seeds, persons = (_variance([(key[way], value) for key, value in units]) for way in (0, 1))
        crossed = seeds + persons - _variance(units)
        both += crossed > max(seeds, persons)
        variance = max(crossed, seeds, persons)
        degrees = max(2, variance**2 / (seeds**2 / 2 + persons**2 / 3))  # Satterthwaite's
        half = stats.t.ppf(0.975, degrees) * math.sqrt(variance)
        mean = np.nanmean(values)
        found = crossed_interval(values, people)
        assert (found.low, found.high) == pytest.approx((mean - half, mean + half))
    assert both > 0


def _variance(units: list[tuple[Any, float]]) -> float:
    """Of the mean of numbers with the cluster that each is in: the jackknife, written out."""
    mean, names = np.mean([value for _, value in units]), {key for key, _ in units}
    without = [np.mean([value for key, value in units if key != name]) for name in names]
    return (len(names) - 1) / len(names) * sum((each - mean) ** 2 for each in without)


@pytest.mark.parametrize("seeds", [1, 5])
@pytest.mark.parametrize("counts", [[100] + [3] * 4, [300] + [6] * 40, [12] * 8])
def test_one_person_of_most_pictures_does_not_make_them_sure(
    rng: np.random.Generator, seeds: int, counts: list[int]
) -> None:
    """300 tests each: at 95 % the squares of residuals alone cover a fifth of the first."""
    people, hits = np.repeat(np.arange(len(counts)), counts), 0
    for _ in range(300):
        values = rng.normal(size=len(counts))[people] + rng.normal(size=(seeds, len(people)))
        found = crossed_interval(values, people)
        hits += found.low <= 0 <= found.high
    assert hits >= 0.85 * 300


def test_examples_that_were_not_measured_are_left_out(rng: np.random.Generator) -> None:
    values, clusters = rng.normal(size=12), np.repeat(np.arange(4), 3)
    whole = np.append(values, [math.nan, math.inf]), np.append(clusters, [0, 9])
    assert clustered_interval(*whole) == clustered_interval(values, clusters)
    assert bootstrap_interval(*whole, draws=50) == bootstrap_interval(values, clusters, draws=50)


def test_one_seed_or_one_person_leaves_the_other_way(rng: np.random.Generator) -> None:
    values, clusters = rng.normal(size=(1, 30)), np.repeat(np.arange(6), 5)
    assert crossed_interval(values, clusters) == clustered_interval(values[0], clusters)
    several = rng.normal(size=(5, 30))
    one = crossed_interval(several, np.zeros(30))
    assert (one.low, one.high) == pytest.approx(
        (interval(several.mean(1)).low, interval(several.mean(1)).high)
    )
    with pytest.raises(ValueError, match="do not fit"):
        crossed_interval(several, np.zeros(29))


def test_the_bootstrap_is_scipys_where_clusters_are_of_one(rng: np.random.Generator) -> None:
    values = rng.exponential(size=80)
    mine = bootstrap_interval(values, np.arange(80), np.median, draws=4000)
    theirs = stats.bootstrap(
        (values,), np.median, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    spread = theirs.high - theirs.low
    assert abs(mine.low - theirs.low) < 0.1 * spread
    assert abs(mine.high - theirs.high) < 0.1 * spread
    assert mine == bootstrap_interval(values, np.arange(80), np.median, draws=4000)


def test_holm_by_hand_and_by_statsmodels(rng: np.random.Generator) -> None:
    # sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, never falling
    found = holm([0.01, 0.04, 0.03, 0.005, math.nan])
    assert found[:4] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert math.isnan(found[4])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    tests = pytest.importorskip("statsmodels.stats.multitest", reason="not installed")
    p = rng.random(20) ** 3
    assert holm(p) == pytest.approx(tests.multipletests(p, method="holm")[1])


TRIALS = 1500
SLACK = 4 * math.sqrt(0.95 * 0.05 / TRIALS)  # four standard deviations of a binomial share


def coverage(of_trial) -> float:
    """Share of simulated studies whose interval holds the true mean, zero."""
    held = [(found := of_trial()).low <= 0 <= found.high for _ in range(TRIALS)]
    return float(np.mean(held))


def test_t_intervals_cover_at_the_stated_rate(rng: np.random.Generator) -> None:
    for seeds in (2, 3, 10):
        rate = coverage(lambda seeds=seeds: interval(rng.normal(size=seeds)))
        assert abs(rate - 0.95) < SLACK, seeds


def test_clustered_intervals_cover_and_naive_ones_do_not(rng: np.random.Generator) -> None:
    clusters = np.repeat(np.arange(20), 8)

    def values() -> np.ndarray:
        return rng.normal(size=160) + rng.normal(size=20)[clusters]

    assert abs(coverage(lambda: clustered_interval(values(), clusters)) - 0.95) < SLACK
    assert coverage(lambda: interval(values())) < 0.75


def test_crossed_intervals_cover_seeds_and_people(rng: np.random.Generator) -> None:
    """Few units: the rule errs to the safe side, and either way alone is far too sure."""
    clusters = np.repeat(np.arange(12), 5)

    def values() -> np.ndarray:
        people = rng.normal(size=12)[clusters]
        return rng.normal(size=(5, 60)) + people + rng.normal(size=(5, 1))

    assert coverage(lambda: crossed_interval(values(), clusters)) > 0.95 - SLACK
    assert coverage(lambda: clustered_interval(values().mean(0), clusters)) < 0.85


def test_relative_gap_is_s0s_and_turns_for_scores() -> None:
    assert relative_gap(110.0, 100.0, "lower") == pytest.approx(10.0)
    assert relative_gap(45.0, 50.0, "higher") == pytest.approx(10.0)
    assert math.isnan(relative_gap(1.0, 0.0, "lower"))


def test_steps_to_a_target() -> None:
    steps, values = [100, 200, 300], [10.0, 6.0, 5.0]
    assert steps_to(steps, values, 8.0) == pytest.approx(150.0)
    assert steps_to(steps, values, 12.0) == 100.0
    assert math.isnan(steps_to(steps, values, 4.0))
    assert steps_to(steps, values, 5.0) == 300.0  # just there counts
    assert steps_to(steps, [1.0, 3.0, 5.0], 2.0, "higher") == pytest.approx(150.0)
    assert steps_to(steps, [10.0, math.nan, 6.0], 8.0) == pytest.approx(200.0)


def test_area_under_a_curve_of_logarithmic_steps() -> None:
    assert area_under([10, 1000], [4.0, 4.0]) == pytest.approx(4.0)
    # linear in log steps from 8 to 4: mean 6, whatever the points between
    assert area_under([10, 100, 1000], [8.0, 6.0, 4.0]) == pytest.approx(6.0)
    assert math.isnan(area_under([10], [1.0]))
    assert area_under([0, 10, 1000], [9.0, 4.0, 4.0]) == pytest.approx(4.0)  # step 0 has no place


def test_labels_to_match_on_a_known_line(rng: np.random.Generator) -> None:
    """Error 100 - 20 log10(share / 1 %): 60 at 100 %, so 70 is met at 10^1.5 = 31.6 %."""
    shares = [0.01, 0.1, 1.0]
    line = np.array([100.0, 80.0, 60.0])
    noise = rng.normal(0, 0.5, size=(4, 1))
    found = labels_to_match(shares, line + noise, np.full(4, 70.0))
    share = 0.01 * 10 ** ((30.0 + float(noise.mean())) / 20.0)
    assert found.share == pytest.approx(share, rel=1e-6)
    assert found.earliest < found.share < found.latest and not found.at_most
    half = interval(noise[:, 0]).high - noise.mean()
    assert math.log10(found.latest / found.share) == pytest.approx(half / 20, rel=0.02)
    score = labels_to_match(shares, -line - noise, np.full(4, -70.0), "higher")
    assert score == found


def test_labels_to_match_at_a_share_that_was_run() -> None:
    """Where the line bends."""
    found = labels_to_match([0.01, 0.05, 1.0], np.array([[100.0, 70.0, 60.0]]), np.array([70.0]))
    assert found.share == pytest.approx(0.05, rel=1e-9)


def test_labels_that_never_suffice_and_that_always_do() -> None:
    shares, values = [0.01, 0.1, 1.0], np.array([[9.0, 8.0, 7.0]])
    never = labels_to_match(shares, values, np.array([5.0]))
    assert math.isnan(never.share) and math.isnan(never.latest)
    always = labels_to_match(shares, values, np.array([9.5]))
    assert (always.share, always.at_most) == (pytest.approx(0.01), True)
    assert math.isnan(always.earliest)  # one seed, no interval
