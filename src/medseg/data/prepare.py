"""Images to packed arrays of one split."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from medseg.core.errors import UserError
from medseg.core.parallel import MachineParams, run_parallel
from medseg.data.geometry import Geometry, Patchify, Scale, fit, fit_mask, fitted_size, sample_count
from medseg.data.image import Image
from medseg.data.image_io import Pixels
from medseg.data.packed import create_arrays, describe_arrays, sample_writer
from medseg.data.patches import Origin, cut, origins, pad_to, padded_size


@dataclass(frozen=True)
class _Place:
    """Where the samples of one image go in the arrays."""

    image: Image
    first: int  # row of its first sample
    count: int


def prepare(images: Sequence[Image], geometry: Geometry, machine: MachineParams, folder: Path) -> None:
    """Write the samples of the images' annotated regions to packed arrays in `folder`, in the order of `images`.

    Any number of workers writes the same bytes: the place of each image follows from the manifest. Raises `UserError`
    where there is no sample.
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
    first = place.first
    with sample_writer(folder) as write:
        for images, masks in samples_of(*place.image.read_region(), geometry):
            write(first, images, masks)
            first += len(images)


def samples_of(image: Pixels, mask: Pixels, geometry: Geometry) -> Iterator[tuple[Pixels, Pixels]]:
    """The samples of an image (H, W, 1 or 3) and its mask (H, W), as parts (n, h, w, C) and (n, h, w), all uint8.

    Patches come in the order of `patches.origins`, a row at a time: those of a large image may not fit in memory.
    """
    image, mask = fit(image, geometry), fit_mask(mask, geometry)
    if not isinstance(geometry, Patchify):
        yield image[None], mask[None]
        return
    height, width = mask.shape
    if geometry.border == "pad":
        height = padded_size(height, geometry.patch, geometry.stride)
        image, mask = pad_to(image, height, width), pad_to(mask, height, width)
    if width < geometry.patch and geometry.border == "drop":
        return
    for top in range(0, height - geometry.patch + 1, geometry.stride):
        band = slice(top, top + geometry.patch)
        images, masks = (cut(part[band], geometry.patch, geometry.stride, geometry.border) for part in (image, mask))
        yield images, masks


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
    """Height and width of the arrays; with `Scale`, of the largest scaled image."""
    if isinstance(geometry, Patchify):
        return geometry.patch, geometry.patch
    if isinstance(geometry, Scale):
        sizes = np.array([fitted_size(*image.region.size, geometry) for image in images])
        return int(sizes[:, 0].max()), int(sizes[:, 1].max())
    return geometry.height, geometry.width
