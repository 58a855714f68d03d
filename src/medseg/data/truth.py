"""Fitting a mask as its image: what is annotated, what is not, and which objects are too small to be left."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from medseg.data.geometry import Geometry, Patchify, Scale, fit_mask, fitted_size
from medseg.data.image_io import Pixels
from medseg.data.task import UNANNOTATED
from medseg.datasets.record import Region


def fit_truth(mask: Pixels, region: Region, geometry: Geometry) -> Pixels:
    """Fit a whole mask (H, W) of 0 and 1, uint8, as `fit` its image; `UNANNOTATED` outside `region` and in padding.

    A pixel belongs to the region where at least half of it does. With `small_objects` `keep`, an object that has no
    pixel left gets the one in which most of it lies.
    """
    inside = np.zeros_like(mask)
    region.crop(inside)[...] = 1
    annotated = mask * inside
    truth = np.where(fit_mask(inside, geometry) == 1, fit_mask(annotated, geometry), UNANNOTATED).astype(np.uint8)
    if not isinstance(geometry, Patchify) and geometry.small_objects == "keep":
        found = objects_in(annotated, truth, geometry)
        truth[_largest_parts(found, fitted_size(mask.shape[0], mask.shape[1], geometry))] = 1
    return truth


@dataclass(frozen=True)
class Objects:
    """The annotated objects of an image, 8-connected, and which of them have no pixel of foreground after fitting."""

    labels: NDArray[np.int32]  # (H, W), 0 for the background, 1, 2, ... for the objects
    count: int
    lost: NDArray[np.int64]  # labels


def objects_in(annotated: Pixels, truth: Pixels, geometry: Geometry) -> Objects:
    """Find the objects of a mask (H, W) of 0 and 1 in the truth (h, w) that `fit_truth` made of it."""
    count, labels = cv2.connectedComponents(annotated, connectivity=8)
    if not isinstance(geometry, Patchify):
        size = fitted_size(annotated.shape[0], annotated.shape[1], geometry)
        rows, columns = (_places(side, fitted) for side, fitted in zip(annotated.shape, size, strict=True))
        truth = truth[rows[:, None], columns]
    kept = np.unique(labels[truth == 1])
    return Objects(labels.astype(np.int32, copy=False), count - 1, np.setdiff1d(np.arange(1, count), kept))


def _places(side: int, fitted: int) -> NDArray[np.int64]:
    """In which of `fitted` pixels the centre of each of `side` pixels lies."""
    return (2 * np.arange(side) + 1) * fitted // (2 * side)


def _largest_parts(found: Objects, size: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column of the fitted pixel in which most of each lost object lies; of equal ones the first."""
    ys, xs = np.nonzero(np.isin(found.labels, found.lost))
    rows, columns = _places(found.labels.shape[0], size[0])[ys], _places(found.labels.shape[1], size[1])[xs]
    parts, sizes = np.unique(np.stack([found.labels[ys, xs], rows, columns]), axis=1, return_counts=True)
    order = np.lexsort((*parts[::-1], -sizes))
    _, first = np.unique(parts[0][order], return_index=True)
    _, tops, lefts = parts[:, order[first]]
    return tops, lefts


def scaled_region(region: Region, height: int, width: int, geometry: Scale) -> Region:
    """The region of a (height, width) image after scaling: the pixels of which at least half belong to it, or one."""
    inner_height, inner_width = fitted_size(height, width, geometry)
    top, bottom = _scaled(region.top, region.bottom, height, inner_height)
    left, right = _scaled(region.left, region.right, width, inner_width)
    return Region(top, left, bottom, right)


def _scaled(first: int, end: int, side: int, scaled_side: int) -> tuple[int, int]:
    start, stop = math.ceil(first * scaled_side / side - 0.5), math.floor(end * scaled_side / side + 0.5)
    start = min(start, scaled_side - 1)
    return start, max(start + 1, stop)
