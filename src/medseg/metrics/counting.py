"""Counting the objects of a mask: contours, or connected components with touching objects split.

Objects are 8-connected, as OpenCV's contours are, and background is 4-connected. Touching objects are split at the
necks of the distance to the background, by watershed (Vincent & Soille, "Watersheds in digital spaces", IEEE PAMI 13,
1991) from the peaks that stand out (h-maxima), as Malpica et al., "Applying watershed algorithms to the segmentation
of clustered nuclei", Cytometry 28, 1997, do with nuclei.

Distances are not quantised. Each pixel follows the steepest ascent to a peak, and the pixels of one peak are its
basin; then basins are merged over their borders, from the highest saddle to the lowest, where the lower peak exceeds
the saddle by `depth` or less. The remaining peaks are the regional maxima of the h-maxima transform (Soille,
"Morphological Image Analysis", 2nd ed., section 6.3.4). Ties are broken by position, so a mask has one result.
"""

from collections.abc import Sequence
from itertools import product
from typing import Annotated, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from medseg.core.params import Section
from medseg.data.image_io import MAX_PIXELS
from medseg.metrics.distances import distance_to_background
from medseg.metrics.overlap import Mask

Labels = NDArray[np.int32]
Size = Annotated[int, Field(ge=0, le=MAX_PIXELS)]  # pixels
Depth = Annotated[float, Field(gt=0, le=100)]  # pixels

_EIGHT = ndimage.generate_binary_structure(2, 2)
_HALF_OF_NEIGHBOURS = ((0, 1), (1, -1), (1, 0), (1, 1))  # row, column; with their opposites all eight
_NEIGHBOURS = _HALF_OF_NEIGHBOURS + tuple((-down, -right) for down, right in _HALF_OF_NEIGHBOURS)


class CountingParams(Section):
    """What counts as one object."""

    smallest: Size  # smaller objects are dropped, smaller holes split nothing; 0 keeps all
    split: bool  # whether touching objects are split
    depth: Depth  # a neck splits where it is narrower than the lesser of its two objects by more than twice this


class CountingGrid(Section):
    """The candidates from which val chooses: each `smallest` without a split and with each depth."""

    smallest: tuple[Size, ...] = Field(min_length=1)
    depths: tuple[Depth, ...] = Field(min_length=1)

    def candidates(self) -> list[CountingParams]:
        """All combinations, the simplest first: no split before a split, a lower `smallest`, a greater depth.

        Without a split there is one for each size, and its depth is the greatest.
        """
        depths = sorted(self.depths, reverse=True)
        sizes = sorted(self.smallest)
        whole = [CountingParams(smallest=smallest, split=False, depth=depths[0]) for smallest in sizes]
        return whole + [
            CountingParams(smallest=smallest, split=True, depth=depth) for smallest, depth in product(sizes, depths)
        ]


class CountingChoice(CountingParams):
    """What counts as one object of the truth, and whether predictions are counted alike or as val chooses."""

    prediction: Literal["same", "val"]
    grid: CountingGrid  # what val chooses from

    def of_truth(self) -> CountingParams:
        """The rule alone."""
        return CountingParams(smallest=self.smallest, split=self.split, depth=self.depth)


def count_contours(mask: Mask) -> int:
    """Count all contours of a mask (H, W), what is not 0 being foreground: outer ones, holes, islands in holes.

    OpenCV's `findContours` with `RETR_TREE` (Suzuki & Abe, CVGIP 30, 1985). A hole counts as much as an object.
    """
    contours, _ = cv2.findContours(_binary(mask), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    return len(contours)


def count_objects(mask: Mask, params: CountingParams) -> int:
    """Count the objects of a mask (H, W), what is not 0 being foreground; holes are none."""
    return int(separate_objects(mask, params).max(initial=0))


def separate_objects(mask: Mask, params: CountingParams) -> Labels:
    """Number the objects of a mask (H, W), what is not 0 being foreground.

    Returns (H, W) int32: 0 for background, holes and dropped specks; 1, 2, ... without a gap for the objects, each of
    `params.smallest` pixels or more. A component of that size is at least one object. Pixels beyond the edge of the
    image do not count as background in distances.
    """
    kept = _drop_small(_binary(mask), params.smallest)
    if params.split:
        return _separated(kept, params)
    return cv2.connectedComponents(kept, connectivity=8)[1].astype(np.int32, copy=False)


def counting_errors(mask: Mask, true_count: int, candidates: Sequence[CountingParams]) -> list[int]:
    """The absolute error of the count of a mask (H, W) under each candidate rule.

    `true_count` comes from a person, or from the true mask under one fixed rule: counted with each candidate, it would
    favour one that drops all objects of both masks.
    """
    return [abs(count_objects(mask, params) - true_count) for params in candidates]


def count_scores(
    prediction: Mask, truth: Mask, params: CountingParams, truth_params: CountingParams
) -> dict[str, float]:
    """Numbers of contours and objects of a predicted and a true mask (H, W) of one image, and their errors.

    Keys: contours_predicted, contours_truth, contours_absolute_error, contours_relative_error, and the same with
    `counted` for objects, by `params` in the prediction and by `truth_params` in the truth. The relative error is the
    absolute one over the count of the truth, NaN where that is 0.
    """
    return _errors("contours", count_contours(prediction), count_contours(truth)) | _errors(
        "counted", count_objects(prediction, params), count_objects(truth, truth_params)
    )


def _errors(name: str, predicted: int, true: int) -> dict[str, float]:
    error = abs(predicted - true)
    return {
        f"{name}_predicted": predicted,
        f"{name}_truth": true,
        f"{name}_absolute_error": error,
        f"{name}_relative_error": error / true if true else float("nan"),
    }


def _binary(mask: Mask) -> NDArray[np.uint8]:
    return np.ascontiguousarray(mask != 0).astype(np.uint8)


def _separated(kept: NDArray[np.uint8], params: CountingParams) -> Labels:
    """`separate_objects` of a mask without specks, touching objects split. Every object has a pixel of the mask.

    A basin inside a filled hole has none, but it is below `smallest`, so it has merged into one that has.
    """
    solid = _fill_small(kept, params.smallest)
    distance = distance_to_background(solid)
    basins = _basins(distance, solid)
    labels = _owners(basins, distance, kept, params)[basins]
    labels *= kept
    return labels


def _drop_small(mask: NDArray[np.uint8], smallest: int) -> NDArray[np.uint8]:
    if smallest <= 1:
        return mask
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] >= smallest
    large[0] = False
    kept: NDArray[np.uint8] = large.astype(np.uint8)[labels]
    return kept


def _fill_small(mask: NDArray[np.uint8], smallest: int) -> NDArray[np.uint8]:
    """Fill the holes below `smallest` pixels; background that reaches the edge of the image is no hole."""
    if smallest <= 1:
        return mask
    _, labels, stats, _ = cv2.connectedComponentsWithStats((mask == 0).astype(np.uint8), connectivity=4)
    filled = stats[:, cv2.CC_STAT_AREA] < smallest
    filled[np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])] = False
    filled[0] = True  # the foreground
    solid: NDArray[np.uint8] = filled.astype(np.uint8)[labels]
    return solid


def _basins(distance: NDArray[np.float32], mask: NDArray[np.uint8]) -> Labels:
    """Label every foreground pixel with the peak that its steepest ascent reaches; a plateau is one peak."""
    height, width = distance.shape
    surrounded = np.pad(distance, 1)
    steepest = np.zeros_like(distance)
    target = np.arange(distance.size, dtype=np.int32).reshape(height, width)
    here = target.copy()
    for down, right in _NEIGHBOURS:
        neighbour = surrounded[1 + down : 1 + down + height, 1 + right : 1 + right + width]
        slope = (neighbour - distance) / np.float32(np.hypot(down, right))
        better = slope > steepest
        steepest[better] = slope[better]
        target[better] = here[better] + down * width + right
    peaks: Labels = ndimage.label(mask.astype(bool) & (target == here), _EIGHT)[0]  # in reading order
    return peaks.ravel()[_ends(target.ravel())].reshape(height, width) * mask


def _ends(target: Labels) -> Labels:
    """The fixed point that each pixel's pointer leads to, by pointer doubling."""
    while not np.array_equal(further := target[target], target):
        target = further
    return target


def _owners(basins: Labels, distance: NDArray[np.float32], mask: NDArray[np.uint8], params: CountingParams) -> Labels:
    """The object that each basin becomes or merges into, numbered without a gap; 0 for the background.

    First basins merge over their highest saddle where the lower peak exceeds it by `depth` or less; then those still
    below `smallest` pixels, in the same order.
    """
    owners = list(range(int(basins.max()) + 1))
    peaks = np.zeros(len(owners), np.float32)
    np.maximum.at(peaks, basins, distance)
    areas = np.bincount(basins.ravel(), weights=mask.ravel(), minlength=len(owners)).tolist()
    saddles = _saddles(basins, distance)
    for by_depth in (True, False):
        for first, second, height in saddles:
            high, low = sorted(
                (_owner(owners, first), _owner(owners, second)), key=lambda basin: (-peaks[basin], basin)
            )
            shallow = peaks[low] - height <= params.depth
            small = min(areas[low], areas[high]) < params.smallest
            if low != high and (shallow if by_depth else small):
                owners[low] = high
                areas[high] += areas[low]
    roots = [_owner(owners, basin) for basin in range(len(owners))]
    return np.unique(roots, return_inverse=True)[1].astype(np.int32)


def _saddles(basins: Labels, distance: NDArray[np.float32]) -> list[tuple[int, int, float]]:
    """Each pair of neighbouring basins with the height of the saddle between them, in descending order."""
    borders = [_border(basins, distance, *offset) for offset in _HALF_OF_NEIGHBOURS]
    first, second, height = (np.concatenate(part) for part in zip(*borders, strict=True))
    falling = np.lexsort((second, first, -height))
    pairs = np.stack([first, second])[:, falling]
    highest = np.sort(np.unique(pairs, axis=1, return_index=True)[1])  # the first of each pair is its highest
    chosen = falling[highest]
    return list(zip(first[chosen].tolist(), second[chosen].tolist(), height[chosen].tolist(), strict=True))


def _border(
    basins: Labels, distance: NDArray[np.float32], down: int, right: int
) -> tuple[Labels, Labels, NDArray[np.float32]]:
    """Where a pixel and the one `down` and `right` of it differ in basin: lower and higher number, lesser distance."""
    height, width = basins.shape
    here = slice(0, height - down), slice(max(0, -right), width - max(0, right))
    there = slice(down, height), slice(max(0, right), width - max(0, -right))
    one, other = basins[here], basins[there]
    border = (one != other) & (one > 0) & (other > 0)
    lesser = np.minimum(distance[here], distance[there])
    return np.minimum(one, other)[border], np.maximum(one, other)[border], lesser[border]


def _owner(owners: list[int], basin: int) -> int:
    while owners[basin] != basin:
        owners[basin] = owners[owners[basin]]  # path compression
        basin = owners[basin]
    return basin
