"""The transforms of the section `online`: drawn anew in every epoch, for a whole batch at once, on any device.

They mean what `augmentation` does to samples on disk, one by one. What moves pixels is put together into one map, so
that pixels are interpolated once. What happens to a sample depends on the seed, the epoch and its place in the epoch
alone: not on its batch, nor on how many processes share it. Flips, angles, strengths and the like are the same on every
device; noise and elastic deformation come from the device's own generator, and are others on a GPU than on the CPU.
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
COLUMNS = (  # of the table of draws; each transform's place decides its numbers, whether others act or not
    *("horizontal_flip", "vertical_flip", "quarter_turns", "turns", "rotate", "angle", "scale", "zoom"),
    *("elastic", "elastic_seed", "brightness_contrast", "brightness", "contrast", "gamma", "exponent"),
    *("gaussian_noise", "deviation", "noise_seed", "blur", "width"),
)
_AT_ONCE = 4  # numbers that Philox makes in one step
_SEEDS = 2**53
_TAIL = 3.0  # standard deviations after which a Gaussian is cut off

Draws = dict[str, NDArray[np.float64]]  # of each column (N,) numbers, 0..1


def draw_numbers(seed: int, epoch: int, first: int, count: int) -> Draws:
    """The random numbers of `count` places in an epoch from place `first` on, at no cost for those before."""
    bits = np.random.Philox(np.random.SeedSequence([seed, epoch]))
    bits.advance(first * len(COLUMNS) // _AT_ONCE)
    return dict(zip(COLUMNS, np.random.Generator(bits).random((count, len(COLUMNS))).T, strict=True))


def vary_batch(pixels: Tensor, truth: Tensor, params: Transforms, draws: Draws) -> tuple[Tensor, Tensor]:
    """Transform a batch: pixels (N, C, H, W), 0..255, and truth (N, 1, H, W) of codes, uint8, on one device.

    `draws` are those of its N places. Gives pixels in float32, 0..255, not rounded, and truth as it came. What a
    rotation or a smaller scale uncovers is filled by mirroring.
    """
    images = pixels.float()
    if _moves(params):
        images, truth = _moved(images, truth, params, draws)
    images = _lit(images, params, draws)
    images = _noisy(images, params, draws)
    return _blurred(images, params, draws), truth


def _moves(params: Transforms) -> bool:
    steps = (params.horizontal_flip, params.vertical_flip, params.quarter_turns)
    return any(p > 0 for p in (*steps, params.rotate.p, params.scale.p, params.elastic.p))


def _moved(images: Tensor, truth: Tensor, params: Transforms, draws: Draws) -> tuple[Tensor, Tensor]:
    height, width = images.shape[2:]
    y, x = (torch.arange(side, device=images.device) - (side - 1) / 2 for side in (height, width))
    places = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1)
    places = places.expand(len(images), -1, -1, -1)
    if params.elastic.p > 0:
        places = places + _displacements(params.elastic, draws, height, width, images.device)
    matrices = torch.from_numpy(_matrices(params, draws)).float().to(images.device, non_blocking=True)
    sources = torch.einsum("nij,nhwj->nhwi", matrices, places)  # pixels from the centre, x before y
    grid = 2 * sources / torch.tensor([width, height], device=images.device)
    bilinear = functional.grid_sample(images, grid, "bilinear", "reflection", align_corners=False)
    nearest = functional.grid_sample(truth.float(), grid, "nearest", "reflection", align_corners=False)
    return bilinear, nearest.to(truth.dtype)


def _matrices(params: Transforms, draws: Draws) -> NDArray[np.float64]:
    """(N, 2, 2): from a place in the result to the one in the sample that is shown there, about the centre."""
    flips = [
        np.where(draws[name] < p, -1.0, 1.0)
        for name, p in (("horizontal_flip", params.horizontal_flip), ("vertical_flip", params.vertical_flip))
    ]
    turns = np.where(draws["quarter_turns"] < params.quarter_turns, np.floor(4 * draws["turns"]), 0)
    angles = np.where(draws["rotate"] < params.rotate.p, _between(draws["angle"], params.rotate.degrees), 0)
    zooms = np.where(draws["scale"] < params.scale.p, 1 + _between(draws["zoom"], params.scale.share), 1)
    radians = np.deg2rad(90 * turns + angles)
    # Quarter turns are to land on pixels: their sines and cosines are whole numbers.
    cosines, sines = (np.where(angles == 0, np.round(f(radians)), f(radians)) for f in (np.cos, np.sin))
    rotations = np.stack([np.stack([cosines, -sines], -1), np.stack([sines, cosines], -1)], axis=-2)
    matrices: NDArray[np.float64] = np.stack(flips, axis=-1)[:, :, None] * rotations / zooms[:, None, None]
    return matrices


def _between(draws: NDArray[np.float64], limit: float) -> NDArray[np.float64]:
    """Numbers 0..1 to -limit..limit."""
    return (2 * draws - 1) * limit


def _displacements(params: Elastic, draws: Draws, height: int, width: int, device: torch.device) -> Tensor:
    """(N, H, W, 2), pixels: smooth noise whose root mean square along each axis is alpha / (15 sigma)."""
    fields = torch.zeros(len(draws["elastic"]), height, width, 2, device=device)
    acting = np.flatnonzero(draws["elastic"] < params.p)
    if len(acting):
        sigma, reach = torch.tensor([params.sigma], device=device), math.ceil(_TAIL * params.sigma)
        down, right = (functional.normalize(_smoothing(sigma, side, reach), dim=2) for side in (height, width))
        noise = _noise(draws["elastic_seed"][acting], (2, height + 2 * reach, width + 2 * reach), device)
        smooth = down @ noise @ right.mT  # of variance 1, as the noise: the rows of both are of length 1
        fields[acting] = smooth.permute(0, 2, 3, 1) * (params.alpha / (15 * params.sigma))
    return fields


def _lit(images: Tensor, params: Transforms, draws: Draws) -> Tensor:
    """Brightness and contrast, then gamma."""
    light = params.brightness_contrast
    if light.p > 0:
        acts = draws["brightness_contrast"] < light.p
        factor = np.where(acts, 1 + _between(draws["contrast"], light.contrast), 1)
        shift = np.where(acts, GREATEST_VALUE * _between(draws["brightness"], light.brightness), 0)
        images = (images * _on(images, factor) + _on(images, shift)).clamp(0, GREATEST_VALUE)
    if params.gamma.p > 0:
        acts = draws["gamma"] < params.gamma.p
        exponents = np.where(acts, 1 + _between(draws["exponent"], params.gamma.percent / 100), 1)
        images = GREATEST_VALUE * (images / GREATEST_VALUE) ** _on(images, exponents)
    return images


def _noisy(images: Tensor, params: Transforms, draws: Draws) -> Tensor:
    acting = np.flatnonzero(draws["gaussian_noise"] < params.gaussian_noise.p)
    if len(acting) == 0:
        return images
    noise = _noise(draws["noise_seed"][acting], images.shape[1:], images.device)
    deviations = GREATEST_VALUE * params.gaussian_noise.deviation * draws["deviation"][acting]
    images = images.clone()
    images[acting] = (images[acting] + noise * _on(images, deviations)).clamp(0, GREATEST_VALUE)
    return images


def _blurred(images: Tensor, params: Transforms, draws: Draws) -> Tensor:
    acting = np.flatnonzero(draws["blur"] < params.blur.p)
    if len(acting) == 0:
        return images
    widths = 0.1 + (params.blur.sigma - 0.1) * draws["width"][acting]
    sharp, reach = images[acting], math.ceil(_TAIL * params.blur.sigma)
    sigmas = _on(images, widths).flatten()
    down, right = (_smoothing(sigmas, side, reach)[:, None] for side in sharp.shape[2:])
    framed = functional.pad(sharp, (reach, reach, reach, reach), mode="replicate")
    images = images.clone()
    images[acting] = down @ framed @ right.mT
    return images


def _noise(draws: NDArray[np.float64], shape: Sequence[int], device: torch.device) -> Tensor:
    """(N, *shape) normal noise, each sample's from a generator of its own."""
    generator = torch.Generator(device)
    seeds = [int(number * _SEEDS) for number in draws]
    return torch.stack(
        [torch.randn(tuple(shape), generator=generator.manual_seed(seed), device=device) for seed in seeds]
    )


def _smoothing(sigmas: Tensor, side: int, reach: int) -> Tensor:
    """(N, side, side + 2 reach): matrices that smooth a framed row by Gaussians of standard deviations (N,) pixels.

    As a product it is several times as fast as a convolution of a single channel.
    """
    first, places = (torch.arange(count, device=sigmas.device) for count in (side, side + 2 * reach))
    distances = places - first[:, None] - reach
    values = torch.exp(-0.5 * (distances / sigmas[:, None, None]) ** 2) * (distances.abs() <= reach)
    return values / values.sum(dim=2, keepdim=True)


def _on(images: Tensor, numbers: NDArray[np.float64]) -> Tensor:
    """Numbers (N,) in the images' place and form, (N, 1, 1, 1)."""
    return torch.from_numpy(numbers).float().to(images.device, non_blocking=True).view(-1, 1, 1, 1)
