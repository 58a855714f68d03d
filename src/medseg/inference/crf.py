"""The dense CRF of Krähenbühl and Koltun (NIPS 2011), which aligns probabilities with the edges of the image."""

import importlib
from types import ModuleType
from typing import Annotated

import numpy as np
from pydantic import Field

from medseg.core.errors import UserError
from medseg.core.params import Section
from medseg.data.image_io import Pixels, to_channels
from medseg.inference.postprocess import Probabilities

_GREATEST_COORDINATE = 2**15 - 1  # of the library's lattice
_MIN_PROBABILITY = 1e-5  # clips probabilities, so that the unary energy stays finite


# Beyond, the library ends the process (1e-6 pixels) or gives NaN (1e39).
Width = Annotated[float, Field(ge=0.5, le=10_000)]
Weight = Annotated[float, Field(ge=0, le=1000)]


class CrfParams(Section):
    """The two pairwise kernels (paper, equation 3) and the number of mean-field iterations."""

    iterations: int = Field(ge=1, le=100)
    gaussian_sigma: Width  # theta_gamma, pixels; smoothness kernel
    gaussian_weight: Weight  # w(2)
    bilateral_sigma: Width  # theta_alpha, pixels; appearance kernel
    bilateral_colour: Width  # theta_beta, grey levels of 0..255
    bilateral_weight: Weight  # w(1)


def apply_crf(probabilities: Probabilities, image: Pixels, params: CrfParams | None) -> Probabilities:
    """Refine probabilities (K, H, W) float32 in 0..1 of an image (H, W, 1 or 3) uint8; None returns them unchanged.

    The unary energy is -log p; for K = 1 the labels are background and foreground. Label compatibility is the Potts
    model. Both kernels are normalised symmetrically, as in the authors' later code, so that a weight means the same at
    any image size. Grey images are repeated to RGB.

    Raises `UserError` where pydensecrf2 is not installed, or where the image is too long for a kernel so narrow.
    """
    if params is None:
        return probabilities
    library = load_library()
    labels = np.concatenate([1 - probabilities, probabilities]) if len(probabilities) == 1 else probabilities
    count, height, width = labels.shape
    _check_reach("gaussian_sigma", params.gaussian_sigma, [width, height])
    _check_reach(
        "bilateral_sigma",
        params.bilateral_sigma,
        [width, height, *[255 * params.bilateral_sigma / params.bilateral_colour] * 3],
    )
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


def _check_reach(key: str, sigma: float, lengths: list[float]) -> None:
    """Raise `UserError` where the filter's lattice would need coordinates that its 16 bits do not hold.

    They are those of Adams, Baek and Davis (Eurographics 2010, section 3.1) for features from 0 to `lengths` / `sigma`;
    the library wraps greater ones around, so that far pixels count as near, and grows slow without end.
    """
    count = len(lengths)
    places = np.arange(1, count + 1)
    steps = np.array(lengths) / sigma * np.sqrt(2 / 3) * (count + 1) / np.sqrt(places * (places + 1))
    if max(steps.sum(), (places * steps).max()) + count >= _GREATEST_COORDINATE:
        raise UserError(
            f"params.yaml: evaluate.crf.{key} = {sigma}: too narrow for an image of {lengths[0]}x{lengths[1]} pixels; "
            "raise it, set evaluate.crf.use to never, or cut the image into several"
        )


def load_library() -> ModuleType:
    """Import pydensecrf, an optional dependency. Raises `UserError` where it is not installed."""
    try:
        return importlib.import_module("pydensecrf.densecrf")
    except ImportError as error:
        raise UserError(
            f"params.yaml: evaluate.crf.use: the package pydensecrf2 can't be imported ({error}); `make setup` "
            "installs it, and so does `pip install 'medseg[crf]'`, or set evaluate.crf.use to never"
        ) from error
