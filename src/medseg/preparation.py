"""From the manifest's pictures to packed arrays of one split."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medseg.errors import UserError
from medseg.geometry import Geometry, Patchify, Scale, fitted_size, sample_count, to_samples
from medseg.imaging import Pixels
from medseg.machine import MachineParams, run_parallel
from medseg.manifest import crop, read_pair, region_of
from medseg.patches import origins
from medseg.store import create_arrays, describe_arrays


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
        raise UserError(
            "params.yaml: prepare: no picture is as large as a patch; choose a smaller patch or border: pad"
        )
    images, masks = create_arrays(folder, total, *_frame(rows, geometry), geometry.channels)

    def write(place: _Place) -> None:
        _write_samples(place, raw, geometry, images, masks)

    run_parallel(machine.model_copy(update={"backend": "threading"}), write, places, f"prepare {folder.name}")
    describe_arrays(folder, pd.DataFrame([line for place in places for line in _index(place, geometry)]), geometry)


def _places(rows: pd.DataFrame, geometry: Geometry) -> list[_Place]:
    places, first = [], 0
    for row in rows.itertuples():
        count = sample_count(*_region_size(row), geometry)
        places.append(_Place(row, first, count))
        first += count
    return places


def _write_samples(place: _Place, raw: Path, geometry: Geometry, images: Pixels, masks: Pixels) -> None:
    region = region_of(place.row)
    image, mask = (crop(pixels, region) for pixels in read_pair(place.row, raw))
    image_samples, mask_samples = to_samples(image, mask, geometry)
    if len(image_samples) == 0:
        return
    height, width = image_samples.shape[1:3]
    target = slice(place.first, place.first + place.count)
    images[target, :height, :width] = image_samples
    masks[target, :height, :width] = mask_samples


def _index(place: _Place, geometry: Geometry) -> list[dict[str, Any]]:
    corners = [(0, 0)]
    if isinstance(geometry, Patchify):
        corners = origins(*_region_size(place.row), geometry.patch, geometry.stride, geometry.border)
    row = place.row
    return [
        {"file": row.file, "label": row.label, "group": row.group, "top": top, "left": left, "variant": 0}
        for top, left in corners
    ]


def _frame(rows: pd.DataFrame, geometry: Geometry) -> tuple[int, int]:
    """Height and width of the arrays: the largest scaled picture, so that smaller ones are padded with 0."""
    if isinstance(geometry, Patchify):
        return geometry.patch, geometry.patch
    if isinstance(geometry, Scale):
        sizes = np.array([fitted_size(*_region_size(row), geometry) for row in rows.itertuples()])
        return int(sizes[:, 0].max()), int(sizes[:, 1].max())
    return geometry.height, geometry.width


def _region_size(row: Any) -> tuple[int, int]:
    region = region_of(row)
    return region.bottom - region.top, region.right - region.left
