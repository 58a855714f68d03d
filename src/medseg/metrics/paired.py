"""Tests of the difference between two runs on the same images."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from medseg.metrics.intervals import SEED, Groups, checked, group_sums

LEAST_GROUPS_OF_TEST = 6  # 2 / 2^5 is above 0.05: with fewer groups no result can be called a difference
FLIPS = 2**14  # all of up to 14 groups; of more, as many at random


def sign_flip_test(differences: ArrayLike, groups: Groups) -> float:
    """The two-sided p-value, 0..1, of the null hypothesis that two runs are exchangeable within a group.

    `differences`, one per image, are the second run less the first. Were the runs exchangeable, the summed difference
    of any group could as well have the other sign, so the sum over all images is held against that of all 2^G ways to
    give signs to G groups (Fisher, "The Design of Experiments", 1935, section 21), or of `FLIPS` random ones, both
    counts raised by one (Phipson & Smyth, Statistical Applications in Genetics and Molecular Biology 9, 2010). The
    least p of G groups is 2 / 2^G. The test supposes no distribution, and asks more than whether means are equal: runs
    whose differences are skewed are not exchangeable either.

    NaN for fewer than `LEAST_GROUPS_OF_TEST` groups; 1 where all differences are 0. Raises `ValueError` for NaN.
    """
    sums, sizes = group_sums(checked(differences)[:, None], groups)
    if len(sizes) < LEAST_GROUPS_OF_TEST:
        return float("nan")
    return float(
        stats.permutation_test(
            (sums[:, 0],),
            np.sum,
            permutation_type="samples",
            vectorized=True,
            n_resamples=FLIPS,
            batch=2**12,  # keeps memory small where groups are many
            rng=np.random.default_rng(SEED),
        ).pvalue
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of several tests, corrected by Holm's step-down method, in their order.

    Of m tests the smallest p is multiplied by m, the next by m - 1, and so on; none may come out below a smaller one or
    above 1 (Holm, Scandinavian Journal of Statistics 6, 1979). A NaN stays NaN and does not count as a test.
    """
    given = np.asarray(p_values, np.float64)
    adjusted = given.copy()
    order = np.argsort(given)[: int((~np.isnan(given)).sum())]  # NaN sorts last
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(given[order] * factors))
    return [float(p_value) for p_value in adjusted]
