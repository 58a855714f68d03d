"""Groups of images: near-duplicates, which are searched for among all pairs, and images of one patient."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from medseg.core.parallel import MachineParams, run_parallel
from medseg.data.image_io import Pixels
from medseg.data.thumbnails import (
    BITS,
    CENTRE,
    CORNERS,
    ORIENTATIONS,
    WHOLE,
    Hashes,
    Placing,
    View,
    cosines,
    hashes,
    same_picture,
)

Numbers = NDArray[np.intp]

# How images are laid on each other: whole and 10 % cropped in the middle in every orientation, which finds crops too;
# cropped at a corner, and moved by 10 % towards one, as they are.
PLACINGS = (
    *(
        Placing(first, second, orientation)
        for first, second in ((WHOLE, WHOLE), (CENTRE, CENTRE), (WHOLE, CENTRE), (CENTRE, WHOLE))
        for orientation in range(ORIENTATIONS)
    ),
    *(Placing(WHOLE, corner, 0) for corner in CORNERS),
    *(Placing(corner, WHOLE, 0) for corner in CORNERS),
    *(Placing(corner, opposite, 0) for corner, opposite in zip(CORNERS, reversed(CORNERS), strict=True)),
)
_ROWS, _COLUMNS = 16, 8192  # hashes that are compared at a time, so that the results stay in the processor's cache
_TASK = 256  # rows that a worker takes at a time
_BATCH = 50  # pairs that a worker confirms at a time
_ROUND = 10_000  # pairs after which those that are of one group by now are left out


@dataclass(frozen=True)
class Groups:
    """The group of each image, `g00000` and so on, and whether its near-duplicates are `chained`.

    They are where the two that differ most are no near-duplicates of each other.
    """

    names: list[str]
    chained: list[bool]


@dataclass(frozen=True)
class Candidates:
    """Pairs of images that may be near-duplicates: their numbers, and how they may lie on each other."""

    first: NDArray[np.int32]
    second: NDArray[np.int32]
    placing: NDArray[np.uint8]  # in PLACINGS
    inverted: NDArray[np.bool_]
    distance: NDArray[np.uint8]  # bits in which the hashes differ, so laid

    def __len__(self) -> int:
        """The number of pairs."""
        return len(self.first)

    def only(self, which: NDArray[np.generic] | slice) -> "Candidates":
        """Those at `which`."""
        return Candidates(**{name: column[which] for name, column in vars(self).items()})


def find_groups(thumbnails: Pixels, patients: Sequence[str], distance: int, machine: MachineParams) -> Groups:
    """Groups of images that are near-duplicates or of one patient, from their thumbnails (N, 64, 64).

    Pairs are candidates whose hashes differ in at most `distance` bits (see `near_hashes`), and near-duplicates where
    the pixels of both agree, too (see `thumbnails.same_picture`). Near-duplicates of near-duplicates are of one group,
    and so are images of one patient (empty: unknown).
    """
    candidates = near_hashes(thumbnails, distance, machine)
    numbers = np.arange(len(thumbnails))
    for first in range(0, len(candidates), _ROUND):
        some = candidates.only(slice(first, first + _ROUND))
        some = some.only(numbers[some.first] != numbers[some.second])
        some = some.only(confirmed(thumbnails, some, machine))
        numbers = _joined(numbers, some.first, some.second)
    chained = np.isin(numbers, [number for number, members in _several(numbers) if _is_chain(thumbnails, members)])
    known = pd.Series(patients, dtype=str)
    alone = "image " + pd.Series(np.arange(len(thumbnails)).astype(str))
    _, first_of_patient, patient = np.unique(
        ("of " + known).where(known != "", alone).to_numpy(str), return_index=True, return_inverse=True
    )
    together = _joined(numbers, np.arange(len(thumbnails)), first_of_patient[patient])
    return Groups([f"g{number:05d}" for number in pd.factorize(together)[0]], [bool(value) for value in chained])


def near_hashes(thumbnails: Pixels, distance: int, machine: MachineParams) -> Candidates:
    """All pairs of images that some placing of `PLACINGS` makes nearly equal, nearest first.

    That is, their hashes differ in at most `distance` of `BITS`, or in all but as many, where one image is the other
    one inverted. Each pair has its nearest placing, the first of several. Every pair is compared.
    """
    firsts, seconds = _hashes_of_placings(thumbnails)
    threads = machine.model_copy(update={"backend": "threading"})  # the hashes are shared, and numpy lets go of the GIL
    search = partial(_search, firsts, seconds, distance)
    found = run_parallel(threads, search, range(0, len(thumbnails), _TASK), "comparing hashes")
    together = Candidates(
        **{field.name: np.concatenate([getattr(part, field.name) for part in found]) for field in fields(Candidates)}
    )
    return together.only(np.lexsort((together.second, together.first, together.distance)))


def _hashes_of_placings(thumbnails: Pixels) -> tuple[list[Hashes], list[Hashes]]:
    """For each placing, the hashes (N,) of all images as the first of a pair, and as the second."""
    needed = {(placing.first, 0) for placing in PLACINGS} | {
        (placing.second, placing.orientation) for placing in PLACINGS
    }
    sides: dict[tuple[View, int], Hashes] = {}
    for view in (WHOLE, CENTRE, *CORNERS):
        coefficients = cosines(thumbnails, view)
        sides |= {
            (view, orientation): hashes(coefficients, orientation)
            for orientation in range(ORIENTATIONS)
            if (view, orientation) in needed
        }
    firsts = [sides[placing.first, 0] for placing in PLACINGS]
    return firsts, [sides[placing.second, placing.orientation] for placing in PLACINGS]


def _search(firsts: list[Hashes], seconds: list[Hashes], distance: int, start: int) -> Candidates:
    """The pairs of one of the `_TASK` images from `start` on with a later image that any placing makes near."""
    count = len(firsts[0])
    end = min(start + _TASK, count)
    found = [
        _near_in_block(firsts, seconds, distance, slice(top, min(top + _ROWS, end)), slice(left, left + _COLUMNS))
        for top in range(start, end, _ROWS)
        for left in range(top, count, _COLUMNS)
    ]
    first, second = np.concatenate(found, axis=1)
    return _nearest_placings(firsts, seconds, first, second)


def _near_in_block(
    firsts: list[Hashes], seconds: list[Hashes], distance: int, rows: slice, columns: slice
) -> NDArray[np.int32]:
    """The near pairs (2, pairs) of a row with a later column."""
    row, column = np.nonzero(_distances(firsts, seconds, rows, columns) <= distance)
    pairs = np.stack([row + rows.start, column + columns.start]).astype(np.int32)
    return pairs[:, pairs[0] < pairs[1]]


def _distances(firsts: list[Hashes], seconds: list[Hashes], rows: slice, columns: slice) -> NDArray[np.uint8]:
    """Bits (rows, columns) in which hashes differ, or inverted hashes do: the least of all placings."""
    shape = (len(firsts[0][rows]), len(seconds[0][columns]))
    nearest, bits, differing = np.full(shape, BITS, np.uint8), np.empty(shape, np.uint8), np.empty(shape, np.uint64)
    for first, second in zip(firsts, seconds, strict=True):
        np.bitwise_xor(first[rows, None], second[None, columns], out=differing)
        np.bitwise_count(differing, out=bits)
        np.minimum(nearest, bits, out=nearest)
        np.subtract(BITS, bits, out=bits)
        np.minimum(nearest, bits, out=nearest)
    return nearest


def _nearest_placings(
    firsts: list[Hashes], seconds: list[Hashes], first: NDArray[np.int32], second: NDArray[np.int32]
) -> Candidates:
    """Pairs with the placing that makes them nearest, the first of several."""
    bits = np.stack([np.bitwise_count(one[first] ^ other[second]) for one, other in zip(firsts, seconds, strict=True)])
    distances = np.minimum(bits, BITS - bits)
    placing = distances.argmin(axis=0).astype(np.uint8)
    chosen = placing, np.arange(len(first))
    return Candidates(first, second, placing, bits[chosen] > BITS // 2, distances[chosen])


def confirmed(thumbnails: Pixels, candidates: Candidates, machine: MachineParams) -> NDArray[np.bool_]:
    """Which of the pairs show the same picture."""
    pairs = list(_pairs(thumbnails, candidates))
    batches = [pairs[first : first + _BATCH] for first in range(0, len(pairs), _BATCH)]
    found = run_parallel(machine, _are_same, batches, "comparing thumbnails")
    return np.array([same for batch in found for same in batch], bool)


def _pairs(thumbnails: Pixels, candidates: Candidates) -> Iterator[tuple[Pixels, Pixels, Placing]]:
    columns = (candidates.first, candidates.second, candidates.placing, candidates.inverted)
    for first, second, placing, inverted in zip(*columns, strict=True):
        yield thumbnails[first], thumbnails[second], replace(PLACINGS[placing], inverted=bool(inverted))


def _are_same(pairs: Sequence[tuple[Pixels, Pixels, Placing]]) -> list[bool]:
    return [same_picture(*pair) for pair in pairs]


def _several(numbers: Numbers) -> Iterator[tuple[int, Numbers]]:
    """Each group of three images or more, and its members."""
    order = np.argsort(numbers, kind="stable")
    values, starts = np.unique(numbers[order], return_index=True)
    for value, members in zip(values, np.split(order, starts[1:]), strict=True):
        if len(members) > 2:
            yield int(value), members


def _is_chain(thumbnails: Pixels, members: Numbers) -> bool:
    """Whether the two of a group whose hashes differ most are no near-duplicates of each other."""
    firsts, seconds = _hashes_of_placings(thumbnails[members])
    last = len(members) - 1
    rows = [_distances(firsts, seconds, slice(row, row + 1), slice(row + 1, None))[0] for row in range(last)]
    first = int(np.argmax([row.max() for row in rows]))
    second = first + 1 + int(rows[first].argmax())
    pair = _nearest_placings(firsts, seconds, np.array([first], np.int32), np.array([second], np.int32))
    return not all(_are_same(list(_pairs(thumbnails[members], pair))))


def near_any(hashes: Sequence[str], others: Sequence[str], distance: int) -> NDArray[np.bool_]:
    """Whether each of `hashes` differs in at most `distance` bits from one of `others`, both as in the manifest."""
    own, known = (np.array([int(value, 16) for value in part], np.uint64) for part in (hashes, others))
    near = np.zeros(len(own), bool)
    for first in range(0, len(known), _COLUMNS):
        differing = own[:, None] ^ known[None, first : first + _COLUMNS]
        near |= (np.bitwise_count(differing) <= distance).any(axis=1)
    return near


def _joined(numbers: Numbers, rows: NDArray[np.signedinteger[Any]], columns: NDArray[np.signedinteger[Any]]) -> Numbers:
    """Group numbers (N,) after joining the groups of `rows` and `columns`, pair by pair."""
    size = int(numbers.max(initial=0)) + 1
    pairs = coo_array((np.ones(len(rows), bool), (numbers[rows], numbers[columns])), (size, size))
    joined: Numbers = connected_components(pairs, directed=False)[1][numbers]
    return joined
