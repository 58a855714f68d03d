"""An image of any size through a network: whole, or tile by tile where it is too large or the network has one size.

Nothing here knows how the network runs: it is any function from pixels to probabilities.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from medseg.data.geometry import Geometry, Patchify, Resize, fit, unfit
from medseg.data.image_io import Pixels
from medseg.data.patches import Origin, blending_weight, origins
from medseg.inference.postprocess import Probabilities

Forward = Callable[[Pixels], Probabilities]  # (N, h, w, C) uint8 to (N, K, h, w) float32

LARGE_TILE = 1024  # pixels, the side of the tiles of a large image that was scaled, which go one at a time
LARGEST_WHOLE = LARGE_TILE**2  # pixels; of a scaled image in one piece or of a batch, as many as a large tile has
CPU_PIXELS = 1 << 17  # that a processor is given at a time; the arrays of more leave its caches and are mapped anew


def predict_image(
    forward: Forward,
    image: Pixels,
    geometry: Geometry,
    overlap: float,
    batch_size: int,
    size: tuple[int, int] | None = None,
) -> Probabilities:
    """Probabilities (K, H, W) float32 of an image (H, W, 1 or 3) uint8, at its own resolution.

    The image goes the way of the training samples and back:

    - `resize`: the whole image, whatever its size, to that of the samples;
    - `patchify`: tiles of the patch size, as `predict_tiles` blends them;
    - `scale`: the whole scaled image where it has at most `LARGEST_WHOLE` pixels, else tiles of `LARGE_TILE`.

    `size` is the only height and width that `forward` takes, None where it takes any. Scaled images then go in
    tiles of its height, which must equal its width.
    """
    height, width = image.shape[:2]
    fitted = fit(image, geometry)
    if isinstance(geometry, Patchify):
        probabilities = predict_tiles(forward, fitted, geometry.patch, overlap, batch_size)
    elif isinstance(geometry, Resize) or (size is None and fitted.shape[0] * fitted.shape[1] <= LARGEST_WHOLE):
        probabilities = forward(fitted[None])[0]
    else:
        probabilities = predict_tiles(forward, fitted, size[0] if size else LARGE_TILE, overlap, batch_size=1)
    return unfit(probabilities, height, width, geometry)


def predict_tiles(forward: Forward, image: Pixels, tile: int, overlap: float, batch_size: int) -> Probabilities:
    """Probabilities (K, H, W) float32 of an image (H, W, C) uint8 from tiles of `tile` x `tile` pixels.

    Neighbouring tiles overlap by the share `overlap`, 0..1, of their side; what they say of one pixel is averaged by
    `patches.blending_weight`. The last tiles of a row or column reach beyond the image where its sides do not divide,
    and see it mirrored there. `forward` gets at most `batch_size` tiles at a time, and no more than have
    `LARGEST_WHOLE` pixels.

    Each batch is put in its place or added up as it comes. Beside image and result, there are what one batch takes
    and, where tiles overlap, one plane (H, W) float32 of weights, however large the image is.
    """
    height, width = image.shape[:2]
    stride = max(1, round(tile * (1 - overlap)))
    places = origins(height, width, tile, stride, "pad")
    predicted = _predicted(forward, image, places, tile, min(batch_size, max(1, LARGEST_WHOLE // tile**2)))
    return _blended(predicted, height, width, tile) if stride < tile else _laid(predicted, height, width)


def in_parts(forward: Forward, pixels: Pixels, most: int) -> Probabilities:
    """What `forward` makes of (N, h, w, C) as (N, K, h, w), from parts of at most `most` pixels, of a tile at least."""
    count = max(1, most // (pixels.shape[1] * pixels.shape[2]))
    if len(pixels) <= count:
        return forward(pixels)
    return np.concatenate([forward(pixels[first : first + count]) for first in range(0, len(pixels), count)])


def _predicted(
    forward: Forward, image: Pixels, places: list[Origin], tile: int, batch_size: int
) -> Iterator[tuple[Origin, Probabilities]]:
    """Each tile's corner and what of its probabilities (K, h, w) lies inside the image."""
    height, width = image.shape[:2]
    for corners in _batches(places, batch_size):
        probabilities = forward(np.stack([_cut(image, corner, tile) for corner in corners]))
        for values, (top, left) in zip(probabilities, corners, strict=True):
            yield (top, left), values[:, : height - top, : width - left]


def _laid(predicted: Iterator[tuple[Origin, Probabilities]], height: int, width: int) -> Probabilities:
    """Tiles side by side, whose probabilities are those of the image as they are."""
    whole: Probabilities | None = None
    for (top, left), values in predicted:
        if whole is None:
            whole = np.empty((len(values), height, width), np.float32)
        whole[:, top : top + values.shape[1], left : left + values.shape[2]] = values
    assert whole is not None  # an image has at least one tile
    return whole


def _blended(predicted: Iterator[tuple[Origin, Probabilities]], height: int, width: int, tile: int) -> Probabilities:
    bell = blending_weight(tile)
    total: Probabilities | None = None
    weights = np.zeros((height, width), np.float32)
    for (top, left), values in predicted:
        if total is None:
            total = np.zeros((len(values), height, width), np.float32)
        weight = bell[: values.shape[1], : values.shape[2]]
        inside = slice(top, top + tile), slice(left, left + tile)
        total[:, *inside] += values * weight
        weights[inside] += weight
    assert total is not None  # an image has at least one tile
    total /= weights
    return total


def _batches(places: list[Origin], batch_size: int) -> Iterator[list[Origin]]:
    for first in range(0, len(places), batch_size):
        yield places[first : first + batch_size]


def _cut(image: Pixels, corner: Origin, tile: int) -> Pixels:
    """A tile (tile, tile, C) at a corner inside the image: a view of it, or mirrored where it reaches beyond it."""
    inside = image[corner[0] : corner[0] + tile, corner[1] : corner[1] + tile]
    if inside.shape[:2] == (tile, tile):
        return inside
    rows, columns = (_mirrored(first, tile, side) for first, side in zip(corner, image.shape[:2], strict=True))
    mirrored: Pixels = image[rows[:, None], columns]  # no padded copy of the whole image
    return mirrored


def _mirrored(first: int, count: int, side: int) -> NDArray[np.int64]:
    """Indices first, first + 1, ... into `side` pixels that turn back at its end, and again at its start, and so on."""
    steps = np.arange(first, first + count) % (2 * side)
    return np.minimum(steps, 2 * side - 1 - steps)
