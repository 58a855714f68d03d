"""Detection of objects: connected components of prediction and truth, matched by IoU."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from medseg.metrics.overlap import Mask

Labels = NDArray[np.int32]

MATCH = 0.5  # a match has a greater IoU


def object_scores(prediction: Mask, truth: Mask) -> dict[str, float]:
    """`match_objects` for the objects of two (H, W) masks; what is not 0 is foreground.

    An object is an 8-connected component, so objects that touch are one.
    """
    return match_objects(_label(prediction), _label(truth))


def match_objects(found: Labels, true: Labels) -> dict[str, float]:
    """Scores of predicted against true objects, matched where their IoU is more than `MATCH`.

    `found` and `true`: (H, W) int32, 0 background, 1, 2, ... without gaps the objects. Matches are unique, because more
    than half of the pixels of both are shared (Kirillov et al., "Panoptic segmentation", CVPR 2019, section 4.1).

    - objects, objects_found: their number in the truth and in the prediction;
    - objects_detected, objects_missed: true objects with a match and without (false negatives);
    - objects_false: predicted objects without a match (false positives);
    - objects_f1: 2 detected / (objects + found), 0..1. NaN where there are neither true nor predicted objects, 0 where
      there are only true or only predicted ones;
    - objects_iou: mean IoU of the matches, over 0.5 and up to 1, NaN without a match; objects_f1 times it is panoptic
      quality;
    - objects_error: found - objects.
    """
    found_areas, true_areas = _areas(found), _areas(true)
    overlaps = _overlaps(found, found_areas, true, true_areas)
    matched = overlaps[overlaps > MATCH]
    objects, predicted, detected = len(true_areas), len(found_areas), len(matched)
    return {
        "objects": objects,
        "objects_found": predicted,
        "objects_detected": detected,
        "objects_missed": objects - detected,
        "objects_false": predicted - detected,
        "objects_f1": 2 * detected / (objects + predicted) if objects + predicted else float("nan"),
        "objects_iou": float(matched.mean()) if detected else float("nan"),
        "objects_error": predicted - objects,
    }


def _label(mask: Mask) -> Labels:
    labels: Labels = ndimage.label(mask, structure=np.ones((3, 3)))[0]
    return labels


def _areas(labels: Labels) -> NDArray[np.intp]:
    return np.bincount(labels.ravel())[1:]


def _overlaps(
    found: Labels, found_areas: NDArray[np.intp], true: Labels, true_areas: NDArray[np.intp]
) -> NDArray[np.float64]:
    """IoU of each pair of a found and a true object that share a pixel, (pairs,)."""
    both = (found > 0) & (true > 0)
    shared = np.ones(int(both.sum()), np.int64), (found[both] - 1, true[both] - 1)
    # Compressing the matrix sums equal pairs without sorting the pixels.
    pairs = sparse.coo_array(shared, (len(found_areas), len(true_areas))).tocsr().tocoo()
    overlaps: NDArray[np.float64] = pairs.data / (found_areas[pairs.row] + true_areas[pairs.col] - pairs.data)
    return overlaps
