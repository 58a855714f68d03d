"""Groups of near-duplicate images (by perceptual hash) and of images of one patient."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

_BLOCK = 1024  # images that are compared with all others at a time, to bound the memory


def group_names(table: pd.DataFrame, distance: int) -> list[str]:
    """The group of each row: rows of one patient, and rows whose perceptual hashes differ in at most `distance` bits.

    `table` has the columns phash and patient (empty: unknown). The hash is pHash, 64 signs of the low frequencies of a
    32x32 cosine transform (Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010). Groups
    are the transitive closure.
    """
    hashes, place, which = np.unique(table["phash"].to_numpy(str), return_index=True, return_inverse=True)
    signs = np.array([_signs(value) for value in hashes], np.float32)  # (hashes, 64)
    alone = "row " + pd.Series(np.arange(len(table)).astype(str), table.index)
    numbers = pd.factorize(("of " + table["patient"]).where(table["patient"] != "", alone))[0]
    numbers = _joined(numbers, np.arange(len(table)), place[which])  # equal hashes
    for first in range(0, len(hashes), _BLOCK):
        block = slice(first, first + _BLOCK)
        # Each bit that differs lowers the product by 2, from the 64 of equal hashes.
        rows, columns = np.nonzero(signs[block] @ signs[first:].T >= 64 - 2 * distance)
        numbers = _joined(numbers, place[rows + first], place[columns + first])
    return [f"g{number:05d}" for number in pd.factorize(numbers)[0]]


def near_any(hashes: Sequence[str], others: Sequence[str], distance: int) -> NDArray[np.bool_]:
    """Whether each of `hashes` differs in at most `distance` bits from one of `others`; perceptual hashes as above."""
    signs, known = (
        np.array([_signs(value) for value in part], np.float32).reshape(-1, 64) for part in (hashes, others)
    )
    near = np.zeros(len(signs), bool)
    for first in range(0, len(known), _BLOCK):
        near |= (signs @ known[first : first + _BLOCK].T >= 64 - 2 * distance).any(axis=1)
    return near


def _joined(numbers: NDArray[np.intp], rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.intp]:
    """Group numbers (N,) after joining the groups of `rows` and `columns`, pair by pair."""
    size = int(numbers.max(initial=0)) + 1
    pairs = coo_array((np.ones(len(rows), bool), (numbers[rows], numbers[columns])), (size, size))
    joined: NDArray[np.intp] = connected_components(pairs, directed=False)[1][numbers]
    return joined


def _signs(phash: str) -> list[int]:
    number = int(phash, 16)
    return [1 if number >> position & 1 else -1 for position in range(64)]
