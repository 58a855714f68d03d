"""Intervals held against scipy, against plain loops and against values by hand."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from medseg.metrics import intervals
from medseg.metrics.intervals import (
    LEAST_GROUPS,
    Estimate,
    Values,
    bootstrap_t,
    estimate,
    estimates,
    group_means,
    mean_intervals,
    median_interval,
    share_interval,
)

NUMBERS = st.floats(0, 1).map(lambda number: round(number, 6))
GROUPED = st.lists(st.tuples(NUMBERS, st.integers(0, 39)), min_size=2, max_size=80)
SKEWED = np.where(np.random.default_rng(0).random(40) < 0.2, 0, np.random.default_rng(1).beta(12, 2, 40))


def split(rows: list[tuple[float, int]]) -> tuple[list[float], list[int]]:
    return [value for value, _ in rows], [group for _, group in rows]


def by_loop(values: np.ndarray, groups: np.ndarray, draws: int) -> tuple[float, float]:
    """The bootstrap-t of whole groups, one resample after the other, with the error by its definition."""

    def mean_and_error(sums: np.ndarray, sizes: np.ndarray) -> tuple[float, float]:
        mean, count = sums.sum() / sizes.sum(), len(sums)
        return mean, math.sqrt(count / (count - 1) * ((sums - mean * sizes) ** 2).sum()) / sizes.sum()

    names = np.unique(groups)
    sums, sizes = (np.array([part(values[groups == name]) for name in names], float) for part in (np.sum, np.size))
    mean, error = mean_and_error(sums, sizes)
    rng, ratios = np.random.default_rng(2), []
    for _ in range(draws):
        drawn = rng.integers(0, len(names), len(names))
        again, its_error = mean_and_error(sums[drawn], sizes[drawn])
        ratios.append((again - mean) / its_error)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return mean - high * error, mean - low * error


def test_groups_of_unlike_sizes_are_drawn_whole_and_every_image_weighs_the_same() -> None:
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(36), np.resize([1, 9, 2, 7, 3, 1], 36))
    values = np.clip(rng.beta(6, 2, 36)[groups] + rng.normal(0, 0.05, len(groups)), 0, 1)
    found_low, found_high = bootstrap_t(values[:, None], groups)
    low, high = by_loop(values, groups, 10_000)
    # Two sets of 10,000 draws place these quantiles to about 0.05 standard errors; half the error would miss by 1.
    width = (high - low) / 4
    assert found_low[0] == pytest.approx(low, abs=0.15 * width)
    assert found_high[0] == pytest.approx(high, abs=0.15 * width)


def test_each_end_is_the_farther_of_bootstrap_t_and_of_scipys_student() -> None:
    (low,), (high,) = bootstrap_t(SKEWED[:, None], range(40))
    student = stats.t.interval(0.95, 39, SKEWED.mean(), stats.sem(SKEWED))
    assert low < student[0]
    assert high < student[1]  # of skewed scores the bootstrap-t lies lower at both ends
    found = estimate(SKEWED, range(40), "0 to 1")
    assert (found.mean, found.low, found.high) == pytest.approx((SKEWED.mean(), low, student[1]))


def test_copies_of_images_in_their_group_narrow_nothing() -> None:
    once = estimate(SKEWED, range(40), "0 to 1")
    many = estimate(np.repeat(SKEWED, 8), np.repeat(np.arange(40), 8), "0 to 1")
    assert (many.mean, many.low, many.high) == pytest.approx((once.mean, once.low, once.high))


@given(GROUPED, st.randoms())
def test_the_order_of_images_does_not_count(rows: list[tuple[float, int]], rng: random.Random) -> None:
    values, groups = split(rows)
    shuffled = list(rows)
    rng.shuffle(shuffled)
    plain, again = estimate(values, groups, "0 to 1"), estimate(*split(shuffled), "0 to 1")
    assert again.ends == plain.ends
    for end in ("mean", "low", "high"):
        assert getattr(again, end) == pytest.approx(getattr(plain, end), nan_ok=True)


@given(GROUPED)
def test_an_interval_is_possible_and_a_range_is_that_of_groups(rows: list[tuple[float, int]]) -> None:
    values, groups = split(rows)
    found, means = estimate(values, groups, "0 to 1"), group_means(values, groups)
    if found.ends == "interval":
        assert len(means) >= LEAST_GROUPS
        assert 0 <= found.low <= found.mean <= found.high <= 1
    elif len(means) > 1:
        assert (found.ends, found.low, found.high) == ("range", means.min(), means.max())


def test_an_interval_is_given_from_30_groups_on() -> None:
    few = estimate(SKEWED[:29], range(29), "0 to 1")
    assert (few.mean, few.low, few.high, few.ends) == (SKEWED[:29].mean(), 0, SKEWED[:29].max(), "range")
    assert estimate(SKEWED[:30], range(30), "0 to 1").ends == "interval"
    assert estimate(np.append(SKEWED[:29], [0.5] * 9), [*range(29), *[0] * 9], "0 to 1").ends == "range"


def test_an_interval_is_cut_to_what_is_possible() -> None:
    values = np.append(np.linspace(-0.2, 0.2, 38), [0.9, 1.0])
    (low,), (high,) = mean_intervals(values[:, None], range(40))
    assert low < 0 < high
    assert (estimate(values, range(40), "-1 to 1").low, estimate(values, range(40), "0 to 1").low) == (low, 0)
    assert estimate(values + 1 - high / 2, range(40), "0 to 1").high == 1


def test_groups_that_are_nearly_all_alike_have_a_range() -> None:
    # Every third resample leaves the one other group out, and has no spread.
    for alike in (1.0, 0.7, 0.1):
        assert estimate([alike] * 39 + [0.3], range(40), "0 to 1").ends == "range"
    for groups in (range(60), [*range(40), *range(20)]):
        same = estimate([0.3] * 60, groups, "0 to 1")
        assert same.ends == "range"
        assert (same.low, same.high) == pytest.approx((0.3, 0.3))


def test_one_metric_gives_what_several_together_give() -> None:
    both = np.column_stack([SKEWED, SKEWED**2])
    assert estimates(both, range(40), "0 to 1")[1].low == pytest.approx(estimate(SKEWED**2, range(40), "0 to 1").low)


def test_the_blocks_in_which_memory_is_used_change_no_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bootstrap_t(SKEWED[:, None], range(40))
    monkeypatch.setattr(intervals, "BLOCK", 40 * 99)
    assert bootstrap_t(SKEWED[:, None], range(40)) == whole


@pytest.mark.parametrize("kind", ["0 to 1", "unbounded", "0 or 1"])
@pytest.mark.filterwarnings("error")
def test_a_single_group_has_a_mean_alone_and_without_images_nothing_is_defined(kind: Values) -> None:
    one = estimate([0.0, 0.5], ["a", "a"], kind)
    assert (one.mean, one.ends) == (0.25, "none")
    assert math.isnan(one.low)
    nothing = estimate([], [], kind)
    assert math.isnan(nothing.mean)
    assert nothing.ends == "none"


def test_undefined_values_and_groups_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^leave undefined values out"):
        estimate([0.5, float("nan")], [0, 1], "0 to 1")
    with pytest.raises(ValueError, match="2 values, but 1 groups"):
        estimate([0.5, 0.6], [0], "0 to 1")


def test_19_in_20_intervals_hold_a_skewed_mean_where_groups_are_resampled_and_not_where_images_are() -> None:
    rng, trials = np.random.default_rng(11), 400
    groups = np.repeat(np.arange(30), 6)
    missed = rng.random((30, trials)) < 0.1
    scores = np.where(missed, 0, rng.beta(12, 2, (30, trials)))[groups]
    true = 0.9 * 12 / 14
    for names, held in ((groups, (0.92, 0.98)), (np.arange(len(groups)), (0.4, 0.7))):
        low, high = mean_intervals(scores, names)
        assert held[0] <= np.mean((low <= true) & (true <= high)) <= held[1]


def test_the_interval_of_the_median_is_that_of_the_binomial_distribution() -> None:
    assert median_interval([5, 1, 2, 6, 3, 4]) == (1, 6)  # 1 - 2 / 2^6 = 0.969
    # Of 9, the second and the eighth: both outer ones alone leave 2 (1 + 9) / 2^9 = 0.039 out, with the third 0.18.
    assert median_interval(range(1, 10)) == (2, 8)
    assert all(math.isnan(end) for end in median_interval([1, 2, 3, 4, 5]))
    for count in range(6, 60):
        low, high = median_interval(range(1, count + 1))
        between = stats.binom(count, 0.5).cdf(high - 1) - stats.binom(count, 0.5).cdf(low - 1)
        inner = stats.binom(count, 0.5).cdf(high - 2) - stats.binom(count, 0.5).cdf(low)
        assert inner < 0.95 <= between


def test_a_distance_has_the_median_of_groups() -> None:
    distances = [1.0, 3.0, 4.0, 5.0, 6.0, 7.0, 900.0]
    found = estimate(distances, "aabcdef", "unbounded")
    assert found == Estimate(sum(distances) / 7, 5.5, 2.0, 900.0, "interval of median")
    few = estimate(distances[2:], range(5), "unbounded")
    assert (few.ends, few.median, few.low, few.high) == ("range", 6.0, 4.0, 900.0)


def test_a_share_of_images_has_the_exact_interval_where_every_group_is_one() -> None:
    assert share_interval(0, 10) == pytest.approx((0, 1 - 0.025**0.1))  # no hit has a chance of 0.025
    found = estimate([1.0, 0.0, 0.0, 0.0], range(4), "0 or 1")
    expected = stats.beta.ppf([0.025, 0.975], [1, 2], [4, 3])
    assert (found.mean, found.ends) == (0.25, "interval")
    assert [found.low, found.high] == pytest.approx(expected)
    assert estimate([1.0, 0.0, 0.0, 0.0], "aabc", "0 or 1").ends == "none"


def test_means_of_groups_by_hand() -> None:
    assert group_means([1, 2, 6], ["b", "a", "b"]).tolist() == [2, 3.5]


def test_groups_of_which_one_holds_most_images_have_a_range() -> None:
    values = [*np.linspace(0.6, 0.8, 100), *np.linspace(0.3, 0.9, 29)]
    groups = ["most"] * 100 + [f"{number}" for number in range(29)]
    assert estimate(values, groups, "0 to 1").ends == "range"
    assert estimate(values, [f"{number // 3}" for number in range(129)], "0 to 1").ends == "interval"
