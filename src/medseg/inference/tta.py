"""Test-time augmentation: the mean of predictions of an image flipped and rotated in several ways."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medseg.data.geometry import Geometry, Resize
from medseg.data.image_io import Pixels
from medseg.inference.postprocess import Probabilities
from medseg.inference.settings import Augmentation
from medseg.inference.sliding_window import Forward, predict_image


class Orientation(NamedTuple):
    """One of the eight symmetries of a square: mirrored left to right or not, then rotated counter-clockwise."""

    quarter_turns: int
    mirrored: bool


_ALL = tuple(Orientation(turns, mirrored) for turns in (0, 2, 1, 3) for mirrored in (False, True))


@dataclass(frozen=True)
class AugmentedPrediction:
    """The prediction of one image over several orientations.

    - probabilities: (K, H, W) float32 in 0..1, their mean;
    - deviation: (H, W) float32 in 0..0.5, the standard deviation of the foreground probability; 0 with one orientation.
    """

    probabilities: Probabilities
    deviation: NDArray[np.float32]


def predict_augmented(
    forward: Forward,
    image: Pixels,
    geometry: Geometry,
    overlap: float,
    batch_size: int,
    augmentation: Augmentation,
    size: tuple[int, int] | None = None,
) -> AugmentedPrediction:
    """`sliding_window.predict_image` with test-time augmentation."""

    def predict(oriented: Pixels) -> Probabilities:
        return predict_image(forward, oriented, geometry, overlap, batch_size, size)

    return average(predict, image, orientations(augmentation, geometry))


def orientations(augmentation: Augmentation, geometry: Geometry) -> tuple[Orientation, ...]:
    """The orientations that are averaged, the unchanged image first.

    - `none`: the image alone;
    - `mirror`: also mirrored left to right, for images with a fixed up and down;
    - `flips`: all four combinations of mirroring left to right and top to bottom;
    - `flips_and_turns`: all eight. Where images are resized to a frame that is not square it is `flips`: rotated
      images would be scaled or distorted otherwise than in training.
    """
    if augmentation in ("none", "mirror"):
        return _ALL[: 1 if augmentation == "none" else 2]
    is_oblong = isinstance(geometry, Resize) and geometry.height != geometry.width
    return _ALL[:4] if augmentation == "flips" or is_oblong else _ALL


def average(
    predict: Callable[[Pixels], Probabilities], image: Pixels, over: Sequence[Orientation]
) -> AugmentedPrediction:
    """Mean and standard deviation of the predictions of an image (H, W, C) in the orientations `over`.

    The image is reoriented at its own resolution, not at the network's input: so padding lies below and to the right,
    as in training, the borders of tiles fall elsewhere in each orientation, and the inverse is exact. Memory holds two
    sums beside the current prediction, however many orientations there are.
    """
    first = undo_orientation(predict(orient(image, over[0])), over[0])
    if len(over) == 1:
        return AugmentedPrediction(first, np.zeros(first.shape[1:], np.float32))
    # Of channel 0, which is foreground or background: both have the same deviation.
    mean, squares = first.astype(np.float64), np.square(first[0], dtype=np.float64)
    for orientation in over[1:]:
        probabilities = undo_orientation(predict(orient(image, orientation)), orientation)
        mean += probabilities
        squares += np.square(probabilities[0], dtype=np.float64)
    mean /= len(over)
    squares /= len(over)
    deviation = np.sqrt(np.maximum(squares - mean[0] ** 2, 0))
    return AugmentedPrediction(mean.astype(np.float32), deviation.astype(np.float32))


def orient(image: Pixels, orientation: Orientation) -> Pixels:
    """Mirror and rotate an image (H, W, C)."""
    mirrored = image[:, ::-1] if orientation.mirrored else image
    return np.ascontiguousarray(np.rot90(mirrored, orientation.quarter_turns))


def undo_orientation(probabilities: Probabilities, orientation: Orientation) -> Probabilities:
    """The inverse of `orient`, for (K, H, W)."""
    upright = np.rot90(probabilities, -orientation.quarter_turns, axes=(1, 2))
    return np.ascontiguousarray(upright[:, :, ::-1] if orientation.mirrored else upright)
