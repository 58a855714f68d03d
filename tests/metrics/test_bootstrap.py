"""Intervals and tests, held against scipy, against plain loops and against values by hand."""

import math
import random
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from medseg.metrics import bootstrap as statistics
from medseg.metrics.bootstrap import Interval, bootstrap_interval, group_means, holm, paired_bootstrap, wilcoxon

NUMBERS = st.floats(-1, 1).map(lambda number: round(number, 6))
GROUPED = st.lists(st.tuples(NUMBERS, st.integers(0, 5)), min_size=2, max_size=12)


def split(rows: list[tuple[float, int]]) -> tuple[list[float], list[int]]:
    return [value for value, _ in rows], [group for _, group in rows]


def test_images_on_their_own_give_scipys_interval() -> None:
    values = np.random.default_rng(0).beta(5, 2, 60)
    ours = bootstrap_interval(values, range(60), 10_000, seed=1)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=2).confidence_interval
    # Two sets of 10,000 draws place these quantiles to about 0.04 standard errors; a 90 % interval would miss by 0.3.
    error = stats.sem(values)
    assert ours.mean == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.1 * error)
    assert ours.high == pytest.approx(theirs.high, abs=0.1 * error)


def test_groups_of_unlike_sizes_are_drawn_whole_and_every_image_weighs_the_same() -> None:
    rng = np.random.default_rng(3)
    sizes = [1, 9, 2, 7, 3, 1, 4, 6, 1, 5]
    groups = np.repeat(np.arange(10), sizes)
    values = groups / 10 + rng.normal(0, 0.1, len(groups))
    means = []
    for _ in range(5000):
        drawn = [values[groups == group] for group in rng.integers(0, 10, 10)]
        means.append(np.concatenate(drawn).mean())
    ours = bootstrap_interval(values, groups, 5000, seed=4)
    assert ours.low == pytest.approx(np.quantile(means, 0.025), abs=0.1 * np.std(means))
    assert ours.high == pytest.approx(np.quantile(means, 0.975), abs=0.1 * np.std(means))


def test_two_groups_by_hand() -> None:
    # Both twice A (mean 0), both twice B (mean 1), or one of each (1/3): with 1/4, 1/4 and 1/2 of the draws.
    assert bootstrap_interval([0, 0, 1], ["a", "a", "b"], 1000, seed=0) == Interval(1 / 3, 0, 1)


def test_copies_of_images_in_their_group_narrow_nothing() -> None:
    values = np.random.default_rng(5).random(30)
    once = bootstrap_interval(values, range(30), 2000, seed=0)
    many = bootstrap_interval(np.repeat(values, 8), np.repeat(np.arange(30), 8), 2000, seed=0)
    assert (many.mean, many.low, many.high) == pytest.approx((once.mean, once.low, once.high))


@given(GROUPED, NUMBERS, st.randoms())
def test_the_interval_moves_with_the_values_and_not_with_their_order(
    rows: list[tuple[float, int]], shift: float, rng: random.Random
) -> None:
    values, groups = split(rows)
    plain = bootstrap_interval(values, groups, 200, seed=0)
    shuffled = list(rows)
    rng.shuffle(shuffled)
    values, groups = split(shuffled)
    moved = bootstrap_interval(np.add(values, shift), groups, 200, seed=0)
    np.testing.assert_allclose(
        [moved.mean, moved.low, moved.high], np.add([plain.mean, plain.low, plain.high], shift), atol=1e-12
    )


@given(GROUPED)
def test_the_interval_lies_within_the_means_of_groups(rows: list[tuple[float, int]]) -> None:
    values, groups = split(rows)
    interval, means = bootstrap_interval(values, groups, 200, seed=0), group_means(values, groups)
    if len(means) > 1:
        assert means.min() - 1e-12 <= interval.low <= interval.high <= means.max() + 1e-12


def test_one_seed_gives_one_interval() -> None:
    values = np.random.default_rng(0).random(50)
    first = bootstrap_interval(values, range(50), 500, seed=7)
    assert bootstrap_interval(values, range(50), 500, seed=7) == first
    assert bootstrap_interval(values, range(50), 500, seed=8) != first


def test_the_blocks_in_which_memory_is_used_change_no_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random(50)
    whole = bootstrap_interval(values, range(50), 501, seed=7)
    monkeypatch.setattr(statistics, "BLOCK", 50 * 100)
    assert bootstrap_interval(values, range(50), 501, seed=7) == whole


def test_as_many_resamples_are_drawn_as_are_asked_for() -> None:
    interval = bootstrap_interval([0.0, 0.5, 1.0], range(3), 1, seed=0)
    assert interval.low == interval.high  # both are quantiles of the one resample's mean


def test_a_single_group_has_a_mean_but_no_interval() -> None:
    for values in ([0.25], [0.0, 0.5]):
        interval = bootstrap_interval(values, ["a"] * len(values), 100, seed=0)
        assert interval.mean == 0.25
        assert math.isnan(interval.low)
        assert math.isnan(interval.high)
        assert math.isnan(paired_bootstrap(values, ["a"] * len(values), 100, seed=0).p_value)


@pytest.mark.filterwarnings("error")
def test_without_images_nothing_is_defined() -> None:
    result = paired_bootstrap([], [], 100, seed=0)
    interval = result.interval
    assert all(math.isnan(value) for value in (interval.mean, interval.low, interval.high, result.p_value))
    assert math.isnan(wilcoxon([]))


def test_undefined_values_and_groups_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^leave undefined values out"):
        bootstrap_interval([0.5, float("nan")], [0, 1], 100, seed=0)
    with pytest.raises(ValueError, match=r"^leave undefined values out"):
        wilcoxon([0.5, float("nan")])
    with pytest.raises(ValueError, match="2 values, but 1 groups"):
        bootstrap_interval([0.5, 0.6], [0], 100, seed=0)


def covered(unit: str, repeats: int) -> float:
    """How often the interval holds the true mean 0 of 25 groups of 8 images that share most of their deviation."""
    rng = np.random.default_rng(11)
    groups = np.repeat(np.arange(25), 8)
    hits = 0
    for seed in range(repeats):
        values = rng.normal(0, 1, 25)[groups] + rng.normal(0, 0.5, len(groups))
        interval = bootstrap_interval(values, groups if unit == "groups" else range(len(groups)), 400, seed)
        hits += interval.low <= 0 <= interval.high
    return hits / repeats


def test_19_in_20_intervals_hold_the_true_mean_where_groups_are_resampled_and_not_where_images_are() -> None:
    assert 0.9 <= covered("groups", 300) <= 0.98
    assert covered("images", 300) < 0.65


def test_a_difference_that_every_group_shares_has_the_least_p_value() -> None:
    assert paired_bootstrap([0.1, 0.2, 0.3], range(3), 999, seed=0).p_value == 2 / 1000


def test_no_difference_at_all_has_p_1() -> None:
    result = paired_bootstrap([0.0] * 9, range(9), 999, seed=0)
    assert result.p_value == 1
    assert result.interval == Interval(0, 0, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # there is nothing to rank
        assert wilcoxon([0.0] * 9) == 1


def test_the_p_value_of_two_groups_by_hand() -> None:
    # The resampled mean is -1 in a quarter of the draws and above 0 in the others.
    assert paired_bootstrap([-1, 2], range(2), 20_000, seed=0).p_value == pytest.approx(0.5, abs=0.02)


@given(GROUPED)
def test_the_p_value_is_the_same_from_both_sides(rows: list[tuple[float, int]]) -> None:
    values, groups = split(rows)
    first, second = (paired_bootstrap(sign * np.array(values), groups, 200, seed=0) for sign in (1, -1))
    assert first.p_value == pytest.approx(second.p_value, nan_ok=True)


@given(GROUPED, st.floats(0, 1))
def test_the_p_value_agrees_with_the_interval(rows: list[tuple[float, int]], shift: float) -> None:
    values, groups = split(rows)
    result = paired_bootstrap(np.add(values, shift), groups, 999, seed=0)
    apart = result.interval.low > 0 or result.interval.high < 0
    if result.p_value < 0.05:
        assert apart
    if apart:
        assert result.p_value <= 2 * (1 + 25) / 1000  # at most the 25 of 999 means below the 2.5 % quantile


def test_wilcoxon_by_hand() -> None:
    # All five ranks on one side: 2 of the 2^5 ways to give signs.
    assert wilcoxon([0.1, 0.2, 0.3, 0.4, 0.5]) == pytest.approx(2 / 32)
    # The rank 1 on the other side: sums of 1 or less come about in 2 ways, on each side.
    assert wilcoxon([-0.1, 0.2, 0.3, 0.4, 0.5]) == pytest.approx(4 / 32)


def test_means_of_groups_by_hand() -> None:
    assert group_means([1, 2, 6], ["b", "a", "b"]).tolist() == [2, 3.5]


def test_holm_by_hand() -> None:
    # 0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1 may not come out below 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([0.04]) == [0.04]
    assert holm([]) == []


def test_holm_does_not_count_a_test_that_could_not_be_made() -> None:
    assert holm([0.02, float("nan"), 0.03]) == pytest.approx([0.04, float("nan"), 0.04], nan_ok=True)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_no_correction_and_bonferronis_and_keeps_the_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for given_p, corrected in zip(p_values, adjusted, strict=True):
        assert given_p <= corrected <= min(1, len(p_values) * given_p)
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()
