"""From the manifest's images to packed arrays of one split."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medseg.core.errors import UserError
from medseg.core.parallel import MachineParams, run_parallel
from medseg.data.geometry import Geometry, Patchify, Scale, fitted_size, sample_count, to_samples
from medseg.data.image_io import Pixels, to_channels
from medseg.data.manifest import crop, read_pair, region_of
from medseg.data.packed import create_arrays, describe_arrays, sample_writer
from medseg.data.patches import origins, pad_to, padded_size


@dataclass(frozen=True)
class _Place:
    """Where the samples of one manifest row go."""

    row: Any
    first: int
    count: int


def prepare(rows: pd.DataFrame, raw: Path, geometry: Geometry, machine: MachineParams, folder: Path) -> None:
    """Write the samples of the manifest's `rows` to `folder`, in their order, inside their annotated regions only.

    Any number of workers writes the same bytes: each row's place is known from the manifest before work begins.
    Raises `UserError` where no sample results.
    """
    places = _places(rows, geometry)
    total = sum(place.count for place in places)
    if total == 0:
        raise UserError("params.yaml: prepare: no image is as large as a patch; choose a smaller patch or border: pad")
    create_arrays(folder, total, *_frame(rows, geometry), geometry.channels)
    write = partial(_write_samples, raw=raw.absolute(), geometry=geometry, folder=folder.absolute())
    run_parallel(machine, write, places, f"prepare {folder.name}")
    describe_arrays(folder, _index(rows, places, geometry), geometry)


def _places(rows: pd.DataFrame, geometry: Geometry) -> list[_Place]:
    places, first = [], 0
    for row in rows.itertuples():
        count = sample_count(*_region_size(row), geometry)
        places.append(_Place(row, first, count))
        first += count
    return places


def _write_samples(place: _Place, raw: Path, geometry: Geometry, folder: Path) -> None:
    region = region_of(place.row)
    image, mask = (crop(pixels, region) for pixels in read_pair(place.row, raw))
    first = place.first
    with sample_writer(folder) as write:
        for images, masks in _parts(to_channels(image, geometry.channels), mask, geometry):
            write(first, images, masks)
            first += len(images)


def _parts(image: Pixels, mask: Pixels, geometry: Geometry) -> Iterator[tuple[Pixels, Pixels]]:
    """The samples of an image in turn; patches row by row: all those of a large image might not fit in memory."""
    if not isinstance(geometry, Patchify):
        yield to_samples(image, mask, geometry)
        return
    height, width = mask.shape
    if geometry.border == "pad":
        height = padded_size(height, geometry.patch, geometry.stride)
        image, mask = pad_to(image, height, width), pad_to(mask, height, width)
    if width < geometry.patch and geometry.border == "drop":
        return
    for top in range(0, height - geometry.patch + 1, geometry.stride):
        band = slice(top, top + geometry.patch)
        yield to_samples(image[band], mask[band], geometry)


def _index(rows: pd.DataFrame, places: list[_Place], geometry: Geometry) -> pd.DataFrame:
    """The rows of `index.csv`."""
    counts = [place.count for place in places]
    corners = np.concatenate([_corners(place.row, geometry) for place in places])
    index = rows[["file", "label", "group"]].iloc[np.repeat(np.arange(len(rows)), counts)].reset_index(drop=True)
    return index.assign(top=corners[:, 0], left=corners[:, 1], variant=0)


def _corners(row: Any, geometry: Geometry) -> NDArray[np.int64]:
    """(N, 2): top and left of each sample of a manifest row, pixels."""
    corners = [(0, 0)]
    if isinstance(geometry, Patchify):
        corners = origins(*_region_size(row), geometry.patch, geometry.stride, geometry.border)
    return np.array(corners, np.int64).reshape(-1, 2)


def _frame(rows: pd.DataFrame, geometry: Geometry) -> tuple[int, int]:
    """Height and width of the arrays: the largest scaled image, so that smaller ones are padded with 0."""
    if isinstance(geometry, Patchify):
        return geometry.patch, geometry.patch
    if isinstance(geometry, Scale):
        sizes = np.array([fitted_size(*_region_size(row), geometry) for row in rows.itertuples()])
        return int(sizes[:, 0].max()), int(sizes[:, 1].max())
    return geometry.height, geometry.width


def _region_size(row: Any) -> tuple[int, int]:
    region = region_of(row)
    return region.bottom - region.top, region.right - region.left
