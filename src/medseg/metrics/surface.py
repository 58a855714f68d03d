"""Distances between the boundaries of two masks: HD95, ASSD and NSD.

Definitions differ between tools, and so do their numbers (Podobnik and Vrtovec, "Understanding implementation pitfalls
of distance-based metrics for image segmentation", arXiv:2410.02630). To be comparable with published scores, each
equals that of one widely used tool: HD95 and ASSD are those of medpy, NSD that of DeepMind's surface-distance. Both
take everything beyond the edge of an image as background, so an object that the edge cuts has a boundary there.

A missed image, in which no annotated pixel was found, has the worst value of each: the diagonal and 0. Neither tool has
a number where nothing is predicted (medpy raises an error), and "Metrics reloaded" (Maier-Hein et al., Nature Methods
2024) takes the worst possible value there. The same holds here where all that is predicted lies beside the truth, much
as a missed lesion takes the diagonal of the volume, 374, in BraTS 2023 (Moawad et al., arXiv:2306.00838): else one
stray pixel would score better than an empty prediction. So a prediction beside a thin truth, however near, is a miss
too, and there alone the numbers differ from those tools'.
"""

import math

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.spatial import cKDTree

from medseg.core.params import Section
from medseg.metrics.overlap import Mask

SURFACE_SCORES = ("hd95", "assd", "nsd", "nsd_relative")

_SLANT = math.sqrt(0.5)
# Length of the outline in a window of 2 x 2 pixels, by 8 * top left + 4 * top right + 2 * bottom left + bottom right: a
# slant cuts off a single pixel, two of them where both diagonals are of one kind, a straight piece parts two and two.
_LENGTHS = np.array(
    [0, _SLANT, _SLANT, 1, _SLANT, 1, 2 * _SLANT, _SLANT, _SLANT, 2 * _SLANT, 1, _SLANT, 1, _SLANT, _SLANT, 0]
)


class Tolerance(Section):
    """The tolerances of the normalised surface Dice."""

    pixels: float = Field(ge=0, le=10_000)
    diagonal: float = Field(ge=0, le=1)  # as a share of the diagonal of the masks


def surface_scores(prediction: Mask, truth: Mask, tolerance: Tolerance) -> dict[str, float]:
    """HD95 and ASSD in pixels and NSD, 0..1, at two tolerances, of two (H, W) masks; what is not 0 is foreground.

    - hd95, assd: 95th percentile and mean of the distances, those of both directions pooled, from each boundary pixel
      of one mask to the nearest of the other. A boundary pixel is foreground with background above, below, left or
      right of it. As medpy's `hd95` and `assd`; other tools take the greater of the two directions' percentiles.
    - nsd: share of the length of both outlines that lies no farther than `tolerance.pixels` from the other outline, 1
      at best. Outlines run between the pixels, in pieces that pass the corners of pixels; lengths belong to
      pieces, distances to corners. As surface-distance's `compute_surface_dice_at_tolerance` with spacing 1 (Nikolov
      et al., "Deep learning to achieve clinically applicable segmentation of head and neck anatomy for radiotherapy",
      arXiv:1809.04430).
    - nsd_relative: the same with `tolerance.diagonal` times sqrt(H^2 + W^2) pixels.

    Where the truth is empty, all are NaN. Where the masks share no pixel, the prediction being empty or not, hd95 and
    assd are the diagonal of the masks, sqrt(H^2 + W^2), which exceeds every distance between two pixels, and both nsd
    are 0.
    """
    if not truth.any():
        return dict.fromkeys(SURFACE_SCORES, float("nan"))
    diagonal = math.hypot(*truth.shape)
    if not ((prediction != 0) & (truth != 0)).any():
        return {"hd95": diagonal, "assd": diagonal, "nsd": 0.0, "nsd_relative": 0.0}
    predicted, true = _crop(prediction, truth)
    distances = np.concatenate(_both_ways(_boundary(predicted), _boundary(true)))
    return {
        "hd95": float(np.percentile(distances, 95)),
        "assd": float(distances.mean()),
        **_surface_dices(predicted, true, {"nsd": tolerance.pixels, "nsd_relative": tolerance.diagonal * diagonal}),
    }


def _crop(prediction: Mask, truth: Mask) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Both masks in the smallest box that holds both, with one pixel of background around it."""
    union = (prediction != 0) | (truth != 0)
    spans = (np.flatnonzero(union.any(axis=axis)) for axis in (1, 0))
    box = tuple(slice(span[0], span[-1] + 1) for span in spans)
    return np.pad(prediction[box] != 0, 1), np.pad(truth[box] != 0, 1)


def _boundary(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Row and column, (N, 2), of each boundary pixel of a mask whose outermost pixels are background."""
    inner = mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    return np.argwhere(mask[1:-1, 1:-1] & ~inner)


def _both_ways(first: NDArray[np.intp], second: NDArray[np.intp]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances from the points of each set, (N, 2), to the nearest of the other, (N,).

    By k-d trees: a distance transform would visit every pixel, and few of them are boundary.
    """
    # For points of a grid, balancing takes longer than it saves.
    trees = (cKDTree(points, balanced_tree=False, compact_nodes=False) for points in (second, first))
    return next(trees).query(first)[0], next(trees).query(second)[0]


def _surface_dices(
    prediction: NDArray[np.bool_], truth: NDArray[np.bool_], tolerances: dict[str, float]
) -> dict[str, float]:
    (predicted, predicted_lengths), (true, true_lengths) = _outline(prediction), _outline(truth)
    distances = np.concatenate(_both_ways(predicted, true))
    lengths = np.concatenate([predicted_lengths, true_lengths])
    total = lengths.sum()
    return {name: float(lengths[distances <= pixels].sum() / total) for name, pixels in tolerances.items()}


def _outline(mask: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The corners of pixels that the outline passes, (N, 2), and the lengths of its pieces there, (N,)."""
    bits = mask.astype(np.uint8)
    codes = 8 * bits[:-1, :-1] + 4 * bits[:-1, 1:] + 2 * bits[1:, :-1] + bits[1:, 1:]
    corners = np.argwhere((codes > 0) & (codes < 15))
    return corners, _LENGTHS[codes[tuple(corners.T)]]
