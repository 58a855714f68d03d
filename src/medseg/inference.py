"""A network and a picture of any size to probabilities at the picture's own resolution."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medseg.errors import UserError
from medseg.geometry import Geometry, Patchify, fit, unfit
from medseg.imaging import Pixels, to_channels
from medseg.patches import Origin, blending_weight, origins, pad_to, padded_size, stitch

Probabilities = NDArray[np.float32]


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


def foreground_probability(probabilities: Probabilities) -> Probabilities:
    """(K, H, W) as `predict` gives it to the probability (H, W) of any class but background, 0..1."""
    first: Probabilities = probabilities[0]
    # Where tiles are blended, background may exceed 1 by a rounding error.
    return first if len(probabilities) == 1 else np.clip(1 - first, 0, 1)


def classify(probabilities: Probabilities, threshold: float) -> Pixels:
    """(K, H, W) to the code (H, W) of each pixel's class: 0 background, 1 the first class, and so on.

    A pixel is foreground where its foreground probability is at least `threshold`, and then of the most probable
    class beside background, even where background is more probable than that; of equal ones, of the first.
    """
    lesion = np.ones(probabilities.shape[1:], np.uint8)
    if len(probabilities) > 1:
        lesion += probabilities[1:].argmax(axis=0).astype(np.uint8)
    return np.where(foreground_probability(probabilities) >= threshold, lesion, 0).astype(np.uint8)


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
