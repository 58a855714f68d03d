"""Sliding-window inference: an image of any size through a network, whole or in overlapping tiles.

Nothing here depends on how the network runs: `Forward` is any function from pixels to probabilities.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from medseg.data.geometry import Geometry, Patchify, Resize, fit, unfit
from medseg.data.image_io import Pixels
from medseg.data.patches import Origin, blending_weight, origins
from medseg.inference.postprocess import Probabilities

Forward = Callable[[Pixels], Probabilities]  # (N, h, w, C) uint8 to (N, K, h, w) float32
_Tiles = Iterator[tuple[Origin, Probabilities]]  # top left corner, probabilities (K, h, w) of what lies in the image

LARGE_TILE = 1024  # pixels, the side of the tiles of a scaled image that is too large to be predicted whole
MAX_PIXELS = LARGE_TILE**2  # of a scaled image that is predicted whole, and of a batch of tiles
MAX_PIXELS_CPU = 1 << 17  # per forward pass on the CPU; larger arrays leave its caches and are mapped anew each time


def predict_image(
    forward: Forward,
    image: Pixels,
    geometry: Geometry,
    overlap: float,
    batch_size: int,
    size: tuple[int, int] | None = None,
) -> Probabilities:
    """Probabilities (K, H, W) float32 of an image (H, W, 1 or 3) uint8, at its own resolution.

    The image is fitted to the network as the training samples were, and the result is mapped back:

    - `resize`: the whole image is resized to the size of the samples;
    - `patchify`: tiles of the patch size, blended by `predict_tiles`;
    - `scale`: the scaled image as a whole where it has at most `MAX_PIXELS`, else in tiles of side `LARGE_TILE`.

    `size` is the only height and width that `forward` takes, None where it takes any. Scaled images are then
    predicted in tiles of that size, which must be square.
    """
    height, width = image.shape[:2]
    fitted = fit(image, geometry)
    if isinstance(geometry, Patchify):
        probabilities = predict_tiles(forward, fitted, geometry.patch, overlap, batch_size)
    elif isinstance(geometry, Resize) or (size is None and fitted.shape[0] * fitted.shape[1] <= MAX_PIXELS):
        probabilities = forward(fitted[None])[0]
    else:
        probabilities = predict_tiles(forward, fitted, size[0] if size else LARGE_TILE, overlap, batch_size=1)
    return unfit(probabilities, height, width, geometry)


def predict_tiles(forward: Forward, image: Pixels, tile: int, overlap: float, batch_size: int) -> Probabilities:
    """Probabilities (K, H, W) float32 of an image (H, W, C) uint8 from tiles of `tile` x `tile` pixels.

    Neighbouring tiles overlap by the fraction `overlap`, 0..1, of their side; overlapping predictions are averaged
    with the weights `patches.blending_weight`. Where the sides do not divide, the last tiles of a row or column reach
    beyond the image, which is mirrored there. `forward` gets at most `batch_size` tiles and `MAX_PIXELS` at a time,
    but at least one tile.

    Batches are added to the result one by one: beside image and result, memory holds one batch and, where tiles
    overlap, one plane (H, W) float32 of weights.
    """
    height, width = image.shape[:2]
    stride = max(1, round(tile * (1 - overlap)))
    corners = origins(height, width, tile, stride, "pad")
    tiles = _predict_each(forward, image, corners, tile, min(batch_size, max(1, MAX_PIXELS // tile**2)))
    return _blend(tiles, height, width, tile) if stride < tile else _stitch(tiles, height, width)


def forward_in_chunks(forward: Forward, pixels: Pixels, max_pixels: int) -> Probabilities:
    """`forward` of a batch (N, h, w, C), called on at most `max_pixels` pixels at a time, but at least one image."""
    count = max(1, max_pixels // (pixels.shape[1] * pixels.shape[2]))
    if len(pixels) <= count:
        return forward(pixels)
    return np.concatenate([forward(pixels[first : first + count]) for first in range(0, len(pixels), count)])


def _predict_each(forward: Forward, image: Pixels, corners: list[Origin], tile: int, batch_size: int) -> _Tiles:
    height, width = image.shape[:2]
    for first in range(0, len(corners), batch_size):
        batch = corners[first : first + batch_size]
        probabilities = forward(np.stack([_crop(image, corner, tile) for corner in batch]))
        for values, (top, left) in zip(probabilities, batch, strict=True):
            yield (top, left), values[:, : height - top, : width - left]


def _stitch(tiles: _Tiles, height: int, width: int) -> Probabilities:
    """Join tiles that do not overlap; their values are copied as they are."""
    whole: Probabilities | None = None
    for (top, left), values in tiles:
        if whole is None:
            whole = np.empty((len(values), height, width), np.float32)
        whole[:, top : top + values.shape[1], left : left + values.shape[2]] = values
    assert whole is not None  # an image has at least one tile
    return whole


def _blend(tiles: _Tiles, height: int, width: int, tile: int) -> Probabilities:
    """The weighted mean of overlapping tiles."""
    tile_weight = blending_weight(tile)
    total: Probabilities | None = None
    weights = np.zeros((height, width), np.float32)
    for (top, left), values in tiles:
        if total is None:
            total = np.zeros((len(values), height, width), np.float32)
        weight = tile_weight[: values.shape[1], : values.shape[2]]
        inside = slice(top, top + tile), slice(left, left + tile)
        total[:, *inside] += values * weight
        weights[inside] += weight
    assert total is not None  # an image has at least one tile
    total /= weights
    return total


def _crop(image: Pixels, corner: Origin, tile: int) -> Pixels:
    """The tile (tile, tile, C) at a corner inside the image: a view, or a mirrored copy where it reaches beyond."""
    inside = image[corner[0] : corner[0] + tile, corner[1] : corner[1] + tile]
    if inside.shape[:2] == (tile, tile):
        return inside
    rows, columns = (_reflected(first, tile, side) for first, side in zip(corner, image.shape[:2], strict=True))
    mirrored: Pixels = image[rows[:, None], columns]  # no padded copy of the whole image
    return mirrored


def _reflected(first: int, count: int, side: int) -> NDArray[np.int64]:
    """The indices first, first + 1, ... reflected into 0..side - 1, edges repeated (`np.pad` mode symmetric)."""
    steps = np.arange(first, first + count) % (2 * side)
    return np.minimum(steps, 2 * side - 1 - steps)
