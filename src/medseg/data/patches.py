"""Cutting an image into patches, and how much each pixel of a patch weighs where they overlap."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from patchify import patchify

Border = Literal["drop", "pad"]
Origin = tuple[int, int]  # top, left; pixels


def origins(height: int, width: int, patch: int, stride: int, border: Border) -> list[Origin]:
    """The top left corners of the patches of a (height, width) image, row by row.

    With `drop`, a border that no whole patch reaches is lost (512 at 128/20: 20 x 20 patches, the last 4 rows and
    columns gone). With `pad`, the image is extended at the bottom and right so that nothing is lost (21 x 21
    patches of 528).
    """
    tops, lefts = (_starts(side, patch, stride, border) for side in (height, width))
    return [(top, left) for top in tops for left in lefts]


def padded_size(side: int, patch: int, stride: int) -> int:
    """The smallest length, at least `side`, that patches of `patch` pixels at `stride` cover exactly."""
    steps = max(0, -(-(side - patch) // stride))
    return patch + steps * stride


def cut(image: NDArray[Any], patch: int, stride: int, border: Border) -> NDArray[Any]:
    """Cut (H, W) or (H, W, C) into (N, patch, patch[, C]), in the order of `origins`.

    With `pad` the image is extended by reflection.
    """
    if border == "pad":
        image = pad_to(image, *(padded_size(side, patch, stride) for side in image.shape[:2]))
    if min(image.shape[:2]) < patch:
        return np.empty((0, patch, patch, *image.shape[2:]), image.dtype)
    window = (patch, patch, *image.shape[2:])
    patches: NDArray[Any] = patchify(image, window, step=stride).reshape(-1, *window)
    return patches


def blending_weight(patch: int) -> NDArray[np.float32]:
    """Weights (patch, patch) of a tile's pixels: largest at the centre, where the network sees most context.

    A Gaussian with a standard deviation of an eighth of the patch, as in nnU-Net (Isensee et al., Nature Methods
    2021). Its corners weigh 1e-7, above 0, so that they count where no other tile covers them. It has no floor, which
    would give the most weight to the worst tile along the border of an image.
    """
    distance = np.arange(patch) - (patch - 1) / 2
    bell = np.exp(-0.5 * (distance / (patch / 8)) ** 2)
    return np.outer(bell, bell).astype(np.float32)


def pad_to(image: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Extend (H, W, ...) at the bottom and right to (height, width, ...) by reflection, repeated where needed."""
    padding = [(0, height - image.shape[0]), (0, width - image.shape[1])] + [(0, 0)] * (image.ndim - 2)
    return np.pad(image, padding, mode="symmetric")


def _starts(side: int, patch: int, stride: int, border: Border) -> range:
    covered = padded_size(side, patch, stride) if border == "pad" else side
    return range(0, covered - patch + 1, stride)
