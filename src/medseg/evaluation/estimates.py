"""Estimates as rows of summary.csv and as keys of JSON hold them: written and read here alone."""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from medseg.metrics.intervals import Ends, Estimate

# The ends of their keys tell an interval of the mean from the range of groups.
_KEYS: tuple[tuple[str, str, Ends], ...] = (("_low", "_high", "interval"), ("_range_low", "_range_high", "range"))


def of_row(row: Mapping[Any, Any]) -> Estimate:
    """The estimate in a row of `summary.summary_table`."""
    return Estimate(*(row[field.name] for field in fields(Estimate)))


def to_keys(name: str, estimate: Estimate) -> dict[str, float | None]:
    """The mean of a bounded score as `name`, None where it is undefined, and its ends.

    NAME_low and NAME_high are its 95 % interval, NAME_range_low and NAME_range_high the least and the greatest mean of
    a group; there is one of the two pairs, or none.
    """
    found: dict[str, float | None] = {name: None if math.isnan(estimate.mean) else estimate.mean}
    for low, high, ends in _KEYS:
        if estimate.ends == ends:
            found |= {f"{name}{low}": estimate.low, f"{name}{high}": estimate.high}
    return found


def of_keys(content: Mapping[str, Any], name: str) -> Estimate:
    """The estimate that `to_keys` wrote; one without a mean where there is none."""
    mean = content.get(name)
    mean = math.nan if mean is None else mean
    for low, high, ends in _KEYS:
        if content.get(f"{name}{low}") is not None:
            return Estimate(mean, math.nan, content[f"{name}{low}"], content[f"{name}{high}"], ends)
    return Estimate(mean, math.nan, math.nan, math.nan, "none")
