"""Predictors without a network."""

import numpy as np

from medseg.data.geometry import Patchify
from medseg.data.image_io import Pixels
from medseg.inference.postprocess import Probabilities
from medseg.models.params import UnetPlain

PLAIN = UnetPlain(name="unet_plain", init_features=2, input_mean=[0.5], input_std=[0.5])


def bright(pixels: Pixels) -> Probabilities:
    """Foreground where the first channel is bright."""
    return np.moveaxis(pixels[..., :1], -1, 1).astype(np.float32) / np.float32(255)


TILES = Patchify(name="patchify", channels=1, patch=32, stride=16, border="pad")
