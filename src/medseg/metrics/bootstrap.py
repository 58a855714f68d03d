"""Confidence intervals of means over images, and tests of the difference between two runs.

Images of one group (a patient, near-duplicates) are not independent, so groups are what is resampled: the cluster
bootstrap (Efron & Tibshirani, "An Introduction to the Bootstrap", 1993; Davison & Hinkley, "Bootstrap Methods and their
Application", 1997, section 3.8). Of G groups, every resample draws G with replacement; a group that is drawn w_g times
brings all its images w_g times, and the mean over images is

    sum_g w_g s_g / sum_g w_g n_g

with s_g the sum and n_g the number of the images of group g. The number of groups is fixed; the number of images is
not, where groups differ in size. With few groups (below about 20) percentile intervals are too narrow.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 10_000  # of every interval that is reported
SEED = 0
FEW_GROUPS = 20  # below this a percentile interval covers clearly less than its level
BLOCK = 1_000_000  # weights held in memory at a time, 16 bytes each

Floats = NDArray[np.float64]
Groups = Sequence[Any] | NDArray[Any]  # the name of each image's group


@dataclass(frozen=True)
class Interval:
    """A mean over images and its 95 % interval.

    With a single group the spread between groups is unknown, so `low` and `high` are NaN; without any image all three
    are.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedResult:
    """A mean difference over images with its 95 % interval, and the two-sided p-value of no difference, 0..1.

    The p-value is NaN where the interval is.
    """

    interval: Interval
    p_value: float


def bootstrap_interval(values: ArrayLike, groups: Groups, resamples: int, seed: int) -> Interval:
    """The mean of `values`, one number per image, and its 95 % percentile interval by the cluster bootstrap.

    `groups` names each image's group; `low` and `high` are the 2.5 % and 97.5 % quantiles of the resampled means. The
    same input and seed give the same interval. Raises `ValueError` for NaN: leave undefined values out, and count them,
    before.
    """
    return bootstrap_intervals(_checked(values)[:, None], groups, resamples, seed)[0]


def bootstrap_intervals(values: ArrayLike, groups: Groups, resamples: int, seed: int) -> list[Interval]:
    """`bootstrap_interval` of each column of (images, metrics), all from the same resamples."""
    values = _checked(values)
    means = _resampled_means(values, groups, resamples, seed)
    return [_interval(values[:, column], means[:, column]) for column in range(values.shape[1])]


def paired_bootstrap(differences: ArrayLike, groups: Groups, resamples: int, seed: int) -> PairedResult:
    """The mean of `differences`, one number per image (second run less first), with interval and p-value.

    The p-value belongs to the interval (Efron & Tibshirani 1993, section 15.4): twice the share of resampled means on
    the rarer side of 0, those at 0 counted to both sides,

        min(1, 2 (1 + min(#{mean <= 0}, #{mean >= 0})) / (1 + resamples))

    so it is below 0.05 where the interval excludes 0, up to the 1 that is added to both counts (Davison & Hinkley 1997,
    section 4.4), which keeps the p-value above 0. Raises `ValueError` for NaN.
    """
    differences = _checked(differences)
    means = _resampled_means(differences[:, None], groups, resamples, seed)[:, 0]
    rarer = min(int((means <= 0).sum()), int((means >= 0).sum()))
    p_value = min(1.0, 2 * (1 + rarer) / (1 + resamples)) if len(means) else float("nan")
    return PairedResult(_interval(differences, means), p_value)


def wilcoxon(differences: ArrayLike) -> float:
    """The two-sided p-value of Wilcoxon's signed-rank test, for independent differences (one per group, not per image).

    Zeros are left out, as Wilcoxon does; 1 where all are 0, NaN without any. Raises `ValueError` for NaN.
    """
    differences = _checked(differences)
    if len(differences) == 0:
        return float("nan")
    return float(stats.wilcoxon(differences).pvalue) if differences.any() else 1.0


def group_means(values: ArrayLike, groups: Groups) -> Floats:
    """The mean of the images of each group, in the sorted order of the groups' names. Raises `ValueError` for NaN."""
    sums, sizes = _group_sums(_checked(values)[:, None], groups)
    means: Floats = sums[:, 0] / sizes
    return means


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


def _checked(values: ArrayLike) -> Floats:
    array = np.asarray(values, np.float64)
    if np.isnan(array).any():
        raise ValueError("leave undefined values out, and count them, before asking for statistics")
    return array


def _group_sums(values: Floats, groups: Groups) -> tuple[Floats, Floats]:
    """Sums over the images of each group, (groups, metrics), and their number, (groups,)."""
    if len(groups) != len(values):
        raise ValueError(f"{len(values)} values, but {len(groups)} groups")
    _, codes = np.unique(list(groups), return_inverse=True)
    sizes = np.bincount(codes).astype(np.float64)
    sums = np.zeros((len(sizes), values.shape[1]))
    np.add.at(sums, codes, values)
    return sums, sizes


def _resampled_means(values: Floats, groups: Groups, resamples: int, seed: int) -> Floats:
    """The mean of every resample, (resamples, metrics); (0, metrics) for fewer than two groups."""
    sums, sizes = _group_sums(values, groups)
    if len(sizes) < 2:
        return np.empty((0, values.shape[1]))
    means = [weights @ sums / (weights @ sizes)[:, None] for weights in _weights(len(sizes), resamples, seed)]
    return np.concatenate(means)


def _weights(count: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each of `count` groups is drawn: blocks of (resamples, `count`), `resamples` rows in all."""
    rng = np.random.default_rng(seed)
    rows = max(1, BLOCK // count)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        yield rng.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float64)


def _interval(values: Floats, means: Floats) -> Interval:
    mean = float(values.mean()) if len(values) else float("nan")
    if len(means) == 0:
        return Interval(mean, float("nan"), float("nan"))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(mean, float(low), float(high))
