"""How often val chooses what does harm, and what choosing is worth, by the rule and by the number of groups.

Simulated differences of Dice to the plain setting, one a group, whose true means are known. Half a minute on one core:

    python -m benchmarks.studies.choosing
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg.core.markdown import table

Floats = NDArray[np.float64]
GROUPS = (3, 6, 10, 20, 30)
TRIALS, FLIPS, LEVEL = 2000, 499, 0.05
RESULT = Path(__file__).parent / "results" / "choosing.json"
OFFERED = np.delete(np.arange(1, 20) / 20, 9)  # thresholds but 0.5


def thresholds(optimum: float) -> Callable[[np.random.Generator, tuple[int, int]], Floats]:
    """Every group has its own best threshold about `optimum`, from which Dice falls off, and noise of its own."""

    def draw(rng: np.random.Generator, size: tuple[int, int]) -> Floats:
        best = rng.normal(optimum, 0.2, size)[..., None]
        loss = rng.gamma(2.0, 0.15, size)[..., None]
        smooth = np.cumsum(rng.normal(0, 0.004, (*size, 19)), axis=-1)  # neighbours are alike
        noise = np.delete(smooth - smooth[..., 9:10], 9, axis=-1)
        return np.asarray(-loss * ((OFFERED - best) ** 2 - (0.5 - best) ** 2) + noise)

    return draw


def step(gain: float, lost: float) -> Callable[[np.random.Generator, tuple[int, int]], Floats]:
    """A step that mostly gains a little, and in a share `lost` of the groups drops much of what is right."""

    def draw(rng: np.random.Generator, size: tuple[int, int]) -> Floats:
        small = rng.normal(gain, 0.01, size)
        return np.where(rng.random(size) < lost, -rng.beta(2, 4, size), small)[..., None]

    return draw


CASES = {
    "threshold, 0.5 is right": thresholds(0.5),
    "threshold, 0.4 is better": thresholds(0.4),
    "step, gains 0.01, loses a third in a tenth": step(0.01, 0.1),
    "step, gains 0.01": step(0.01, 0.0),
}


def mean(values: Floats, _: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The best mean, where it is above that of the plain setting."""
    means = values.mean(axis=1)
    return means.argmax(axis=1), means.max(axis=1) > 0


def one_error(values: Floats, _: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The best mean, where it is above that of the plain setting by more than one standard error."""
    return above(values, values.mean(axis=1).argmax(axis=1), 1)


def two_errors(values: Floats, _: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The same with two."""
    return above(values, values.mean(axis=1).argmax(axis=1), 2)


def lower_bound(values: Floats, _: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The best mean less one standard error, where that is above 0."""
    lower = values.mean(axis=1) - errors(values)
    return lower.argmax(axis=1), lower.max(axis=1) > 0


def sign_flip(values: Floats, rng: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The greatest mean in standard errors, where under 5 % of flips of the groups' signs have as great a one."""
    found = values.mean(axis=1) / errors(values)
    signs = rng.choice([-1.0, 1.0], (FLIPS, values.shape[1]))
    flipped = np.einsum("fg,tgk->tfk", signs, values) / values.shape[1]
    squares = (values**2).mean(axis=1)[:, None]  # whatever the signs
    spread = np.sqrt(np.maximum(squares - flipped**2, 1e-12) / (values.shape[1] - 1))
    higher = ((flipped / spread).max(axis=2) >= found.max(axis=1)[:, None] - 1e-9).sum(axis=1)
    return found.argmax(axis=1), (found.max(axis=1) > 0) & ((1 + higher) / (1 + FLIPS) < LEVEL)


def errors(values: Floats) -> Floats:
    """The standard error over groups of each mean."""
    return np.asarray(values.std(axis=1, ddof=1) / np.sqrt(values.shape[1]))


def above(values: Floats, best: NDArray[np.intp], factor: float) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Where the mean of the best is above so many standard errors."""
    rows = np.arange(len(values))
    return best, values.mean(axis=1)[rows, best] > factor * errors(values)[rows, best]


RULES = {
    "bare mean": mean,
    "one standard error": one_error,
    "mean less one error": lower_bound,
    "two standard errors": two_errors,
    "sign-flip test": sign_flip,
}


def measure(case: str, rule: str, groups: int) -> dict[str, float]:
    """How often a setting is taken that does harm, and one that helps; the true gain of Dice that choosing brings."""
    draw = CASES[case]
    true = draw(np.random.default_rng(1), (1, 200_000)).mean(axis=(0, 1))
    rng = np.random.default_rng(groups)
    best, taken = RULES[rule](draw(rng, (TRIALS, groups)), rng)
    gain = np.where(taken, true[best], 0.0)
    return {"harm": float((gain < -0.001).mean()), "help": float((gain > 0.001).mean()), "gain": float(gain.mean())}


def main() -> None:
    """Measure, print a table a case and keep all."""
    found = {
        case: {rule: {groups: measure(case, rule, groups) for groups in GROUPS} for rule in RULES} for case in CASES
    }
    for case, by_rule in found.items():
        print(f"\n{case}: harmful / helpful choices, %; mean true gain, thousandths of Dice\n")
        rows = [[rule, *(cell(values) for values in by_groups.values())] for rule, by_groups in by_rule.items()]
        print(table(["rule", *(f"{groups} groups" for groups in GROUPS)], rows))
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


def cell(values: dict[str, float]) -> str:
    """One cell of the table."""
    return f"{100 * values['harm']:.0f} / {100 * values['help']:.0f}; {1000 * values['gain']:+.1f}"


if __name__ == "__main__":
    main()
