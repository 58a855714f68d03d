"""Near-duplicate images by perceptual hash, and the groups that a split never separates."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

_BLOCK = 1024  # images that are compared with all others at a time: all at once would take memory for N x N


def group_names(table: pd.DataFrame, distance: int) -> list[str]:
    """Name each row's group: rows of one patient, and rows whose perceptual hashes differ in at most `distance` bits.

    The hash is pHash, 64 signs of the low frequencies of a 32x32 cosine transform (Zauner, "Implementation and
    benchmarking of perceptual image hash functions", 2010). The relation is closed transitively.
    """
    hashes, place, which = np.unique(table["phash"].to_numpy(str), return_index=True, return_inverse=True)
    signs = np.array([_signs(value) for value in hashes], np.float32)  # (hashes, 64)
    alone = "row " + pd.Series(np.arange(len(table)).astype(str), table.index)
    numbers = pd.factorize(("of " + table["patient"]).where(table["patient"] != "", alone))[0]
    numbers = _joined(numbers, np.arange(len(table)), place[which])  # equal hashes
    for first in range(0, len(hashes), _BLOCK):
        block = slice(first, first + _BLOCK)
        # Each bit that differs takes 2 from the product of equal hashes.
        rows, columns = np.nonzero(signs[block] @ signs[first:].T >= 64 - 2 * distance)
        numbers = _joined(numbers, place[rows + first], place[columns + first])
    return [f"g{number:05d}" for number in pd.factorize(numbers)[0]]


def _joined(numbers: NDArray[np.intp], rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.intp]:
    """Group numbers (N,) after the groups of `rows` and `columns` were joined pair by pair."""
    size = int(numbers.max(initial=0)) + 1
    pairs = coo_array((np.ones(len(rows), bool), (numbers[rows], numbers[columns])), (size, size))
    joined: NDArray[np.intp] = connected_components(pairs, directed=False)[1][numbers]
    return joined


def _signs(phash: str) -> list[int]:
    number = int(phash, 16)
    return [1 if number >> position & 1 else -1 for position in range(64)]
