"""A trained network with all that turns what it says of an image into a mask: what `models/segmenter` holds.

Its `model.yaml` is the network's, and more. Nothing here loads PyTorch.
"""

from dataclasses import dataclass

import numpy as np

from medseg.core.errors import UserError
from medseg.data.image_io import Pixels
from medseg.inference.crf import refined
from medseg.inference.postprocess import Probabilities, postprocess
from medseg.inference.settings import Augmentation, Choices, SegmenterDescription
from medseg.inference.sliding_window import Forward
from medseg.inference.tta import Averaged, predict_augmented


@dataclass(frozen=True)
class Predictor:
    """A network that is ready to run, and its description."""

    description: SegmenterDescription
    forward: Forward
    size: tuple[int, int] | None = None  # the only height and width that `forward` takes; None: any


@dataclass(frozen=True)
class Segmented:
    """One image's probabilities (K, H, W) float32, after all that changes them, and its class codes (H, W) uint8."""

    probabilities: Probabilities
    codes: Pixels


def segment(segmenter: Predictor, image: Pixels, batch_size: int) -> Segmented:
    """An image (H, W, 1 or 3) uint8 of any size to its mask; at most `batch_size` tiles are predicted at a time."""
    choices = segmenter.description.chosen.choices
    averaged = predict(segmenter, image, batch_size, choices.test_time_augmentation)
    return finish(averaged.probabilities, image, choices)


def predict(segmenter: Predictor, image: Pixels, batch_size: int, augmentation: Augmentation) -> Averaged:
    """What the network alone says of an image (H, W, 1 or 3) uint8, averaged over orientations.

    Raises `UserError` where that is no number.
    """
    geometry, overlap = segmenter.description.geometry, segmenter.description.overlap
    averaged = predict_augmented(segmenter.forward, image, geometry, overlap, batch_size, augmentation, segmenter.size)
    if not np.isfinite(averaged.probabilities.sum(dtype=np.float64)):
        raise UserError("the network gives values that are no numbers: its weights are damaged")
    return averaged


def finish(probabilities: Probabilities, image: Pixels, choices: Choices) -> Segmented:
    """From the network's probabilities (K, H, W) of an image (H, W, 1 or 3) on: CRF, threshold, objects."""
    final = refined(probabilities, image, choices.crf)
    return Segmented(final, postprocess(final, choices.postprocess))
