"""Calibration over pixels: reliability curve, expected calibration error (ECE), Brier score.

Which pixels count must follow from the prediction alone. Were they chosen by the truth as well (those of annotated
objects, say), true foreground would be more frequent among them than anybody said, and a network whose every
probability is right would be found wrong. Over all pixels, on the other hand, any network has an ECE near 0: most lie
far from any object, where it is certain and right, and how many these are depends on how images were cropped. So the
curve and the ECE are over the pixels in which foreground is not ruled out, those of a probability above `RULED_OUT`.
The others are not lost: `CalibrationErrors` tells how many of them are annotated, which is where a network misses what
it does not suspect, and the Brier score is over all pixels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.metrics.overlap import Mask

RULED_OUT = 0.01  # up to this probability foreground counts as ruled out


@dataclass(frozen=True)
class CalibrationErrors:
    """How far probabilities are from the truth, pooled over pixels; NaN where there is no pixel to tell it.

    - ece: the mean over the counted pixels of |mean probability - share of foreground in the truth| of their bin, 0..1
      (Naeini et al., AAAI 2015, with the probability of foreground as the confidence, as for a binary classifier);
    - brier: the mean over all pixels of (probability - truth)^2, 0..1 (Brier, Monthly Weather Review 78(1), 1950);
    - constant_brier: that of giving every pixel the share of foreground among all, the most that is worth anything;
    - counted: pixels whose probability is above `RULED_OUT`; ruled_out: the others;
    - ruled_out_probability, ruled_out_observed: of the latter, the mean probability and the share of foreground.
    """

    ece: float
    brier: float
    constant_brier: float
    counted: int
    ruled_out: int
    ruled_out_probability: float
    ruled_out_observed: float


class Calibration:
    """Probabilities against the truth, pooled over the pixels of many images, in bins of equal width.

    The first bin of the arrays holds the pixels that are ruled out; it is neither in the curve nor in the ECE.
    """

    def __init__(self, bins: int) -> None:
        """Bin i in 1..`bins` holds probabilities p with (i-1)/bins < p <= i/bins, above `RULED_OUT`."""
        # Compared as the probabilities are, in single precision: 0.2 must not leave the bin that ends at 0.2.
        self._lower_edges = np.array([RULED_OUT, *np.linspace(0, 1, bins + 1)[1:-1]], np.float32)
        self.pixels = np.zeros(bins + 1, np.int64)
        self.foreground = np.zeros(bins + 1, np.int64)
        self.probability = np.zeros(bins + 1, np.float64)  # summed
        self.squares = 0.0  # of probability - truth, summed

    def add(self, probabilities: NDArray[np.float32], truth: Mask) -> None:
        """Add the pixels of one image: probabilities 0..1, truth 0 or 1, both of one shape."""
        given, true = probabilities.ravel(), truth.ravel().astype(bool)
        codes = np.searchsorted(self._lower_edges, given, side="left")
        bins = len(self.pixels)
        self.pixels += np.bincount(codes, minlength=bins)
        self.foreground += np.bincount(codes[true], minlength=bins)
        self.probability += np.bincount(codes, given.astype(np.float64), minlength=bins)
        self.squares += float(np.square(given - true).sum(dtype=np.float64))

    def curve(self) -> list[dict[str, float]]:
        """One row per non-empty bin, in ascending order.

        confidence: mean probability, 0..1; observed: share of foreground in the truth, 0..1; pixels: their number.
        Perfect calibration is confidence = observed.
        """
        bins = zip(self.probability[1:], self.foreground[1:], self.pixels[1:], strict=True)
        return [
            {"confidence": float(summed / pixels), "observed": float(true / pixels), "pixels": int(pixels)}
            for summed, true, pixels in bins
            if pixels
        ]

    def errors(self) -> CalibrationErrors:
        """What the pixels so far amount to."""
        counted, ruled_out = int(self.pixels[1:].sum()), int(self.pixels[0])
        share = _ratio(int(self.foreground.sum()), counted + ruled_out)
        return CalibrationErrors(
            ece=_ratio(float(np.abs(self.probability - self.foreground)[1:].sum()), counted),
            brier=_ratio(self.squares, counted + ruled_out),
            constant_brier=share * (1 - share),
            counted=counted,
            ruled_out=ruled_out,
            ruled_out_probability=_ratio(float(self.probability[0]), ruled_out),
            ruled_out_observed=_ratio(int(self.foreground[0]), ruled_out),
        )


def not_ruled_out(probabilities: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where a probability of foreground, 0..1, is above `RULED_OUT`."""
    above: NDArray[np.bool_] = probabilities > np.float32(RULED_OUT)
    return above


def _ratio(part: float, whole: int) -> float:
    return part / whole if whole else float("nan")
