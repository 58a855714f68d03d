"""The precision-recall curve."""

import numpy as np
from numpy.typing import NDArray

from medseg.data.image_io import Pixels


class PrecisionRecall:
    """Precision and recall over thresholds, pooled over the pixels of many images."""

    def __init__(self, steps: int) -> None:
        """Thresholds are 0, 1/steps, ..., 1; a pixel is foreground where its probability is at least the threshold."""
        self.edges = np.linspace(0, 1, steps + 1)
        # Compared as the probabilities are, in single precision: 0.7 must not fall below the threshold 0.7.
        self._single = self.edges.astype(np.float32)
        self.foreground = np.zeros(steps + 1, np.int64)
        self.background = np.zeros(steps + 1, np.int64)

    def add(self, probabilities: NDArray[np.float32], truth: Pixels) -> None:
        """Add one image: probabilities 0..1 and truth 0 or 1 of one shape."""
        bins = np.searchsorted(self._single, probabilities, side="right") - 1
        true = truth.astype(bool)
        self.foreground += np.bincount(bins[true], minlength=len(self.edges))
        self.background += np.bincount(bins[~true], minlength=len(self.edges))

    def curve(self) -> list[dict[str, float]]:
        """One row per threshold: threshold, precision (1 where nothing is predicted), recall (0 without truth)."""
        true_positives = np.cumsum(self.foreground[::-1])[::-1]
        predicted = true_positives + np.cumsum(self.background[::-1])[::-1]
        precision = np.divide(true_positives, predicted, out=np.ones(len(predicted)), where=predicted > 0)
        recall = true_positives / max(1, true_positives[0])
        rows = zip(self.edges.tolist(), precision.tolist(), recall.tolist(), strict=True)
        return [dict(zip(("threshold", "precision", "recall"), row, strict=True)) for row in rows]
