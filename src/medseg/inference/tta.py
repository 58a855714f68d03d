"""Test-time augmentation: an image predicted in several orientations, turned back and averaged."""

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
    """One of the eight ways to hold an image: mirrored left to right or not, then turned counter-clockwise."""

    quarter_turns: int
    mirrored: bool


_ALL = tuple(Orientation(turns, mirrored) for turns in (0, 2, 1, 3) for mirrored in (False, True))


@dataclass(frozen=True)
class Averaged:
    """What test-time augmentation makes of one image.

    - probabilities: (K, H, W) float32, the mean over the orientations, in 0..1;
    - deviation: (H, W) float32, the standard deviation over the orientations of the foreground probability, in 0..0.5:
      where the network contradicts itself. All 0 where there is one orientation.
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
) -> Averaged:
    """`sliding_window.predict_image` on an image in several orientations, turned back and averaged."""
    ways = orientations(augmentation, geometry)
    return average(lambda held: predict_image(forward, held, geometry, overlap, batch_size, size), image, ways)


def orientations(augmentation: Augmentation, geometry: Geometry) -> tuple[Orientation, ...]:
    """The ways to hold an image that test-time augmentation averages over, upright first.

    `mirror` are two: upright and mirrored left to right, for images that have an upper side. `flips` are four: these
    two, and both top to bottom. `flips_and_turns` are all eight, but where images are resized to a frame that is not
    square: turned ones would have another scale or shape in it than in training, so it is the four flips there.
    """
    if augmentation in ("none", "mirror"):
        return _ALL[: 1 if augmentation == "none" else 2]
    squeezes = isinstance(geometry, Resize) and geometry.height != geometry.width
    return _ALL[:4] if augmentation == "flips" or squeezes else _ALL


def average(predictor: Callable[[Pixels], Probabilities], image: Pixels, ways: Sequence[Orientation]) -> Averaged:
    """The mean and deviation of what `predictor` makes of an image (H, W, C) held in each of the `ways`.

    The image is turned at its own resolution, not the network's input: so padding lies below and to the right, as
    in training, the seams of tiles fall elsewhere in each orientation, and, as whole pixels change places, turning
    back is exact. Whatever the number of ways, two sums are held beside the prediction at hand; of one way none.
    """
    first = turned_back(predictor(oriented(image, ways[0])), ways[0])
    if len(ways) == 1:
        return Averaged(first, np.zeros(first.shape[1:], np.float32))
    # Of channel 0, be it background or foreground: the other one's deviation is the same.
    mean, squares = first.astype(np.float64), np.square(first[0], dtype=np.float64)
    for way in ways[1:]:
        probabilities = turned_back(predictor(oriented(image, way)), way)
        mean += probabilities
        squares += np.square(probabilities[0], dtype=np.float64)
    mean /= len(ways)
    squares /= len(ways)
    deviation = np.sqrt(np.maximum(squares - mean[0] ** 2, 0))
    return Averaged(mean.astype(np.float32), deviation.astype(np.float32))


def oriented(image: Pixels, way: Orientation) -> Pixels:
    """Hold an image (H, W, C) another way: mirrored left to right if so, then turned counter-clockwise."""
    mirrored = image[:, ::-1] if way.mirrored else image
    return np.ascontiguousarray(np.rot90(mirrored, way.quarter_turns))


def turned_back(planes: Probabilities, way: Orientation) -> Probabilities:
    """The inverse of `oriented` for (K, H, W)."""
    upright = np.rot90(planes, -way.quarter_turns, axes=(1, 2))
    return np.ascontiguousarray(upright[:, :, ::-1] if way.mirrored else upright)
