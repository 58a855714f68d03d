"""How often a 95 % interval for a mean holds the true mean, by method, shape of the scores and number of groups.

Every group holds one image: groups are what is resampled, so their number counts. Four minutes on one core:

    python -m benchmarks.studies.interval_coverage
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
GROUPS = (5, 8, 10, 15, 20, 25, 30, 40, 50, 100)
TRIALS, RESAMPLES, LEVEL = 1000, 1000, 0.95
RESULT = Path(__file__).parent / "results" / "interval_coverage.json"

SHAPES: dict[str, Callable[[np.random.Generator, tuple[int, int]], Floats]] = {
    "dice": lambda rng, size: rng.beta(12, 2, size),
    "dice, a tenth missed": lambda rng, size: np.where(rng.random(size) < 0.1, 0.0, rng.beta(12, 2, size)),
    "dice, skewed": lambda rng, size: np.where(rng.random(size) < 0.25, rng.beta(1, 3, size), rng.beta(20, 2, size)),
    "distance, skewed": lambda rng, size: rng.lognormal(2, 0.8, size),
    "distance, heavy tail": lambda rng, size: 5 * (1 + rng.pareto(3, size)),
    "normal": lambda rng, size: rng.normal(0.7, 0.1, size),
}


def percentile(_: Floats, means: Floats, __: Floats) -> tuple[Floats, Floats]:
    """Quantiles of the resampled means."""
    low, high = np.quantile(means, [0.025, 0.975], axis=1)
    return low, high


def bca(values: Floats, means: Floats, _: Floats) -> tuple[Floats, Floats]:
    """Bias-corrected and accelerated (Efron 1987)."""
    centre = values.mean(axis=1)
    below = ((means < centre[:, None]).sum(axis=1) + 0.5) / (means.shape[1] + 1)
    bias = stats.norm.ppf(below)
    count = values.shape[1]
    jackknife = (values.sum(axis=1, keepdims=True) - values) / (count - 1)
    off = jackknife.mean(axis=1, keepdims=True) - jackknife
    spread = 6 * (off**2).sum(axis=1) ** 1.5
    acceleration = np.divide((off**3).sum(axis=1), spread, out=np.zeros(len(values)), where=spread > 0)
    ends = []
    ordered = np.sort(means, axis=1)
    for z in stats.norm.ppf([0.025, 0.975]):
        share = stats.norm.cdf(bias + (bias + z) / (1 - acceleration * (bias + z)))
        ends.append(
            ordered[np.arange(len(values)), np.clip((share * means.shape[1]).astype(int), 0, means.shape[1] - 1)]
        )
    return ends[0], ends[1]


def bootstrap_t(values: Floats, means: Floats, errors: Floats) -> tuple[Floats, Floats]:
    """Studentised: quantiles of (resampled mean - mean) / its standard error."""
    centre = values.mean(axis=1)
    error = values.std(axis=1, ddof=1) / np.sqrt(values.shape[1])
    ratio = (means - centre[:, None]) / np.maximum(errors, 1e-9)
    low, high = np.quantile(ratio, [0.025, 0.975], axis=1)
    return centre - high * error, centre - low * error


def student(values: Floats, _: Floats, __: Floats) -> tuple[Floats, Floats]:
    """Student's t."""
    half = stats.t.ppf(0.975, values.shape[1] - 1) * values.std(axis=1, ddof=1) / np.sqrt(values.shape[1])
    return values.mean(axis=1) - half, values.mean(axis=1) + half


METHODS = {"percentile": percentile, "BCa": bca, "bootstrap-t": bootstrap_t, "Student's t": student}


def coverage(shape: str, groups: int, rng: np.random.Generator) -> dict[str, float]:
    """The share of trials whose interval holds the true mean, by method."""
    true = float(SHAPES[shape](np.random.default_rng(1), (1, 4_000_000)).mean())
    held = dict.fromkeys(METHODS, 0)
    for _ in range(TRIALS // 100):
        values = SHAPES[shape](rng, (100, groups))
        drawn = rng.integers(0, groups, (100, RESAMPLES, groups))
        resampled = np.take_along_axis(values[:, None, :], drawn, axis=2)
        means, errors = resampled.mean(axis=2), resampled.std(axis=2, ddof=1) / np.sqrt(groups)
        for name, method in METHODS.items():
            low, high = method(values, means, errors)
            held[name] += int(((low <= true) & (true <= high)).sum())
    return {name: count / TRIALS for name, count in held.items()}


def main() -> None:
    """Measure, print a table and keep it."""
    rng = np.random.default_rng(0)
    rows = {shape: {groups: coverage(shape, groups, rng) for groups in GROUPS} for shape in SHAPES}
    for name in METHODS:
        print(f"\n{name}\n{'':24}" + "".join(f"{groups:>7}" for groups in GROUPS))
        for shape, by_groups in rows.items():
            print(f"{shape:24}" + "".join(f"{by_groups[groups][name]:7.3f}" for groups in GROUPS))
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
