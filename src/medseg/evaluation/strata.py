"""Strata of images by the annotated share of their area."""

import numpy as np
from numpy.typing import NDArray

SIZES = ("small", "medium", "large")
EMPTY = "empty"  # stratum of the images in which nothing is annotated


def size_limits(shares: NDArray[np.float64]) -> tuple[float, float]:
    """The greatest annotated share of a small and of a medium image: tertiles of the shares that are more than 0.

    `shares`: (N,) truth pixels / region pixels, 0..1. Tertiles, because a lesion fills a few hundredths of an image
    and nuclei a third of it: limits set once for all data would leave strata empty. They depend on the truths alone, so
    all models scored on the same images have the same ones. Both are NaN where all shares are 0.
    """
    ranked = np.sort(shares[shares > 0])
    if not len(ranked):
        return float("nan"), float("nan")
    # A third and two thirds of the images, rounded up, in whole numbers: 1 / 3 as a float may fall to either side.
    first, second = -(-len(ranked) // 3), -(-2 * len(ranked) // 3)
    return float(ranked[first - 1]), float(ranked[second - 1])


def size_strata(shares: NDArray[np.float64], limits: tuple[float, float]) -> list[str]:
    """The stratum of each annotated share, (N,): one of `SIZES`, or `EMPTY` for 0.

    Small up to and with the first limit, medium up to and with the second, else large; equal shares never part.
    """
    ranks = np.searchsorted(limits, shares)
    return [SIZES[rank] if share > 0 else EMPTY for rank, share in zip(ranks, shares, strict=True)]
