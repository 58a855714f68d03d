"""The dense CRF of Krähenbühl and Koltun (NIPS 2011), which aligns probabilities with the edges of the image."""

import importlib
from types import ModuleType

import numpy as np
from pydantic import Field

from medseg.core.errors import UserError
from medseg.core.params import Section
from medseg.data.image_io import Pixels, to_channels
from medseg.inference.postprocess import Probabilities

_MIN_PROBABILITY = 1e-5  # clips probabilities, so that the unary energy stays finite


class CrfParams(Section):
    """The two pairwise kernels (paper, equation 3) and the number of mean-field iterations."""

    iterations: int = Field(ge=1, le=100)
    gaussian_sigma: float = Field(gt=0)  # theta_gamma, pixels; smoothness kernel
    gaussian_weight: float = Field(ge=0)  # w(2)
    bilateral_sigma: float = Field(gt=0)  # theta_alpha, pixels; appearance kernel
    bilateral_colour: float = Field(gt=0)  # theta_beta, grey levels of 0..255
    bilateral_weight: float = Field(ge=0)  # w(1)


def apply_crf(probabilities: Probabilities, image: Pixels, params: CrfParams | None) -> Probabilities:
    """Refine probabilities (K, H, W) float32 in 0..1 of an image (H, W, 1 or 3) uint8; None returns them unchanged.

    The unary energy is -log p; for K = 1 the labels are background and foreground. Label compatibility is the Potts
    model. Both kernels are normalised symmetrically, as in the authors' later code, so that a weight means the same at
    any image size. Grey images are repeated to RGB.

    Raises `UserError` where pydensecrf2 is not installed.
    """
    if params is None:
        return probabilities
    library = load_library()
    labels = np.concatenate([1 - probabilities, probabilities]) if len(probabilities) == 1 else probabilities
    count, height, width = labels.shape
    field = library.DenseCRF2D(width, height, count)
    energy = -np.log(np.clip(labels, _MIN_PROBABILITY, 1))
    field.setUnaryEnergy(np.ascontiguousarray(energy.reshape(count, -1), np.float32))
    field.addPairwiseGaussian(sxy=params.gaussian_sigma, compat=params.gaussian_weight)
    field.addPairwiseBilateral(
        sxy=params.bilateral_sigma,
        srgb=params.bilateral_colour,
        rgbim=np.ascontiguousarray(to_channels(image, 3)),
        compat=params.bilateral_weight,
    )
    refined = np.array(field.inference(params.iterations), np.float32).reshape(labels.shape)
    return refined[1:] if len(probabilities) == 1 else refined


def load_library() -> ModuleType:
    """Import pydensecrf, an optional dependency. Raises `UserError` where it is not installed."""
    try:
        return importlib.import_module("pydensecrf.densecrf")
    except ImportError as error:
        raise UserError(
            f"params.yaml: evaluate.crf.use: the package pydensecrf2 can't be imported ({error}); `make setup` "
            "installs it, and so does `pip install 'medseg[crf]'`, or set evaluate.crf.use to never"
        ) from error
