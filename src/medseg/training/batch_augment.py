"""The transforms of the section `online`: applied to a whole batch at once, on any device, anew in every epoch.

Their parameters mean what they mean in `data/augment.py`, which transforms samples on disk one by one. All spatial
transforms are combined into one sampling grid, so pixels are interpolated once. The transform of a sample depends on
the seed, the epoch and the sample's position in the epoch alone, not on its batch or on the number of ranks. Flips,
angles and strengths are equal on all devices; noise and elastic deformation come from the device's own generator and
differ between GPU and CPU.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from medseg.data.augment import Elastic, Transforms

GREATEST_VALUE = 255.0
COLUMNS = (  # of the table of random numbers: each transform has its own, whether others are applied or not
    *("horizontal_flip", "vertical_flip", "quarter_turns", "turns", "rotate", "angle", "scale", "zoom"),
    *("elastic", "elastic_seed", "brightness_contrast", "brightness", "contrast", "gamma", "exponent"),
    *("gaussian_noise", "deviation", "noise_seed", "blur", "width"),
)
_PHILOX_NUMBERS = 4  # that the generator makes per step
_SEEDS = 2**53
_TRUNCATION = 3.0  # of Gaussians, standard deviations

Numbers = dict[str, NDArray[np.float64]]  # (N,) of each column, uniform in 0..1


def random_numbers(seed: int, epoch: int, first: int, count: int) -> Numbers:
    """Return the random numbers of `count` positions of an epoch, from `first` on, without drawing earlier ones."""
    bits = np.random.Philox(np.random.SeedSequence([seed, epoch]))
    bits.advance(first * len(COLUMNS) // _PHILOX_NUMBERS)
    return dict(zip(COLUMNS, np.random.Generator(bits).random((count, len(COLUMNS))).T, strict=True))


def augment_batch(pixels: Tensor, truth: Tensor, params: Transforms, numbers: Numbers) -> tuple[Tensor, Tensor]:
    """Transform a batch: pixels (N, C, H, W), 0..255, and truth (N, 1, H, W) of class codes, uint8, on one device.

    `numbers` are those of its N positions in the epoch. Returns pixels as float32, 0..255, not rounded, and truth as
    uint8. What a rotation or a smaller scale uncovers is filled by reflection.
    """
    images = pixels.float()
    spatial = (params.horizontal_flip, params.vertical_flip, params.quarter_turns)
    if any(p > 0 for p in (*spatial, params.rotate.p, params.scale.p, params.elastic.p)):
        images, truth = _warp(images, truth, params, numbers)
    images = _change_intensity(images, params, numbers)
    images = _add_noise(images, params, numbers)
    return _blur(images, params, numbers), truth


def _warp(images: Tensor, truth: Tensor, params: Transforms, numbers: Numbers) -> tuple[Tensor, Tensor]:
    height, width = images.shape[2:]
    y, x = (torch.arange(side, device=images.device) - (side - 1) / 2 for side in (height, width))
    positions = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1)
    positions = positions.expand(len(images), -1, -1, -1)
    if params.elastic.p > 0:
        positions = positions + _elastic_displacements(params.elastic, numbers, height, width, images.device)
    matrices = torch.from_numpy(_matrices(params, numbers)).float().to(images.device, non_blocking=True)
    sources = torch.einsum("nij,nhwj->nhwi", matrices, positions)  # pixels from the centre, x before y
    grid = 2 * sources / torch.tensor([width, height], device=images.device)
    bilinear = functional.grid_sample(images, grid, "bilinear", "reflection", align_corners=False)
    nearest = functional.grid_sample(truth.float(), grid, "nearest", "reflection", align_corners=False)
    return bilinear, nearest.to(truth.dtype)


def _matrices(params: Transforms, numbers: Numbers) -> NDArray[np.float64]:
    """Return (N, 2, 2): from output to input coordinates, relative to the centre."""
    flips = [
        np.where(numbers[name] < p, -1.0, 1.0)
        for name, p in (("horizontal_flip", params.horizontal_flip), ("vertical_flip", params.vertical_flip))
    ]
    turns = np.where(numbers["quarter_turns"] < params.quarter_turns, np.floor(4 * numbers["turns"]), 0)
    angles = np.where(numbers["rotate"] < params.rotate.p, _symmetric(numbers["angle"], params.rotate.degrees), 0)
    zooms = np.where(numbers["scale"] < params.scale.p, 1 + _symmetric(numbers["zoom"], params.scale.share), 1)
    radians = np.deg2rad(90 * turns + angles)
    # Quarter turns must map pixels to pixels: their sines and cosines are integers.
    cosines, sines = (np.where(angles == 0, np.round(f(radians)), f(radians)) for f in (np.cos, np.sin))
    rotations = np.stack([np.stack([cosines, -sines], -1), np.stack([sines, cosines], -1)], axis=-2)
    matrices: NDArray[np.float64] = np.stack(flips, axis=-1)[:, :, None] * rotations / zooms[:, None, None]
    return matrices


def _symmetric(numbers: NDArray[np.float64], limit: float) -> NDArray[np.float64]:
    """Map numbers in 0..1 to -limit..limit."""
    return (2 * numbers - 1) * limit


def _elastic_displacements(params: Elastic, numbers: Numbers, height: int, width: int, device: torch.device) -> Tensor:
    """Return (N, H, W, 2), pixels: smoothed noise of root mean square alpha / (15 sigma) along each axis."""
    fields = torch.zeros(len(numbers["elastic"]), height, width, 2, device=device)
    acting = np.flatnonzero(numbers["elastic"] < params.p)
    if len(acting):
        sigma, reach = torch.tensor([params.sigma], device=device), math.ceil(_TRUNCATION * params.sigma)
        down, right = (functional.normalize(_gaussian_matrices(sigma, side, reach), dim=2) for side in (height, width))
        noise = _noise(numbers["elastic_seed"][acting], (2, height + 2 * reach, width + 2 * reach), device)
        smooth = down @ noise @ right.mT  # of variance 1 like the noise, since rows are normalised
        fields[acting] = smooth.permute(0, 2, 3, 1) * (params.alpha / (15 * params.sigma))
    return fields


def _change_intensity(images: Tensor, params: Transforms, numbers: Numbers) -> Tensor:
    """Brightness and contrast, then gamma."""
    light = params.brightness_contrast
    if light.p > 0:
        acts = numbers["brightness_contrast"] < light.p
        factor = np.where(acts, 1 + _symmetric(numbers["contrast"], light.contrast), 1)
        shift = np.where(acts, GREATEST_VALUE * _symmetric(numbers["brightness"], light.brightness), 0)
        images = (images * _per_sample(images, factor) + _per_sample(images, shift)).clamp(0, GREATEST_VALUE)
    if params.gamma.p > 0:
        acts = numbers["gamma"] < params.gamma.p
        exponents = np.where(acts, 1 + _symmetric(numbers["exponent"], params.gamma.percent / 100), 1)
        images = GREATEST_VALUE * (images / GREATEST_VALUE) ** _per_sample(images, exponents)
    return images


def _add_noise(images: Tensor, params: Transforms, numbers: Numbers) -> Tensor:
    acting = np.flatnonzero(numbers["gaussian_noise"] < params.gaussian_noise.p)
    if len(acting) == 0:
        return images
    noise = _noise(numbers["noise_seed"][acting], images.shape[1:], images.device)
    deviations = GREATEST_VALUE * params.gaussian_noise.deviation * numbers["deviation"][acting]
    images = images.clone()
    images[acting] = (images[acting] + noise * _per_sample(images, deviations)).clamp(0, GREATEST_VALUE)
    return images


def _blur(images: Tensor, params: Transforms, numbers: Numbers) -> Tensor:
    acting = np.flatnonzero(numbers["blur"] < params.blur.p)
    if len(acting) == 0:
        return images
    widths = 0.1 + (params.blur.sigma - 0.1) * numbers["width"][acting]
    sharp, reach = images[acting], math.ceil(_TRUNCATION * params.blur.sigma)
    sigmas = _per_sample(images, widths).flatten()
    down, right = (_gaussian_matrices(sigmas, side, reach)[:, None] for side in sharp.shape[2:])
    padded = functional.pad(sharp, (reach, reach, reach, reach), mode="replicate")
    images = images.clone()
    images[acting] = down @ padded @ right.mT
    return images


def _noise(numbers: NDArray[np.float64], shape: Sequence[int], device: torch.device) -> Tensor:
    """Return (N, *shape) standard normal noise; each sample has a seed of its own, made of its number in 0..1."""
    generator = torch.Generator(device)
    seeds = [int(number * _SEEDS) for number in numbers]
    return torch.stack(
        [torch.randn(tuple(shape), generator=generator.manual_seed(seed), device=device) for seed in seeds]
    )


def _gaussian_matrices(sigmas: Tensor, side: int, reach: int) -> Tensor:
    """Return (N, side, side + 2 reach): Gaussian smoothing of a padded row by sigmas (N,), pixels, as a matrix.

    The product is several times faster than a convolution of a single channel.
    """
    first, positions = (torch.arange(count, device=sigmas.device) for count in (side, side + 2 * reach))
    distances = positions - first[:, None] - reach
    values = torch.exp(-0.5 * (distances / sigmas[:, None, None]) ** 2) * (distances.abs() <= reach)
    return values / values.sum(dim=2, keepdim=True)


def _per_sample(images: Tensor, numbers: NDArray[np.float64]) -> Tensor:
    """Return numbers (N,) as float32 (N, 1, 1, 1) on the images' device."""
    return torch.from_numpy(numbers).float().to(images.device, non_blocking=True).view(-1, 1, 1, 1)
