"""Reliability curve and expected calibration error (ECE) over pixels.

Far from any object every network is confident and right, and these pixels are the majority: over all of them ECE is
near 0, however badly calibrated the network is at objects. So only pixels in and around objects, annotated or
predicted, are counted.
"""

import math

import numpy as np
from numpy.typing import NDArray

from medseg.metrics.distances import distance_to_background
from medseg.metrics.overlap import Mask

BAND = 0.02  # width of the band around objects, as a share of the image's diagonal


class Calibration:
    """Foreground probabilities against the truth, pooled over the pixels of many images, in bins of equal width."""

    def __init__(self, bins: int) -> None:
        """Bin i in 1..`bins` holds probabilities p with (i-1)/bins < p <= i/bins; the first also holds 0."""
        # Compared as the probabilities are, in single precision: 0.2 must not leave the bin that ends at 0.2.
        self._inner_edges = np.linspace(0, 1, bins + 1)[1:-1].astype(np.float32)
        self.pixels = np.zeros(bins, np.int64)
        self.foreground = np.zeros(bins, np.int64)
        self.probability = np.zeros(bins, np.float64)  # summed

    def add(self, probabilities: NDArray[np.float32], truth: Mask, region: Mask) -> None:
        """Add the pixels of one image for which `region` is not 0: probabilities 0..1, truth 0 or 1, all of one shape.

        `object_surroundings` gives a region without plain background.
        """
        inside = region.astype(bool)
        chosen, true = probabilities[inside], truth[inside].astype(bool)
        codes = np.searchsorted(self._inner_edges, chosen, side="left")
        bins = len(self.pixels)
        self.pixels += np.bincount(codes, minlength=bins)
        self.foreground += np.bincount(codes[true], minlength=bins)
        self.probability += np.bincount(codes, chosen.astype(np.float64), minlength=bins)

    def curve(self) -> list[dict[str, float]]:
        """One row per non-empty bin, in ascending order.

        confidence: mean probability, 0..1; observed: share of foreground in the truth, 0..1; pixels: their number.
        Perfect calibration is confidence = observed.
        """
        return [
            {"confidence": float(summed / pixels), "observed": float(true / pixels), "pixels": int(pixels)}
            for summed, true, pixels in zip(self.probability, self.foreground, self.pixels, strict=True)
            if pixels
        ]

    def ece(self) -> float:
        """The expected calibration error, 0..1: the mean over pixels of |confidence - observed| of their bin.

        Naeini et al., AAAI 2015, with the probability of foreground as the confidence, as for a binary classifier.
        NaN without any pixel.
        """
        total = int(self.pixels.sum())
        if total == 0:
            return float("nan")
        return float(np.abs(self.probability - self.foreground).sum() / total)


def object_surroundings(predicted: Mask, truth: Mask) -> NDArray[np.bool_]:
    """The pixels (H, W) of predicted and true foreground, and those within `BAND` of the diagonal (at least 1 pixel).

    Both masks are (H, W), already cropped to the annotated region; what is not 0 is foreground. Where both are empty
    no pixel is in it.
    """
    objects: NDArray[np.bool_] = predicted.astype(bool) | truth.astype(bool)
    if not objects.any():
        return objects
    near: NDArray[np.bool_] = distance_to_background(~objects) <= max(1.0, BAND * math.hypot(*objects.shape))
    return near
