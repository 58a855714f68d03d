"""How often 95 % intervals hold what they are of, and how often the test of pairs finds a difference where none is.

By shape of the scores and number of groups. Means of bounded scores and of differences by several methods, medians by
order statistics, each with one image a group and with one to six; images of a group are alike in every other case.
Then the share of p-values up to 0.05 of the sign-flip test on pairs that are exchangeable, beside the paired bootstrap
and Wilcoxon's test, and on pairs of equal mean that are not. Six minutes of one core:

    OMP_NUM_THREADS=1 python -m benchmarks.studies.interval_coverage
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from medseg.core.markdown import table
from medseg.metrics.intervals import RESAMPLES, SEED, TAIL, bootstrap_t, group_sums, mean_intervals, median_interval
from medseg.metrics.paired import sign_flip_test

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Floats]
GROUPS = (10, 20, 30, 50)
GROUPS_OF_MEDIAN = (6, 10, 20, 30, 50)
GROUPS_OF_TEST = (6, 8, 20, 50)
SIZES = (1, 2, 3, 4, 5, 6)  # images of one group after the other, where they are unequal
TRIALS, TRIALS_OF_TEST = 1000, 400
RESULT = Path(__file__).parent / "results" / "interval_coverage.json"


def _missed(share: float) -> Draw:
    return lambda rng, size: np.where(rng.random(size) < share, 0.0, rng.beta(12, 2, size))


SCORES: dict[str, Draw] = {
    "Dice": lambda rng, size: rng.beta(12, 2, size),
    "Dice, a tenth missed": _missed(0.1),
    "Dice, a twentieth missed": _missed(0.05),
    "Dice, skewed": lambda rng, size: np.where(rng.random(size) < 0.25, rng.beta(1, 3, size), rng.beta(20, 2, size)),
    "specificity": lambda rng, size: rng.beta(40, 0.8, size),
    "object F1": lambda rng, size: rng.choice([1, 2 / 3, 0], p=[0.7, 0.15, 0.15], size=size),
}
DIFFERENCES: dict[str, Draw] = {
    "difference, normal": lambda rng, size: rng.normal(0.02, 0.1, size),
    "difference, heavy tails": lambda rng, size: np.clip(0.02 + 0.05 * rng.standard_t(3, size), -1, 1),
    "difference, a tenth lost": lambda rng, size: np.where(
        rng.random(size) < 0.1, -rng.beta(12, 2, size), rng.normal(0.02, 0.05, size)
    ),
    "difference, mostly 0": lambda rng, size: np.where(rng.random(size) < 0.7, 0.0, rng.normal(0.1, 0.3, size)),
}
DISTANCES: dict[str, Draw] = {
    "distance, skewed": lambda rng, size: rng.lognormal(2, 0.8, size),
    "distance, heavy tail": lambda rng, size: 5 * (1 + rng.pareto(3, size)),
    "distance, a tenth missed": lambda rng, size: np.where(rng.random(size) < 0.1, 400.0, rng.lognormal(2, 0.8, size)),
}
PAIRS: dict[str, Draw] = {  # under the null: of one distribution, so exchangeable; the last has but equal means
    "Dice, a tenth missed": lambda rng, size: _missed(0.1)(rng, size) - _missed(0.1)(rng, size),
    "heavy tails": lambda rng, size: rng.standard_t(2, size),
    "mostly 0": lambda rng, size: np.where(rng.random(size) < 0.7, 0.0, rng.normal(0, 0.3, size)),
    "skewed, mean 0 (not exchangeable)": lambda rng, size: rng.exponential(1, size) - 1,
}


def grouped(draw: Draw, groups: int, unequal: bool, trials: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Images of every trial, (images, trials), and the group of each image; half of them are as their group's first."""
    sizes = np.resize(SIZES, groups) if unequal else np.ones(groups, int)
    names = np.repeat(np.arange(groups), sizes)
    shared, own = draw(rng, (groups, trials))[names], draw(rng, (len(names), trials))
    return np.where(rng.random(own.shape) < 0.5, shared, own), names.astype(np.float64)


def by_method(values: Floats, names: Floats) -> dict[str, tuple[Floats, Floats]]:
    """Low and high of every trial by method; all resample whole groups."""
    sums, sizes = group_sums(values, names)
    count = len(sizes)
    weights = np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(np.float64)
    means = weights @ sums / (weights @ sizes)[:, None]
    centre = sums.sum(axis=0) / sizes.sum()
    error = np.sqrt(count / (count - 1) * ((sums - centre * sizes[:, None]) ** 2).sum(axis=0)) / sizes.sum()
    half = stats.t.ppf(1 - TAIL, count - 1) * error
    low, high = np.quantile(means, [TAIL, 1 - TAIL], axis=0)
    return {
        "wider of both": mean_intervals(values, names),
        "bootstrap-t": bootstrap_t(values, names),
        "percentile": (low, high),
        "BCa": bca(means, sums, sizes),
        "Student's t": (centre - half, centre + half),
    }


def bca(means: Floats, sums: Floats, sizes: Floats) -> tuple[Floats, Floats]:
    """Bias-corrected and accelerated (Efron 1987), by the jackknife over groups."""
    centre = sums.sum(axis=0) / sizes.sum()
    bias = stats.norm.ppf(((means < centre).sum(axis=0) + 0.5) / (len(means) + 1))
    jackknife = (sums.sum(axis=0) - sums) / (sizes.sum() - sizes)[:, None]
    off = jackknife.mean(axis=0) - jackknife
    spread = 6 * (off**2).sum(axis=0) ** 1.5
    acceleration = np.divide((off**3).sum(axis=0), spread, out=np.zeros_like(spread), where=spread > 0)
    ordered, ends = np.sort(means, axis=0), []
    for z in stats.norm.ppf([TAIL, 1 - TAIL]):
        share = stats.norm.cdf(bias + (bias + z) / (1 - acceleration * (bias + z)))
        place = np.clip((share * len(means)).astype(int), 0, len(means) - 1)
        ends.append(np.take_along_axis(ordered, place[None], axis=0)[0])
    return ends[0], ends[1]


def coverage_of_means(draw: Draw, groups: int, unequal: bool, rng: np.random.Generator) -> dict[str, float]:
    """By method, the share of trials whose interval holds the true mean; `given`: those with a bootstrap-t at all.

    It and the wider of both are counted where they are given: else the range stands.
    """
    true = float(draw(np.random.default_rng(1), (4_000_000,)).mean())
    found = by_method(*grouped(draw, groups, unequal, TRIALS, rng))
    given = ~np.isnan(found["bootstrap-t"][0])
    shares = {}
    for name, (low, high) in found.items():
        held = ((low <= true) & (true <= high))[~np.isnan(low)]
        shares[name] = round(float(held.mean()), 3) if len(held) else float("nan")
    return shares | {"given": round(float(given.mean()), 3)}


def coverage_of_medians(draw: Draw, groups: int, unequal: bool, rng: np.random.Generator) -> dict[str, float]:
    """The share of trials whose interval holds the median of the means of groups."""
    many, names = grouped(draw, 600, unequal, 1000, np.random.default_rng(1))
    sums, sizes = group_sums(many, names)
    true = float(np.median(sums / sizes[:, None]))
    sums, sizes = group_sums(*grouped(draw, groups, unequal, TRIALS, rng))
    ends = [median_interval(column) for column in (sums / sizes[:, None]).T]
    return {"order statistics": round(float(np.mean([low <= true <= high for low, high in ends])), 3)}


def rejections(draw: Draw, groups: int, unequal: bool, rng: np.random.Generator) -> dict[str, float]:
    """By test, the share of trials with a p-value of at most 0.05."""
    values, names = grouped(draw, groups, unequal, TRIALS_OF_TEST, rng)
    low, high = by_method(values, names)["percentile"]
    sums, sizes = group_sums(values, names)
    signed_rank = [stats.wilcoxon(column).pvalue if column.any() else 1.0 for column in (sums / sizes[:, None]).T]
    flips = [sign_flip_test(column, names) for column in values.T]
    return {
        "sign flips": round(float(np.mean(np.array(flips) <= 0.05)), 3),
        "paired bootstrap": round(float(np.mean((low > 0) | (high < 0))), 3),
        "Wilcoxon": round(float(np.mean(np.array(signed_rank) <= 0.05)), 3),
    }


def main() -> None:
    """Measure, print the tables of docs/explanation/numbers.md and keep all."""
    rng = np.random.default_rng(0)
    kinds = (
        ("means", coverage_of_means, SCORES | DIFFERENCES, (False, True), GROUPS, "wider of both"),
        ("medians", coverage_of_medians, DISTANCES, (False, True), GROUPS_OF_MEDIAN, "order statistics"),
        ("tests", rejections, PAIRS, (True,), GROUPS_OF_TEST, "sign flips"),
    )
    kept = {}
    for kind, measure, shapes, sizes, counts, chosen in kinds:
        kept[kind] = {
            f"{name}, 1 to 6 images a group" if unequal else name: {
                str(groups): measure(draw, groups, unequal, rng) for groups in counts
            }
            for name, draw in shapes.items()
            for unequal in sizes
        }
        for method in next(iter(next(iter(kept[kind].values())).values())):
            rows = [[name, *(f"{by[str(n)][method]:.3f}" for n in counts)] for name, by in kept[kind].items()]
            mark = " (the project's)" if method == chosen else ""
            print(f"{kind}, {method}{mark}\n\n{table([kind, *map(str, counts)], rows)}\n", flush=True)
    RESULT.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
