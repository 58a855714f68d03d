"""When a setting that scores better on val than the simplest one is taken: the rule of every choice made there.

A few images always favour some setting, and with many to choose from the best looks better than it is. So a setting is
taken for its lead less the standard error of that lead, and nothing is searched on fewer than `MIN_GROUPS` groups,
from which on choosing brings more than it costs. `docs/explanation/choices.md` has what that is worth.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_GROUPS = 10  # of val; with fewer every setting that is left to val stays at its simplest value
_PLACES = 12  # or leads of thirds and halves that are equal would differ in their last bit


@dataclass(frozen=True)
class Lead:
    """How far the best of several settings is ahead of the simplest."""

    best: int  # its place among the settings, the simplest not counted
    mean: float
    error: float  # standard error over groups

    @property
    def is_clear(self) -> bool:
        """Whether the setting is taken: it leads by more than one standard error."""
        return round(self.mean - self.error, _PLACES) > 0


def best_lead(leads: NDArray[np.float64], groups: Sequence[str]) -> Lead:
    """The setting with the greatest mean lead less its standard error; of equal ones the first.

    Where no lead is clear it is the one with the greatest mean lead. `leads` (images, settings) says by how much each
    setting is better than the simplest one in each image; `groups` names the images' groups, two or more. The mean is
    over images.
    """
    means, errors = leads.mean(axis=0), standard_errors(leads, groups)
    lower = np.round(means - errors, _PLACES)
    best = int(np.argmax(lower if lower.max() > 0 else np.round(means, _PLACES)))
    return Lead(best, float(means[best]), float(errors[best]))


def standard_errors(values: NDArray[np.float64], groups: Sequence[str]) -> NDArray[np.float64]:
    """The standard error of each column's mean over rows whose `groups` are independent of one another.

    That of a ratio of sums over G clusters (Cochran, "Sampling Techniques", 3rd ed. 1977, chapter 9A):
    sqrt(G / (G - 1) x the sum over groups of (sum of a group's deviations from the mean)^2) / rows; with one row a
    group it is the standard deviation over the root of their number. Two groups or more.
    """
    names, numbers = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, numbers, values - values.mean(axis=0))
    squares = (sums**2).sum(axis=0) * len(names) / (len(names) - 1)
    return np.asarray(np.sqrt(squares) / len(values))
