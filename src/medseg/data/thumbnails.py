"""Thumbnails of images: their perceptual hashes, and whether two of them show the same picture."""

from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from medseg.data.image_io import Pixels, to_channels

SIDE = 64  # pixels of a thumbnail, whatever the image's shape
ORIENTATIONS = 8  # of a rectangle: flips and quarter turns
BITS = 63  # of a hash

Floats = NDArray[np.float32]
Hashes = NDArray[np.uint64]

_FREQUENCIES = 8  # by 8 cosines, less the mean, are the bits of a hash
_NO_COEFFICIENT = 1e-3  # a smaller one is rounding: its sign says nothing

# Alignment is coarse first: it costs a quarter, finds its way from further aside, and rules most pairs out.
_COARSE_SIDE, _COARSE_STEPS, _FINE_STEPS = 32, 6, 20  # pixels, iterations
_SMOOTHING = 5  # pixels of the filter before gradients are taken
_LEAST_SCALE, _MOST_STRETCH = 0.6, 1.4  # of one image on the other; the longer by the shorter axis
_LEAST_COMMON = 0.5  # share of the frame that both must show

_DEVIATIONS = 0.7, 2.0  # pixels, standard deviations of the Gaussians whose difference is the detail
_WINDOW = 9  # pixels a side
_FLAT = 0.5  # grey levels squared, the variance of detail below which a window shows nothing
_LEAST_TEXTURE = 150  # windows
_ALIKE = 0.45  # correlation of detail
_UNLIKE_SHARE = 0.25  # of the windows may fall below: what is burnt in, and what moved
_HOPEFUL = 0.2  # correlation of half the windows, below which a coarse alignment is given up
_ALIKE_LEVELS = 2.0  # grey levels by which two images without detail may differ


@dataclass(frozen=True)
class View:
    """A part of an image's frame: edges as shares of height and width."""

    top: float
    left: float
    bottom: float
    right: float


WHOLE, CENTRE = View(0, 0, 1, 1), View(0.05, 0.05, 0.95, 0.95)
CORNERS = (View(0, 0, 0.9, 0.9), View(0, 0.1, 0.9, 1), View(0.1, 0, 1, 0.9), View(0.1, 0.1, 1, 1))


@dataclass(frozen=True)
class Placing:
    """How a second image may lie on a first one: turned by `orientation`, `second` of it on `first`, or inverted."""

    first: View
    second: View
    orientation: int
    inverted: bool = False


def thumbnail(image: Pixels) -> Pixels:
    """An image (H, W, 1 or 3) as (64, 64) grey levels, uint8, its darkest pixel 0 and its brightest 255."""
    small = cv2.resize(to_channels(image, 1)[..., 0], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    darkest = int(small.min())
    scale = 255 / max(int(small.max()) - darkest, 1)
    stretched: Pixels = np.round((small.astype(np.float64) - darkest) * scale).astype(np.uint8)
    return stretched


def oriented(thumbnail: NDArray[np.generic], orientation: int) -> NDArray[np.generic]:
    """One of the eight orientations of (..., H, W): bit 4 transposes, then bit 1 mirrors, then bit 2 flips."""
    turned = thumbnail.swapaxes(-1, -2) if orientation & 4 else thumbnail
    turned = turned[..., ::-1] if orientation & 1 else turned
    return turned[..., ::-1, :] if orientation & 2 else turned


def cosines(thumbnails: Pixels, view: View) -> NDArray[np.float64]:
    """The low frequencies (N, 8, 8) of thumbnails (N, 64, 64) within `view`: the two-dimensional cosine transform."""
    rows, columns = _cosine_rows(view.top, view.bottom), _cosine_rows(view.left, view.right)
    return np.stack([rows @ thumbnail @ columns.T for thumbnail in thumbnails])


def hashes(coefficients: NDArray[np.float64], orientation: int) -> Hashes:
    """Hashes (N,) of images turned by `orientation`, from their `cosines` (N, 8, 8): the signs of all but the mean.

    That is pHash (Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010) but for two
    things: signs, where it compares with the median, and the transform of a part of the image where one is asked for.
    So a mirror changes the signs of odd frequencies, a quarter turn exchanges rows with columns, and inversion flips
    all `BITS`.
    """
    signs = (-1.0) ** np.arange(_FREQUENCIES)
    turned = coefficients.swapaxes(1, 2) if orientation & 4 else coefficients
    turned = turned * signs if orientation & 1 else turned
    turned = turned * signs[:, None] if orientation & 2 else turned
    bits = turned.reshape(len(turned), -1) > _NO_COEFFICIENT
    bits[:, 0] = False  # of the mean
    found: Hashes = np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)
    return found


def same_picture(one: Pixels, other: Pixels, placing: Placing) -> bool:
    """Whether two thumbnails show the same picture, `other` lying on `one` nearly as `placing` says.

    `other` is aligned by an affine map that maximises the correlation (Evangelidis and Psarakis, "Parametric image
    alignment using enhanced correlation coefficient maximization", 2008). Then the detail of both, a difference of
    Gaussians, is correlated in small windows, and three quarters of those that show any must correlate. So what many
    images share (a round mask, a vignette, one dark object in the middle) makes no two of them the same: it fills few
    windows, or has no detail.
    """
    turned = oriented(other, placing.orientation).astype(np.float32)
    first, second = one.astype(np.float32), np.ascontiguousarray(255 - turned if placing.inverted else turned)
    if np.array_equal(first, second):
        return True
    coarse = _aligned(first, second, _start(placing), _COARSE_SIDE, _COARSE_STEPS)
    if coarse is None or not _is_alike(first, second, coarse, 0.5, _HOPEFUL):
        return False
    fine = _aligned(first, second, coarse, SIDE, _FINE_STEPS)
    return fine is not None and _is_alike(first, second, fine, _UNLIKE_SHARE, _ALIKE)


def _cosine_rows(start: float, end: float) -> NDArray[np.float64]:
    """Cosines (8, 64) of the frequencies 0 to 7 over the part of a side from `start` to `end`, and 0 outside."""
    edges = np.arange(SIDE + 1) / SIDE
    inside = np.clip(np.minimum(edges[1:], end) - np.maximum(edges[:-1], start), 0, None) * SIDE
    middles = (np.arange(SIDE) + 0.5) / SIDE
    phases = np.pi * np.arange(_FREQUENCIES)[:, None] * (middles - start) / (end - start)
    rows: NDArray[np.float64] = np.cos(phases) * inside
    return rows


def _start(placing: Placing) -> Floats:
    """The affine map (2, 3) from pixels of the first thumbnail to those of the second that `placing` stands for."""
    first, second = placing.first, placing.second
    across = (second.right - second.left) / (first.right - first.left)
    down = (second.bottom - second.top) / (first.bottom - first.top)
    edges = np.array([[across, 0, SIDE * (second.left - across * first.left)],
                      [0, down, SIDE * (second.top - down * first.top)]])  # fmt: skip
    return _shifted(edges, 0.5)


def _shifted(mapped: NDArray[np.floating], by: float) -> Floats:
    """An affine map in coordinates whose origin lies `by` further along both axes."""
    offset = mapped[:, :2].sum(axis=1) * by + mapped[:, 2] - by
    return np.column_stack([mapped[:, :2], offset]).astype(np.float32)


def _aligned(first: Floats, second: Floats, start: Floats, side: int, steps: int) -> Floats | None:
    """The affine map (2, 3) that lays `second` on `first`, from `start` on; None where no sensible one is found.

    It is looked for on images shrunk to `side`.
    """
    scale = side / SIDE
    one, other = (cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA) for image in (first, second))
    everywhere = np.ones((side, side), np.uint8)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, steps, 1e-4)
    try:
        _, found = cv2.findTransformECC(
            one, other, _scaled(start, scale), cv2.MOTION_AFFINE, criteria, everywhere, _SMOOTHING
        )
    except cv2.error:  # it diverges, or an image has no contrast
        return None
    longer, shorter = np.linalg.svd(found[:, :2], compute_uv=False)
    if not _LEAST_SCALE <= shorter <= longer <= min(1 / _LEAST_SCALE, _MOST_STRETCH * shorter):
        return None
    return _scaled(found.astype(np.float32), 1 / scale)


def _scaled(mapped: Floats, scale: float) -> Floats:
    """The same map between images whose sides are `scale` times as long; pixels are counted from their middles."""
    edges = _shifted(mapped, -0.5)
    edges[:, 2] *= scale
    return _shifted(edges, 0.5)


def _is_alike(first: Floats, second: Floats, mapped: Floats, unlike: float, least: float) -> bool:
    """Whether the detail of two images correlates by `least` in all windows but the share `unlike`.

    `mapped` (2, 3) lays `second` on `first`.
    """
    lay = partial(cv2.warpAffine, M=mapped, dsize=(SIDE, SIDE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    common = cv2.erode(lay(np.ones_like(second)), np.ones((3, 3), np.uint8)) > 0.99
    if common.mean() < _LEAST_COMMON:
        return False
    laid = np.where(common, lay(second), first)
    one, other = (_detail(image) * common for image in (first, laid))
    pixels = np.maximum(_window_sums(common.astype(np.float32)), 1)
    variance, of_other = (_window_sums(detail * detail) / pixels for detail in (one, other))
    textured = common & (np.maximum(variance, of_other) > _FLAT)
    if textured.sum() < _LEAST_TEXTURE:
        return bool(np.abs(first - laid)[common].mean() < _ALIKE_LEVELS)
    covariance = _window_sums(one * other) / pixels
    correlation = covariance / np.sqrt((variance + _FLAT) * (of_other + _FLAT))
    return bool(np.quantile(correlation[textured], unlike) > least)


def _detail(image: Floats) -> Floats:
    fine, coarse = (cv2.GaussianBlur(image, (0, 0), deviation) for deviation in _DEVIATIONS)
    detail: Floats = fine - coarse
    return detail


def _window_sums(image: Floats) -> Floats:
    window = (_WINDOW, _WINDOW)
    return cv2.boxFilter(image, -1, window, normalize=False, borderType=cv2.BORDER_CONSTANT).astype(np.float32)
