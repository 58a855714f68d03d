"""Probabilities to the class of each pixel, and what is done to the objects that come of it."""

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from medseg.core.params import Section
from medseg.data.image_io import Pixels

Probabilities = NDArray[np.float32]

_OBJECTS, _HOLES = 8, 4  # connectivity; were holes 8-connected too, they would leak through diagonal outlines


class Postprocess(Section):
    """From probabilities to objects, in the order in which it is done; lengths at the image's own resolution."""

    threshold: float = Field(gt=0, lt=1)  # a pixel is foreground where its probability is at least this
    fill_holes: bool
    smallest_object: int = Field(ge=0)  # pixels; objects with fewer are dropped
    largest_component: bool  # keep the largest object alone


def postprocess(probabilities: Probabilities, choices: Postprocess) -> Pixels:
    """(K, H, W) in 0..1, as `inference.predict` gives them, to class codes (H, W) uint8, 0 background.

    The threshold first, then holes are filled, then small objects dropped, and of what is left the largest is kept.
    """
    codes = classify(probabilities, choices.threshold)
    if choices.fill_holes:
        codes = fill_holes(codes)
    if choices.smallest_object > 1:
        codes = drop_small_objects(codes, choices.smallest_object)
    return keep_largest_object(codes) if choices.largest_component else codes


def foreground_probability(probabilities: Probabilities) -> Probabilities:
    """(K, H, W) as `inference.predict` gives it to the probability (H, W) of any class but background, 0..1."""
    first: Probabilities = probabilities[0]
    # Where tiles are blended, background may exceed 1 by a rounding error.
    return first if len(probabilities) == 1 else np.clip(1 - first, 0, 1)


def classify(probabilities: Probabilities, threshold: float) -> Pixels:
    """(K, H, W) to the code (H, W) of each pixel's class: 0 background, 1 the first class, and so on.

    A pixel is foreground where its foreground probability is at least `threshold`, and then of the most probable
    class beside background, even where background is more probable than that; of equal ones, of the first.
    """
    lesion = np.ones(probabilities.shape[1:], np.uint8)
    if len(probabilities) > 1:
        lesion += probabilities[1:].argmax(axis=0).astype(np.uint8)
    return np.where(foreground_probability(probabilities) >= threshold, lesion, 0).astype(np.uint8)


def fill_holes(codes: Pixels) -> Pixels:
    """Fill background that foreground encloses: 4-connected parts of (H, W) that do not touch the image's border.

    A hole gets the class that has most of its outline, counted in edges between pixels; of equal ones the lowest.
    """
    count, parts = cv2.connectedComponents((codes == 0).astype(np.uint8), connectivity=_HOLES)
    fill = _prevailing_neighbours(parts, codes, count)
    # Part 0 is the foreground itself.
    fill[np.concatenate([[0], parts[0], parts[-1], parts[:, 0], parts[:, -1]])] = 0
    return np.where(codes == 0, fill[parts], codes)


def drop_small_objects(codes: Pixels, smallest: int) -> Pixels:
    """Drop 8-connected objects of fewer than `smallest` pixels from (H, W); neighbours of any class are one object."""
    objects, areas = _objects(codes)
    return np.where(areas[objects] >= smallest, codes, 0).astype(np.uint8)


def keep_largest_object(codes: Pixels) -> Pixels:
    """Keep of (H, W) the 8-connected object with most pixels, of any class; of equal ones the first, row by row."""
    objects, areas = _objects(codes)
    areas[0] = -1
    return np.where(objects == _first_of_largest(objects, areas), codes, 0).astype(np.uint8)


def _objects(codes: Pixels) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The number (H, W) of the object that each pixel belongs to, 0 for background, and the pixels of each."""
    _, objects = cv2.connectedComponents((codes > 0).astype(np.uint8), connectivity=_OBJECTS)
    return objects.astype(np.int32), np.bincount(objects.ravel())


def _first_of_largest(objects: NDArray[np.int32], areas: NDArray[np.int64]) -> int:
    # OpenCV numbers objects by blocks of two rows, so that the lowest number need not be the topmost object.
    flat = objects.ravel()
    return int(flat[(areas[flat] == areas.max()).argmax()])


def _prevailing_neighbours(parts: NDArray[np.int32], codes: Pixels, count: int) -> Pixels:
    """The class that most edges of each part 0, 1, ... `count` - 1 lead to, among foreground; 0 where none does."""
    classes = int(codes.max()) + 1
    votes = np.zeros(count * classes, np.int64)
    for here, there in _both_ways(parts, codes):
        votes += np.bincount((here.astype(np.int64) * classes + there).ravel(), minlength=len(votes))
    by_part = votes.reshape(count, classes)
    by_part[:, 0] = 0
    prevailing: Pixels = by_part.argmax(axis=1).astype(np.uint8)
    return prevailing


def _both_ways(parts: NDArray[np.int32], codes: Pixels) -> list[tuple[NDArray[np.int32], Pixels]]:
    """Parts and, in the same place, the codes of their neighbours above, below, left and right."""
    return [
        (parts[1:], codes[:-1]),
        (parts[:-1], codes[1:]),
        (parts[:, 1:], codes[:, :-1]),
        (parts[:, :-1], codes[:, 1:]),
    ]
