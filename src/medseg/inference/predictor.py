"""From an image to its mask: the network, test-time augmentation, CRF, threshold and post-processing.

Nothing here imports PyTorch.
"""

from dataclasses import dataclass

import numpy as np

from medseg.core.errors import UserError
from medseg.data.image_io import Pixels
from medseg.inference.crf import apply_crf
from medseg.inference.postprocess import Probabilities, postprocess
from medseg.inference.settings import Augmentation, Choices, SegmenterDescription
from medseg.inference.sliding_window import Forward
from medseg.inference.tta import AugmentedPrediction, predict_augmented


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image: what its mask was made of, and the mask.

    - probabilities: (K, H, W) float32 in 0..1, after test-time augmentation and CRF; K = 1 is foreground, otherwise
      channel 0 is background;
    - codes: (H, W) uint8, the class codes; 0 is background.
    """

    probabilities: Probabilities
    codes: Pixels


@dataclass(frozen=True)
class Predictor:
    """A network that is ready to run, with its description (`model.yaml`)."""

    description: SegmenterDescription
    forward: Forward
    size: tuple[int, int] | None = None  # the only height and width that `forward` takes; None: any

    def predict(self, image: Pixels, batch_size: int) -> Prediction:
        """Predict an image (H, W, 1 or 3) uint8 of any size with the settings of its description.

        `forward` gets at most `batch_size` tiles at a time. Raises `UserError` as `predict_probabilities`.
        """
        choices = self.description.chosen.choices
        augmented = self.predict_probabilities(image, batch_size, choices.test_time_augmentation)
        return to_prediction(augmented.probabilities, image, choices)

    def predict_probabilities(self, image: Pixels, batch_size: int, augmentation: Augmentation) -> AugmentedPrediction:
        """The network's probabilities for an image (H, W, 1 or 3) uint8, before CRF and threshold.

        Raises `UserError` where the network gives NaN or infinity.
        """
        geometry, overlap = self.description.geometry, self.description.overlap
        augmented = predict_augmented(self.forward, image, geometry, overlap, batch_size, augmentation, self.size)
        if not np.isfinite(augmented.probabilities.sum(dtype=np.float64)):
            raise UserError("the network gives values that are no numbers: its weights are damaged")
        return augmented


def to_prediction(probabilities: Probabilities, image: Pixels, choices: Choices) -> Prediction:
    """Apply CRF, threshold and post-processing to the network's probabilities (K, H, W) of an image (H, W, 1 or 3)."""
    final = apply_crf(probabilities, image, choices.crf)
    return Prediction(final, postprocess(final, choices.postprocess))
