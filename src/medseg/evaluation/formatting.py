"""How numbers are written for readers: scores, lengths, shares, counts, intervals."""

import math

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


def interval(low: float | None, high: float | None, unit: Unit = "score") -> str:
    """Both ends without their unit, `0.923-0.948` with an en dash, or `-0.1 to 0.1` where one may be negative.

    A dash where they are not defined: None or NaN.
    """
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return ABSENT
    return f"{_bare(low, unit)}{' to ' if low < 0 else TO}{_bare(high, unit)}"


def spread(mean: float | None, low: float | None, high: float | None, unit: Unit = "score") -> str:
    """A mean with its interval: `0.812 (0.790-0.833)`."""
    return f"{measured(mean, unit)} ({interval(low, high, unit)})"


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
