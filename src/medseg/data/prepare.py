"""From the manifest's images to packed arrays of one split."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from medseg.core.errors import UserError
from medseg.core.parallel import MachineParams, run_parallel
from medseg.data.geometry import Geometry, Patchify, Scale, fitted_size, sample_count, to_samples
from medseg.data.image import Image
from medseg.data.image_io import Pixels, to_channels
from medseg.data.packed import create_arrays, describe_arrays, sample_writer
from medseg.data.patches import Origin, origins, pad_to, padded_size


@dataclass(frozen=True)
class _Place:
    """Where the samples of one image go."""

    image: Image
    first: int
    count: int


def prepare(images: Sequence[Image], geometry: Geometry, machine: MachineParams, folder: Path) -> None:
    """Write the samples of `images` to `folder`, in their order, inside their annotated regions only.

    Any number of workers writes the same bytes: each image's place is known from the manifest before work begins.
    Raises `UserError` where no sample results.
    """
    places = _places(images, geometry)
    total = sum(place.count for place in places)
    if total == 0:
        raise UserError("params.yaml: prepare: no image is as large as a patch; choose a smaller patch or border: pad")
    create_arrays(folder, total, *_frame(images, geometry), geometry.channels)
    write = partial(_write_samples, geometry=geometry, folder=folder.absolute())
    run_parallel(machine, write, places, f"prepare {folder.name}")
    describe_arrays(folder, _index(places, geometry), geometry)


def _places(images: Sequence[Image], geometry: Geometry) -> list[_Place]:
    places, first = [], 0
    for image in images:
        count = sample_count(*image.region.size, geometry)
        places.append(_Place(image.at(image.root.absolute()), first, count))
        first += count
    return places


def _write_samples(place: _Place, geometry: Geometry, folder: Path) -> None:
    image, mask = place.image.read_region()
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


def _index(places: list[_Place], geometry: Geometry) -> pd.DataFrame:
    """The rows of `index.csv`."""
    return pd.DataFrame(
        [
            {
                "file": place.image.file,
                "label": place.image.label,
                "group": place.image.group,
                "top": top,
                "left": left,
                "variant": 0,
            }
            for place in places
            for top, left in _corners(place.image, geometry)
        ]
    )


def _corners(image: Image, geometry: Geometry) -> list[Origin]:
    """Top and left of each sample of an image in its region, pixels."""
    if isinstance(geometry, Patchify):
        return origins(*image.region.size, geometry.patch, geometry.stride, geometry.border)
    return [(0, 0)]


def _frame(images: Sequence[Image], geometry: Geometry) -> tuple[int, int]:
    """Height and width of the arrays: the largest scaled image, so that smaller ones are padded with 0."""
    if isinstance(geometry, Patchify):
        return geometry.patch, geometry.patch
    if isinstance(geometry, Scale):
        sizes = np.array([fitted_size(*image.region.size, geometry) for image in images])
        return int(sizes[:, 0].max()), int(sizes[:, 1].max())
    return geometry.height, geometry.width
