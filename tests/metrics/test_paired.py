"""The test of pairs against values by hand, every sign given one by one, and its level where nothing differs."""

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.metrics.paired import LEAST_GROUPS_OF_TEST, holm, sign_flip_test

NUMBERS = st.floats(-1, 1).map(lambda number: round(number, 3))
ROWS = st.lists(st.tuples(NUMBERS, st.integers(0, 7)), min_size=12, max_size=16)


def every_way(values: list[float], groups: list[int]) -> float:
    """The share of all ways to give signs to groups whose sum is at least as far from 0."""
    sums = [sum(value for value, group in zip(values, groups, strict=True) if group == name) for name in set(groups)]
    ways = [abs(sum(np.multiply(signs, sums))) for signs in itertools.product([1, -1], repeat=len(sums))]
    return float(np.mean([way >= abs(sum(sums)) - 1e-9 for way in ways]))


def test_by_hand() -> None:
    # Of 2^6 ways those of one sign are as far from 0; with the 0.1 turned, those and the two in which it alone is.
    assert sign_flip_test([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], range(6)) == pytest.approx(2 / 2**6)
    assert sign_flip_test([-0.1, 0.2, 0.3, 0.4, 0.5, 0.6], range(6)) == pytest.approx(4 / 2**6)
    assert sign_flip_test([0.0] * 9, range(9)) == 1


@given(ROWS)
def test_up_to_16_groups_every_way_to_give_signs_counts(rows: list[tuple[float, int]]) -> None:
    values, groups = [value for value, _ in rows], [group for _, group in rows]
    found = sign_flip_test(values, groups)
    if len(set(groups)) < LEAST_GROUPS_OF_TEST:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(every_way(values, groups))
        assert found >= 2 / 2 ** len(set(groups)) - 1e-12


@given(ROWS, st.randoms())
def test_neither_order_nor_direction_counts(rows: list[tuple[float, int]], rng: random.Random) -> None:
    plain = sign_flip_test([value for value, _ in rows], [group for _, group in rows])
    rng.shuffle(rows)
    turned = sign_flip_test([-value for value, _ in rows], [group for _, group in rows])
    assert turned == pytest.approx(plain, nan_ok=True)


def test_images_of_one_group_are_one_observation() -> None:
    rise = np.repeat([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 4)
    assert sign_flip_test(rise, np.repeat(range(6), 4)) == pytest.approx(2 / 2**6)
    assert sign_flip_test(rise, range(24)) < 0.001


def test_fewer_than_six_groups_can_show_nothing() -> None:
    assert math.isnan(sign_flip_test([0.5] * 5, range(5)))
    assert math.isnan(sign_flip_test([], []))
    with pytest.raises(ValueError, match=r"^leave undefined values out"):
        sign_flip_test([0.5, float("nan")], range(2))


@pytest.mark.parametrize("groups", [6, 8])
def test_no_more_than_5_in_100_are_rejected_where_nothing_differs(groups: int) -> None:
    rng = np.random.default_rng(groups)
    missed = np.where(rng.random((2, groups, 500)) < 0.1, 0, rng.beta(12, 2, (2, groups, 500)))
    rejected = [sign_flip_test(column, range(groups)) <= 0.05 for column in (missed[1] - missed[0]).T]
    assert 0.01 < np.mean(rejected) <= 0.07  # standard error 0.01; the bootstrap's p rejected 0.13 with 8 groups


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
