"""The dense conditional random field of Krähenbühl and Koltun (NIPS 2011): probabilities that follow the image."""

import importlib
from types import ModuleType

import numpy as np
from pydantic import Field

from medseg.core.errors import UserError
from medseg.core.params import Section
from medseg.data.image_io import Pixels, to_channels
from medseg.inference.postprocess import Probabilities

_LEAST = 1e-5  # probabilities are kept this far from 0, so that no pixel's energy is infinite


class CrfParams(Section):
    """Two kernels that ask pixels for one label (paper, equation 3), and how long they argue.

    The paper's names: theta_gamma and w(2) for the Gaussian kernel, theta_alpha, theta_beta and w(1) for the bilateral.
    """

    iterations: int = Field(ge=1, le=100)  # of mean-field inference
    gaussian_sigma: float = Field(gt=0)  # pixels; nearness alone
    gaussian_weight: float = Field(ge=0)
    bilateral_sigma: float = Field(gt=0)  # pixels; nearness of pixels that look alike
    bilateral_colour: float = Field(gt=0)  # grey levels of 0..255 in which pixels may differ and still look alike
    bilateral_weight: float = Field(ge=0)


def refine(probabilities: Probabilities, image: Pixels, params: CrfParams) -> Probabilities:
    """(K, H, W) of an image (H, W, 1 or 3) uint8 to what they become beside their neighbours, equally shaped, 0..1.

    The unary energy is -log of the probabilities, for K = 1 those of background and foreground. Labels are compatible
    by Potts' model, and the messages of both kernels are normalised symmetrically, as in the authors' later code,
    so that a weight means the same in images of any size. Grey images are taken as RGB, three times grey.

    Raises `UserError` where the package for it is not installed.
    """
    library = load_library()
    labels = np.concatenate([1 - probabilities, probabilities]) if len(probabilities) == 1 else probabilities
    count, height, width = labels.shape
    field = library.DenseCRF2D(width, height, count)
    energy = -np.log(np.clip(labels, _LEAST, 1))
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
    """The package that computes it, an extra of this project. Raises `UserError` where it is not installed."""
    try:
        return importlib.import_module("pydensecrf.densecrf")
    except ImportError as error:
        raise UserError(
            f"params.yaml: evaluate.crf.use: the package pydensecrf2 can't be imported ({error}); `make setup` "
            "installs it, and so does `pip install 'medseg[crf]'`, or set evaluate.crf.use to never"
        ) from error


def refined(probabilities: Probabilities, image: Pixels, crf: CrfParams | None) -> Probabilities:
    """Probabilities (K, H, W) of an image (H, W, 1 or 3) after the dense CRF, where there is one."""
    return probabilities if crf is None else refine(probabilities, image, crf)
