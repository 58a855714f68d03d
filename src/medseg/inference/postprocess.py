"""Probabilities to class codes: threshold, filled holes, small objects dropped, the largest object kept."""

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from medseg.core.params import Section
from medseg.data.image_io import Pixels
from medseg.metrics.counting import Size

Probabilities = NDArray[np.float32]

_OBJECTS, _HOLES = 8, 4  # connectivity; an 8-connected hole would leak through a diagonal outline


class Postprocess(Section):
    """The steps from probabilities to class codes, in their order; sizes at the image's own resolution."""

    threshold: float = Field(gt=0, lt=1)  # a pixel is foreground where its probability is at least this
    fill_holes: bool
    smallest_object: Size  # pixels; smaller objects are dropped
    largest_component: bool  # keep the largest object alone


def postprocess(probabilities: Probabilities, choices: Postprocess) -> Pixels:
    """Probabilities (K, H, W) in 0..1 to class codes (H, W) uint8, 0 background."""
    codes = classify(probabilities, choices.threshold)
    if choices.fill_holes:
        codes = fill_holes(codes)
    if choices.smallest_object > 1:
        codes = drop_small_objects(codes, choices.smallest_object)
    return keep_largest_object(codes) if choices.largest_component else codes


def foreground_probability(probabilities: Probabilities) -> Probabilities:
    """The probability (H, W) in 0..1 of any class but background, from probabilities (K, H, W)."""
    first: Probabilities = probabilities[0]
    # Where tiles are blended, background may exceed 1 by a rounding error.
    return first if len(probabilities) == 1 else np.clip(1 - first, 0, 1)


def classify(probabilities: Probabilities, threshold: float) -> Pixels:
    """Class codes (H, W) uint8 of probabilities (K, H, W): 0 background, 1 the first class, and so on.

    A pixel is foreground where the foreground probability is at least `threshold`. It then has the most probable class
    but background, even where background is more probable than that class; the first of equal ones.
    """
    classes = np.ones(probabilities.shape[1:], np.uint8)
    if len(probabilities) > 1:
        classes += probabilities[1:].argmax(axis=0).astype(np.uint8)
    return np.where(foreground_probability(probabilities) >= threshold, classes, 0).astype(np.uint8)


def fill_holes(codes: Pixels) -> Pixels:
    """Fill the holes of class codes (H, W): 4-connected background that does not touch the image's border.

    A hole gets the class with most of its outline, counted in edges between pixels; the lowest of equal ones.
    """
    count, parts = cv2.connectedComponents((codes == 0).astype(np.uint8), connectivity=_HOLES)
    fill = _majority_of_neighbours(parts, codes, count)
    # Part 0 is the foreground itself.
    fill[np.concatenate([[0], parts[0], parts[-1], parts[:, 0], parts[:, -1]])] = 0
    return np.where(codes == 0, fill[parts], codes)


def drop_small_objects(codes: Pixels, smallest: int) -> Pixels:
    """Drop 8-connected objects, classes taken together, of fewer than `smallest` pixels from class codes (H, W)."""
    objects, areas = _objects(codes)
    return np.where(areas[objects] >= smallest, codes, 0).astype(np.uint8)


def keep_largest_object(codes: Pixels) -> Pixels:
    """Keep the largest 8-connected object, classes taken together, of class codes (H, W); the first of equal ones."""
    objects, areas = _objects(codes)
    areas[0] = -1
    return np.where(objects == _first_of_largest(objects, areas), codes, 0).astype(np.uint8)


def _objects(codes: Pixels) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Object numbers (H, W), 0 for background, and the number of pixels of each."""
    _, objects = cv2.connectedComponents((codes > 0).astype(np.uint8), connectivity=_OBJECTS)
    return objects.astype(np.int32), np.bincount(objects.ravel())


def _first_of_largest(objects: NDArray[np.int32], areas: NDArray[np.int64]) -> int:
    # OpenCV numbers objects by blocks of two rows, so the lowest number need not be the topmost object.
    flat = objects.ravel()
    return int(flat[(areas[flat] == areas.max()).argmax()])


def _majority_of_neighbours(parts: NDArray[np.int32], codes: Pixels, count: int) -> Pixels:
    """The most frequent class across the edges of each part 0, 1, ... `count` - 1; 0 where no class adjoins."""
    classes = int(codes.max()) + 1
    votes = np.zeros(count * classes, np.int64)
    neighbours = (  # above, below, left, right
        (parts[1:], codes[:-1]),
        (parts[:-1], codes[1:]),
        (parts[:, 1:], codes[:, :-1]),
        (parts[:, :-1], codes[:, 1:]),
    )
    for here, there in neighbours:
        votes += np.bincount((here.astype(np.int64) * classes + there).ravel(), minlength=len(votes))
    by_part = votes.reshape(count, classes)
    by_part[:, 0] = 0
    majority: Pixels = by_part.argmax(axis=1).astype(np.uint8)
    return majority
