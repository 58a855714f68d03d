"""How sure a mean over images is: a 95 % interval where one holds, else the range of the groups' means.

Images of one group (a patient, near-duplicates) are not independent, so groups are what counts. With s_g the sum of the
n_g images of group g, the mean over images is the ratio m = sum_g s_g / sum_g n_g, and its standard error over G
groups, by linearisation (Cochran, "Sampling Techniques", 1977, section 6.4),

    se^2 = G / (G - 1) sum_g (s_g - m n_g)^2 / (sum_g n_g)^2

Scores of a bounded range get the wider of two intervals at each end. Student's t holds where tails are heavy, and is
too narrow where scores are skewed; the bootstrap-t (Efron & Tibshirani, "An Introduction to the Bootstrap", 1993,
section 12.5) over whole groups (Davison & Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8) the
other way round. There every resample draws G groups with replacement, has a mean m* and an error se*, and the quantiles
of (m* - m) / se* take the place of Student's. `benchmarks/studies/interval_coverage.py` measures both, and from how
many groups on the wider holds.

Distances and errors have no bound, and one far value moves their mean more than any interval tells. They get the median
of the groups' means and the distribution-free interval between two of their order statistics (Conover, "Practical
Nonparametric Statistics", 1999, section 3.2). Shares of images get the exact interval of Clopper and Pearson
(Biometrika 26, 1934), where every group is one image.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

CONFIDENCE = 0.95
TAIL = (1 - CONFIDENCE) / 2
RESAMPLES = 10_000
SEED = 0
LEAST_GROUPS = 30  # from which on `mean_intervals` cover at least 0.93 on the shapes of the study with no rare failure
# Groups of 1 to 6 images, as in the study, are worth 24 where they are 30; one that holds most images is nearly alone.
LEAST_EFFECTIVE_GROUPS = 20
LEAST_GROUPS_OF_MEDIAN = 6  # from which on all order statistics together hold the median with 95 %
BLOCK = 1_000_000  # weights held in memory at a time, 16 bytes each
ROUNDING = 1e-9  # of the values: an error below it is none
NOTHING = 1e-12  # of a sum of squares: a difference of two such sums below it is none

Floats = NDArray[np.float64]
Groups = Sequence[Any] | NDArray[Any]  # the name of each image's group
# What a metric of an image can be. Differences of two scores 0 to 1 are -1 to 1.
Values = Literal["0 to 1", "-1 to 1", "0 or 1", "unbounded"]
# What two ends are: the 95 % interval of the mean or of the median over groups, or the least and the greatest mean of a
# group, which is no interval and narrows with no number of groups.
Ends = Literal["interval", "interval of median", "range", "none"]


@dataclass(frozen=True)
class Estimate:
    """A mean over images and how sure it is; what is not defined is NaN.

    `median` is that of the groups' means, of unbounded metrics alone. `ends` says what `low` and `high` are.
    """

    mean: float
    median: float
    low: float
    high: float
    ends: Ends


def estimate(values: ArrayLike, groups: Groups, kind: Values) -> Estimate:
    """`estimates` of a single metric, (images,)."""
    return estimates(np.asarray(values, np.float64)[:, None], groups, kind)[0]


def estimates(values: ArrayLike, groups: Groups, kind: Values) -> list[Estimate]:
    """How sure the mean of each column of (images, metrics) is, all of one `kind`; `groups` names each image's group.

    - bounded: the 95 % interval of the mean by `mean_intervals`, cut to what is possible, from `LEAST_GROUPS` groups
      on, if they are worth `LEAST_EFFECTIVE_GROUPS`; below, or where the groups are nearly all alike, the range of
      their means;
    - unbounded: `median_interval`, from `LEAST_GROUPS_OF_MEDIAN` groups on; below the range of their means;
    - 0 or 1: `share_interval` where every group is one image, else nothing.

    A single group has no range. Equal inputs give equal results. Raises `ValueError` for NaN: leave undefined values
    out, and count them, before.
    """
    values = checked(values)
    sums, sizes = group_sums(values, groups)
    means = values.mean(axis=0) if len(values) else np.full(values.shape[1], np.nan)
    if kind == "0 or 1":
        return [_of_share(float(mean), sizes) for mean in means]
    of_groups = sums / sizes[:, None]
    if kind == "unbounded":
        return [_of_median(float(mean), column) for mean, column in zip(means, of_groups.T, strict=True)]
    if len(sizes) < LEAST_GROUPS or effective_groups(sizes) < LEAST_EFFECTIVE_GROUPS:
        return [_of_range(float(mean), column) for mean, column in zip(means, of_groups.T, strict=True)]
    lows, highs = np.clip(mean_intervals(values, groups), 0 if kind == "0 to 1" else -1, 1)
    return [
        _of_range(float(mean), column)
        if np.isnan(low)
        else Estimate(float(mean), np.nan, float(low), float(high), "interval")
        for mean, low, high, column in zip(means, lows, highs, of_groups.T, strict=True)
    ]


def effective_groups(sizes: ArrayLike) -> float:
    """How many groups of equal size the groups of `sizes` images are worth: (sum n_g)^2 / sum n_g^2 (Kish 1965).

    Where one patient holds most images, the mean is nearly that patient's, however many others there are.
    """
    sizes = np.asarray(sizes, np.float64)
    return float(sizes.sum() ** 2 / max((sizes**2).sum(), 1))


def mean_intervals(values: ArrayLike, groups: Groups) -> tuple[Floats, Floats]:
    """The 95 % intervals of the means of (images, metrics): low and high, (metrics,) each.

    Each end is the farther one of `bootstrap_t` and of Student's t; NaN where the former is.
    """
    sums, sizes = group_sums(checked(values), groups)
    low, high = bootstrap_t(values, groups)
    if len(sizes) < 2:
        return low, high
    mean = sums.sum(axis=0) / sizes.sum()
    half = stats.t.ppf(1 - TAIL, len(sizes) - 1) * _error(sums - mean * sizes[:, None], sizes)
    return np.minimum(low, mean - half), np.maximum(high, mean + half)


def bootstrap_t(values: ArrayLike, groups: Groups) -> tuple[Floats, Floats]:
    """The 95 % intervals of the means of (images, metrics) by the bootstrap-t alone: low and high, (metrics,) each.

    NaN where it has no end: with fewer than two groups, with groups that are all alike, and where more than 2.5 % of
    the resamples draw groups that are (all but a few groups alike).
    """
    values = checked(values)
    sums, sizes = group_sums(values, groups)
    if len(sizes) < 2:
        return np.full(sums.shape[1], np.nan), np.full(sums.shape[1], np.nan)
    mean = sums.sum(axis=0) / sizes.sum()
    apart = sums - mean * sizes[:, None]  # centred, so that resampled means are those less the mean
    error = _error(apart, sizes)
    ratios = np.concatenate([_ratios(weights, apart, sizes) for weights in _weights(len(sizes))])
    # A quantile that is one of the ratios: between one and an infinite one there is none.
    below, above = np.quantile(ratios, [TAIL, 1 - TAIL], axis=0, method="inverted_cdf")
    known = np.isfinite(below) & np.isfinite(above) & (error > ROUNDING * np.abs(values).max(axis=0))
    width = np.where(known, error, np.nan)
    return mean - np.where(known, above, 0) * width, mean - np.where(known, below, 0) * width


def median_interval(means: ArrayLike) -> tuple[float, float]:
    """The interval of the median between two order statistics of (groups,), which holds it with at least 95 %.

    That is so for any distribution of independent groups. NaN for fewer than `LEAST_GROUPS_OF_MEDIAN`.
    """
    ordered = np.sort(np.asarray(means, np.float64))
    if len(ordered) < LEAST_GROUPS_OF_MEDIAN:
        return float("nan"), float("nan")
    # Every mean lies below the median with a chance of one half: that no more than k do has the chance `below[k]`.
    below = stats.binom.cdf(np.arange(len(ordered)), len(ordered), 0.5)
    left_out = int((below <= TAIL).sum()) - 1
    return float(ordered[left_out]), float(ordered[-1 - left_out])


def share_interval(hits: int, count: int) -> tuple[float, float]:
    """The exact interval of a share, 0..1, of which `hits` of `count` independent images are an instance."""
    found = stats.binomtest(hits, count).proportion_ci(CONFIDENCE, method="exact")
    return float(found.low), float(found.high)


def group_means(values: ArrayLike, groups: Groups) -> Floats:
    """The mean of the images of each group, in the sorted order of the groups' names. Raises `ValueError` for NaN."""
    sums, sizes = group_sums(checked(values)[:, None], groups)
    means: Floats = sums[:, 0] / sizes
    return means


def group_sums(values: Floats, groups: Groups) -> tuple[Floats, Floats]:
    """Sums over the images of each group, (groups, metrics), and their number, (groups,)."""
    if len(groups) != len(values):
        raise ValueError(f"{len(values)} values, but {len(groups)} groups")
    _, codes = np.unique(list(groups), return_inverse=True)
    sizes = np.bincount(codes).astype(np.float64)
    sums = np.zeros((len(sizes), values.shape[1]))
    np.add.at(sums, codes, values)
    return sums, sizes


def checked(values: ArrayLike) -> Floats:
    """Values as an array. Raises `ValueError` for NaN."""
    array = np.asarray(values, np.float64)
    if np.isnan(array).any():
        raise ValueError("leave undefined values out, and count them, before asking for statistics")
    return array


def _error(apart: Floats, sizes: Floats) -> Floats:
    """The standard error of the mean, (metrics,)."""
    error: Floats = _errors(np.ones((1, len(sizes))), apart, sizes, np.zeros((1, apart.shape[1])))[0]
    return error


def _ratios(weights: Floats, apart: Floats, sizes: Floats) -> Floats:
    """(m* - m) / se* of each resample, (resamples, metrics); infinite where the resampled groups are all alike."""
    means = weights @ apart / (weights @ sizes)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(means / _errors(weights, apart, sizes, means), nan=0.0, posinf=np.inf, neginf=-np.inf)


def _errors(weights: Floats, apart: Floats, sizes: Floats, means: Floats) -> Floats:
    """The standard error of the mean of each resample, (resamples, metrics), its square multiplied out."""
    count = len(sizes)
    squares, products = weights @ apart**2, weights @ (apart * sizes[:, None])
    sizes_squared = (weights @ sizes**2)[:, None]
    summed = squares - 2 * means * products + means**2 * sizes_squared
    summed[summed <= NOTHING * (squares + means**2 * sizes_squared)] = 0
    errors: Floats = np.sqrt(count / (count - 1) * summed) / (weights @ sizes)[:, None]
    return errors


def _weights(count: int) -> Iterator[Floats]:
    """How often each of `count` groups is drawn: blocks of (resamples, `count`), `RESAMPLES` rows in all."""
    rng = np.random.default_rng(SEED)
    rows = max(1, BLOCK // count)
    for start in range(0, RESAMPLES, rows):
        size = min(rows, RESAMPLES - start)
        yield rng.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float64)


def _of_range(mean: float, of_groups: Floats, median: float = float("nan")) -> Estimate:
    if len(of_groups) < 2:
        return Estimate(mean, median, np.nan, np.nan, "none")
    return Estimate(mean, median, float(of_groups.min()), float(of_groups.max()), "range")


def _of_median(mean: float, of_groups: Floats) -> Estimate:
    median = float(np.median(of_groups)) if len(of_groups) else float("nan")
    low, high = median_interval(of_groups)
    return (
        _of_range(mean, of_groups, median) if np.isnan(low) else Estimate(mean, median, low, high, "interval of median")
    )


def _of_share(mean: float, sizes: Floats) -> Estimate:
    if len(sizes) == 0 or sizes.max() > 1:
        return Estimate(mean, np.nan, np.nan, np.nan, "none")
    return Estimate(mean, np.nan, *share_interval(round(mean * len(sizes)), len(sizes)), "interval")
