"""A network and a picture of any size to probabilities at the picture's own resolution."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medseg.choices import Augmentation
from medseg.errors import UserError
from medseg.geometry import Geometry, Patchify, Resize, fit, unfit
from medseg.imaging import Pixels, to_channels
from medseg.patches import Origin, blending_weight, origins, pad_to, padded_size, stitch
from medseg.postprocess import Probabilities as Probabilities
from medseg.postprocess import classify as classify
from medseg.postprocess import foreground_probability as foreground_probability


class Orientation(NamedTuple):
    """One of the eight ways to hold a picture: mirrored left to right or not, then turned counter-clockwise."""

    quarter_turns: int
    mirrored: bool


_ALL = tuple(Orientation(turns, mirrored) for turns in (0, 2, 1, 3) for mirrored in (False, True))


@dataclass(frozen=True)
class Averaged:
    """What test-time augmentation makes of one picture.

    - probabilities: (K, H, W) float32, the mean over the orientations, in 0..1;
    - deviation: (H, W) float32, the standard deviation over the orientations of the foreground probability, in 0..0.5:
      where the network contradicts itself. All 0 where there is one orientation.
    """

    probabilities: Probabilities
    deviation: NDArray[np.float32]


def predict(
    network: nn.Module, image: Pixels, geometry: Geometry, overlap: float, batch_size: int, device: torch.device
) -> Probabilities:
    """Probabilities (K, H, W) in 0..1 of a picture (H, W, 1 or 3), uint8.

    A network with one logit per pixel gives K = 1: the probability of foreground. One with several gives their
    softmax, background first.

    The picture goes the way of the training samples (`geometry`) and back. A network trained on patches sees tiles
    of the patch size that overlap by the share `overlap` and are blended, so that every pixel is covered.
    """
    if isinstance(geometry, Patchify):
        return _predict_tiles(network, image, geometry, overlap, batch_size, device)
    height, width = image.shape[:2]
    fitted = fit(image, geometry)
    return unfit(_forward(network, fitted[None], device)[0], height, width, geometry)


def predict_augmented(
    network: nn.Module,
    image: Pixels,
    geometry: Geometry,
    overlap: float,
    batch_size: int,
    device: torch.device,
    augmentation: Augmentation,
) -> Averaged:
    """`predict` on a picture in several orientations, turned back and averaged; with `none`, upright alone."""
    ways = orientations(augmentation, geometry)
    return average(lambda held: predict(network, held, geometry, overlap, batch_size, device), image, ways)


def orientations(augmentation: Augmentation, geometry: Geometry) -> tuple[Orientation, ...]:
    """The ways to hold a picture that test-time augmentation averages over, upright first.

    `flips` are four: upright, mirrored left to right, top to bottom, and both. `flips_and_turns` are all eight, but
    where pictures are resized to a frame that is not square: turned ones would have another scale or shape in it than
    in training, so it is the four flips there.
    """
    if augmentation == "none":
        return _ALL[:1]
    squeezes = isinstance(geometry, Resize) and geometry.height != geometry.width
    return _ALL[:4] if augmentation == "flips" or squeezes else _ALL


def average(predictor: Callable[[Pixels], Probabilities], image: Pixels, ways: Sequence[Orientation]) -> Averaged:
    """The mean and deviation of what `predictor` makes of a picture (H, W, C) held in each of the `ways`.

    The picture is turned at its own resolution, not the network's input: so padding lies below and to the right, as
    in training, the seams of tiles fall elsewhere in each orientation, and, as whole pixels change places, turning
    back is exact. Whatever the number of ways, two sums are held beside the prediction at hand.
    """
    total, squares = np.zeros((1, 1, 1)), np.zeros((1, 1))
    for way in ways:
        probabilities = turned_back(predictor(oriented(image, way)), way).astype(np.float64)
        total = total + probabilities
        squares = squares + probabilities[0] ** 2
    mean = total / len(ways)
    # Of channel 0, be it background or foreground: the other one's deviation is the same.
    deviation = np.sqrt(np.maximum(squares / len(ways) - mean[0] ** 2, 0))
    return Averaged(mean.astype(np.float32), deviation.astype(np.float32))


def oriented(image: Pixels, way: Orientation) -> Pixels:
    """Hold a picture (H, W, C) another way: mirrored left to right if so, then turned counter-clockwise."""
    mirrored = image[:, ::-1] if way.mirrored else image
    return np.ascontiguousarray(np.rot90(mirrored, way.quarter_turns))


def turned_back(planes: Probabilities, way: Orientation) -> Probabilities:
    """The inverse of `oriented` for (K, H, W)."""
    upright = np.rot90(planes, -way.quarter_turns, axes=(1, 2))
    return np.ascontiguousarray(upright[:, :, ::-1] if way.mirrored else upright)


def choose_device(accelerator: str) -> torch.device:
    """The device that `machine.accelerator` means here: `auto` is a GPU where there is one.

    Raises `UserError` where a GPU is asked for and none can be used.
    """
    has_gpu = torch.cuda.is_available()
    if accelerator == "gpu" and not has_gpu:
        raise UserError("params.yaml: machine.accelerator = gpu: no GPU can be used here; set it to auto or cpu")
    return torch.device("cuda" if has_gpu and accelerator != "cpu" else "cpu")


def _predict_tiles(
    network: nn.Module, image: Pixels, geometry: Patchify, overlap: float, batch_size: int, device: torch.device
) -> Probabilities:
    height, width = image.shape[:2]
    patch = geometry.patch
    stride = max(1, round(patch * (1 - overlap)))
    padded = pad_to(
        to_channels(image, geometry.channels),
        padded_size(height, patch, stride),
        padded_size(width, patch, stride),
    )
    places = origins(height, width, patch, stride, "pad")
    tiles = [_forward(network, batch, device) for batch in _tile_batches(padded, places, patch, batch_size)]
    return stitch(np.concatenate(tiles), places, height, width, blending_weight(patch))


def _tile_batches(image: Pixels, places: list[Origin], patch: int, batch_size: int) -> Iterator[Pixels]:
    for first in range(0, len(places), batch_size):
        corners = places[first : first + batch_size]
        yield np.stack([image[top : top + patch, left : left + patch] for top, left in corners])


def _forward(network: nn.Module, pixels: Pixels, device: torch.device) -> Probabilities:
    """(N, H, W, C) uint8 to (N, K, H, W) probabilities."""
    batch = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).to(device)
    with torch.inference_mode():
        logits = network(batch)
        shares = logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)
        probabilities: Probabilities = shares.float().cpu().numpy()
    return probabilities
