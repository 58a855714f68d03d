"""Overlap of two masks, per image and pooled: Dice, IoU, precision, recall, specificity, accuracy.

Empty truths follow Maier-Hein et al., "Metrics reloaded", Nature Methods 2024: undefined scores are NaN and counted,
and a missed object scores 0.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.data.image_io import Pixels

Mask = NDArray[np.uint8 | np.bool_]


@dataclass(frozen=True)
class Counts:
    """The confusion matrix of a prediction against a truth, in pixels."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    def __add__(self, other: "Counts") -> "Counts":
        """Pool two images."""
        return Counts(
            self.true_positives + other.true_positives,
            self.false_positives + other.false_positives,
            self.false_negatives + other.false_negatives,
            self.true_negatives + other.true_negatives,
        )


def count_pixels(prediction: Mask, truth: Mask) -> Counts:
    """Count the pixels of two masks of equal shape; what is not 0 is foreground."""
    predicted, true = prediction.astype(bool), truth.astype(bool)
    return Counts(
        int((predicted & true).sum()),
        int((predicted & ~true).sum()),
        int((~predicted & true).sum()),
        int((~predicted & ~true).sum()),
    )


def count_classes(prediction: Pixels, truth: Pixels, classes: int) -> list[Counts]:
    """Count the pixels of each class 1, 2, ... `classes` in two maps of codes, all other codes taken as background."""
    return [count_pixels(prediction == code, truth == code) for code in range(1, classes + 1)]


def prevailing_class(codes: Pixels) -> int:
    """The code 1, 2, ... that most pixels have, the lowest of equally frequent ones; 0 where all are 0."""
    areas = np.bincount(codes.ravel())[1:]
    return 1 + int(areas.argmax()) if areas.any() else 0


def overlap_scores(counts: Counts) -> dict[str, float]:
    """Dice, IoU, precision, recall, specificity and accuracy, each 0..1, and the relative error of the area.

    `area_error` is (predicted area - true area) / true area: -1 where nothing was predicted, 0 for equal areas.
    Where the truth is empty, Dice, IoU, precision, recall and `area_error` are NaN. Where nothing of a truth is found,
    the first four are 0, precision too. Specificity is NaN where the truth has no background.
    """
    tp, fp, fn, tn = vars(counts).values()
    true, background = tp + fn, fp + tn
    return {
        "dice": _ratio(2 * tp, 2 * tp + fp + fn, true),
        "iou": _ratio(tp, tp + fp + fn, true),
        "precision": _ratio(tp, max(1, tp + fp), true),
        "recall": _ratio(tp, true, true),
        "specificity": _ratio(tn, background, background),
        "accuracy": (tp + tn) / (true + background),
        "area_error": _ratio(fp - fn, true, true),
    }


def _ratio(part: int, whole: int, pixels: int) -> float:
    """part / whole, or NaN where the score has no pixels to be computed over."""
    return part / whole if pixels else float("nan")
