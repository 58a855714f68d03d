"""How numbers are written for readers: scores, lengths, shares, counts, intervals."""

import math

from medseg.metrics.intervals import Estimate
from medseg.metrics.registry import Unit

ABSENT = "\N{EN DASH}"  # for a value that is not defined
MINUS = "\N{MINUS SIGN}"
TO = "\N{EN DASH}"


def score(value: float | None, form: str = ".3f") -> str:
    """A number with three decimals, or as `form` says; a dash where it is not defined: None or NaN."""
    return f"{value:{form}}" if value is not None and not math.isnan(value) else ABSENT


def percent(share: float | None) -> str:
    """A share as `12.3 %`, below one percent as `0.35 %`; never 0 unless it is; a dash where it is not defined."""
    if share is None or math.isnan(share):
        return ABSENT
    if 0 < abs(share) < 0.0001:
        return "< 0.01 %" if share > 0 else f"> {MINUS}0.01 %"
    return f"{_bare(share, 'share')} %"


def measured(value: float | None, unit: Unit) -> str:
    """A value with its unit; a dash where it is not defined: None or NaN."""
    if value is None or math.isnan(value):
        return ABSENT
    if unit == "share":
        return percent(value)
    return f"{_bare(value, unit)} px" if unit == "pixels" else _bare(value, unit)


def ends(estimate: Estimate, unit: Unit = "score", form: str | None = None) -> str:
    """What stands beside a mean, without a unit, and what it is; a dash where nothing is known.

    `0.923-0.948` with an en dash, or `-0.1 to 0.1` where one may be negative, is the 95 % interval of the mean;
    `median 7.9, 3.1-14.0` the median over groups with its 95 % interval; and after the word `range` stand the least and
    the greatest mean of a group. `form` writes the numbers in place of `unit`, such as `+.3f` for differences.
    """
    median, low, high = (
        f"{value:{form}}" if form else _bare(value, unit) for value in (estimate.median, estimate.low, estimate.high)
    )
    parts = [] if math.isnan(estimate.median) else [f"median {median}"]
    if estimate.ends != "none":
        word = "range " if estimate.ends == "range" else ""
        parts.append(f"{word}{low}{' to ' if form or estimate.low < 0 else TO}{high}")
    return ", ".join(parts) or ABSENT


def spread(estimate: Estimate, unit: Unit = "score") -> str:
    """A mean with its `ends`: `0.812 (0.790-0.833)`, `0.812 (range 0.510-0.955)`."""
    return f"{measured(estimate.mean, unit)} ({ends(estimate, unit)})"


def signed(difference: float) -> str:
    """A difference of two scores with its sign and four decimals; never 0 unless it is."""
    if difference and abs(difference) < 0.00005:
        return "< 0.0001" if difference > 0 else f"> {MINUS}0.0001"
    return f"{difference:+.4f}".replace("-", MINUS) if difference else "0"


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 image`, `2 images`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _bare(value: float, unit: Unit) -> str:
    """A value without its unit."""
    if unit == "share":
        value, places = 100 * value, 2 if 0 < abs(value) < 0.01 else 1
    else:
        places = {"score": 3, "pixels": 1, "number": 2}[unit]
    return f"{value:.{places}f}".replace("-", MINUS)
