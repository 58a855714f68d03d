"""Augmentation: random variants of training samples, each from a random stream of its own.

The stream of a written variant is seeded by (augment.seed, sample, variant), so each variant can be reproduced alone,
and any number of workers writes the same bytes. Variants drawn during training are seeded by the epoch, too.
"""

import os
import random
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or it asks the network for its newest version at import
if "torch" not in sys.modules:
    sys.modules["torch"] = None  # type: ignore[assignment]  # takes seconds to import, for a conversion that is not used
import albumentations as A  # noqa: N812

if sys.modules["torch"] is None:
    del sys.modules["torch"]

from medseg.core.errors import UserError
from medseg.core.parallel import MachineParams, run_parallel
from medseg.core.params import Section, Seed
from medseg.data.image_io import Pixels
from medseg.data.packed import create_arrays, describe_arrays, open_arrays, open_packed, sample_writer

Probability = Annotated[float, Field(ge=0, le=1)]

_MIRROR = cv2.BORDER_REFLECT_101
_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
_CHUNK = 64  # samples per task at most: enough to hide the cost of starting it
_CHUNK_BYTES = 16 * 2**20  # of a task's output, which is held in memory until it is written


class Rotate(Section):
    """Rotation about the centre; corners are filled by reflection."""

    p: Probability
    degrees: float = Field(ge=0, le=180)  # drawn from -degrees to +degrees


class Scaling(Section):
    """Zooming in and out about the centre."""

    p: Probability
    share: float = Field(ge=0, lt=1)  # drawn from 1 - share to 1 + share


class Elastic(Section):
    """Smooth random deformation (Simard et al., ICDAR 2003): noise within -1..1, smoothed by `sigma`, times `alpha`.

    Smoothing removes most of the noise: pixels move by about alpha / (15 sigma) (root mean square along each axis), so
    alpha = 10 sigma^2 is a strong deformation, and alpha = 30 with sigma = 6 moves pixels by a third of a pixel.
    """

    p: Probability
    alpha: float = Field(gt=0, le=1e5)  # factor, pixels
    sigma: float = Field(ge=1, le=100)  # standard deviation of the smoothing, pixels


class BrightnessContrast(Section):
    """Brightness and contrast, each changed by up to its share."""

    p: Probability
    brightness: float = Field(ge=0, le=1)
    contrast: float = Field(ge=0, le=1)


class Gamma(Section):
    """Gamma correction."""

    p: Probability
    percent: int = Field(ge=1, le=99)  # drawn from 100 - percent to 100 + percent


class Noise(Section):
    """Additive Gaussian noise."""

    p: Probability
    deviation: float = Field(ge=0, le=1)  # the largest standard deviation, as a share of 255


class Blur(Section):
    """Gaussian blur."""

    p: Probability
    sigma: float = Field(ge=0.1, le=16)  # the largest standard deviation, pixels


class Transforms(Section):
    """The transforms and their probabilities; also the section `online`, which is drawn anew in every epoch."""

    horizontal_flip: Probability
    vertical_flip: Probability
    quarter_turns: Probability
    rotate: Rotate
    scale: Scaling
    elastic: Elastic
    brightness_contrast: BrightnessContrast
    gamma: Gamma
    gaussian_noise: Noise
    blur: Blur


class AugmentParams(Transforms):
    """The section `augment`: how many variants of each training sample are written, and their transforms."""

    seed: Seed
    factor: int = Field(ge=1, le=100)  # rows per sample; variant 0 is the sample as it was


def is_active(params: Transforms) -> bool:
    """Whether any transform has a probability above 0."""
    values = (getattr(params, name) for name in Transforms.model_fields)
    return any((value if isinstance(value, float) else value.p) > 0 for value in values)


def check_shape(params: Transforms, section: str, height: int, width: int) -> None:
    """Raise `UserError` where quarter turns are asked for and the samples are not square."""
    if params.quarter_turns > 0 and height != width:
        raise UserError(
            f"params.yaml: {section}.quarter_turns = {params.quarter_turns}: must be 0 for samples that are not square "
            f"({width}x{height})"
        )


def _warp(pixels: Pixels, matrix: NDArray[np.float64], interpolation: int) -> Pixels:
    """Warp (H, W[, C]) by a (3, 3) matrix, bit for bit as albumentations does.

    Its own checks (`np.allclose` with the identity, images of many channels) take longer than warping a patch.
    """
    if all(
        abs(value - one) <= 1e-8 + 1e-5 * one for value, one in zip(matrix.ravel().tolist(), _IDENTITY, strict=True)
    ):
        return pixels
    size = (pixels.shape[1], pixels.shape[0])
    warped: Pixels = cv2.warpAffine(pixels, matrix[:2], size, flags=interpolation, borderMode=_MIRROR)  # type: ignore[assignment]
    return warped.reshape(pixels.shape)


def _matrix(shape: Sequence[int], angle: float, scale: float) -> NDArray[np.float64]:
    """The (3, 3) matrix of a rotation by `angle` degrees and a scaling about the centre, bit for bit albumentations'.

    It multiplies six such matrices, most of them the identity, and does so again for bounding boxes.
    """
    x, y = shape[1] / 2 - 0.5, shape[0] / 2 - 0.5
    turn = np.deg2rad(angle % 360)
    cosine, sine = np.cos(turn) * scale, np.sin(turn) * scale
    about = np.array([[cosine, sine, x], [-sine, cosine, y], [0, 0, 1]])
    matrix: NDArray[np.float64] = about @ np.array([[1, 0, -x], [0, 1, -y], [0, 0, 1]])
    return matrix


class _Rotate(A.Rotate):  # type: ignore[misc]  # albumentations has no types here
    def get_params_dependent_on_data(self, params: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {"matrix": _matrix(params["shape"], self.py_random.uniform(*self.limit), 1.0)}

    def apply(self, img: Pixels, matrix: NDArray[np.float64], **_: Any) -> Pixels:
        return _warp(img, matrix, self.interpolation)

    def apply_to_mask(self, mask: Pixels, matrix: NDArray[np.float64], **_: Any) -> Pixels:
        return _warp(mask, matrix, self.mask_interpolation)


class _Zoom(A.Affine):  # type: ignore[misc]  # albumentations has no types here
    """`Affine` reduced to one scale for both axes."""

    def get_params_dependent_on_data(self, params: dict[str, Any], **_: Any) -> dict[str, Any]:
        self._get_translate_params(
            params["shape"][:2]
        )  # unused, but this and the next line draw before the scale is drawn
        self._get_shear_params()
        return {"matrix": _matrix(params["shape"], 0.0, self.py_random.uniform(*self.scale["x"]))}

    def apply(self, img: Pixels, matrix: NDArray[np.float64], **_: Any) -> Pixels:
        return _warp(img, matrix, self.interpolation)

    def apply_to_mask(self, mask: Pixels, matrix: NDArray[np.float64], **_: Any) -> Pixels:
        return _warp(mask, matrix, self.mask_interpolation)


def build_transform(params: Transforms) -> A.Compose:
    """The transforms in the order in which they are applied: geometric ones, then those of pixel values.

    Those of probability 0 are in it, too: a transform's place decides its random stream, so that turning one off
    leaves the draws of the others unchanged.
    """
    steps = [
        A.HorizontalFlip(p=params.horizontal_flip),
        A.VerticalFlip(p=params.vertical_flip),
        A.RandomRotate90(p=params.quarter_turns),
        _Rotate(limit=params.rotate.degrees, border_mode=_MIRROR, p=params.rotate.p),
        _Zoom(
            scale=(1 - params.scale.share, 1 + params.scale.share),
            keep_ratio=True,
            border_mode=_MIRROR,
            p=params.scale.p,
        ),
        A.ElasticTransform(
            alpha=params.elastic.alpha, sigma=params.elastic.sigma, border_mode=_MIRROR, p=params.elastic.p
        ),
        A.RandomBrightnessContrast(
            brightness_limit=params.brightness_contrast.brightness,
            contrast_limit=params.brightness_contrast.contrast,
            p=params.brightness_contrast.p,
        ),
        A.RandomGamma(gamma_limit=(100 - params.gamma.percent, 100 + params.gamma.percent), p=params.gamma.p),
        A.GaussNoise(std_range=(0, params.gaussian_noise.deviation), p=params.gaussian_noise.p),
        A.GaussianBlur(blur_limit=0, sigma_limit=(0.1, params.blur.sigma), p=params.blur.p),
    ]
    return A.Compose(steps)


def vary(transform: A.Compose, image: Pixels, mask: Pixels, stream: Sequence[int]) -> tuple[Pixels, Pixels]:
    """Transform an image (H, W, C) and its mask (H, W), both uint8, and keep their shapes.

    `stream` seeds the random stream: equal numbers give equal results.
    """
    # Compose.set_random_seed would give every transform the same seed, hence the same first draw: transforms of equal
    # probability would all act or none would.
    states = np.random.SeedSequence(stream).generate_state(len(transform.transforms))
    # As Compose calls the steps, but steps that do not act are skipped and generators are made on demand: on a patch,
    # both would cost half as much as the transforms themselves.
    data = {"image": image, "mask": mask}
    for step, state in zip(transform.transforms, states.tolist(), strict=True):
        if step.p > 0:
            step.py_random = random.Random(state)
            if step.should_apply():
                step.random_generator = _LateGenerator(state)
                data = step(**data, force_apply=True)
    return data["image"].reshape(image.shape), data["mask"]


class _LateGenerator:
    """`np.random.default_rng(state)`, made at its first use: few steps use it."""

    def __init__(self, state: int) -> None:
        self._state = state

    def __getattr__(self, name: str) -> Any:
        if name == "_generator":
            self._generator = np.random.default_rng(self._state)
            return self._generator
        return getattr(self._generator, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._state,)


def make_variant(
    transform: A.Compose, image: Pixels, mask: Pixels, seed: int, sample: int, variant: int
) -> tuple[Pixels, Pixels]:
    """Variant number `variant` of an image (H, W, C) and its mask (H, W), uint8, same shapes; 0 is the original."""
    if variant == 0:
        return image, mask
    return vary(transform, image, mask, (seed, sample, variant))


def augment(prepared: Path, params: AugmentParams, machine: MachineParams, folder: Path) -> None:
    """Write `factor` variants of every sample in `prepared` to packed arrays in `folder`, those of a sample in a row.

    Raises `UserError` where the prepared arrays are incomplete, or where there are quarter turns and samples are not
    square.
    """
    store = open_packed(prepared)
    count, height, width, channels = store.images.shape
    check_shape(params, "augment", height, width)
    create_arrays(folder, count * params.factor, height, width, channels)
    size = max(1, min(_CHUNK, _CHUNK_BYTES // (params.factor * height * width * (channels + 1))))
    chunks = [range(first, min(first + size, count)) for first in range(0, count, size)]
    work = partial(_write_variants, prepared=prepared.absolute(), params=params, folder=folder.absolute())
    run_parallel(machine, work, chunks, "augment")
    index = store.index.loc[np.repeat(np.arange(count), params.factor)].reset_index(drop=True)
    index["variant"] = np.tile(np.arange(params.factor), count)
    describe_arrays(folder, pd.DataFrame(index), store.geometry, store.intensity, store.warnings)


def _write_variants(samples: range, prepared: Path, params: AugmentParams, folder: Path) -> None:
    sources = open_arrays(prepared)
    images, masks = (np.empty((len(samples) * params.factor, *part.shape[1:]), np.uint8) for part in sources)
    transform = build_transform(params)  # one per task: its random state must not be shared
    for row in range(len(images)):
        sample, variant = divmod(samples.start * params.factor + row, params.factor)
        image, mask = (np.asarray(part[sample]) for part in sources)
        images[row], masks[row] = make_variant(transform, image, mask, params.seed, sample, variant)
    with sample_writer(folder) as write:
        write(samples.start * params.factor, images, masks)
