"""Images to packed arrays of one split."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from medseg.core.errors import UserError
from medseg.core.parallel import MachineParams, run_parallel
from medseg.data.geometry import Geometry, Patchify, Resize, Scale, fit, sample_count
from medseg.data.image import Image
from medseg.data.image_io import Pixels, holds_16_bits
from medseg.data.lost import Kept, lost_in_words
from medseg.data.packed import create_arrays, describe_arrays, sample_writer
from medseg.data.patches import Origin, cut, origins, pad_to, padded_size
from medseg.data.task import UNANNOTATED
from medseg.data.truth import fit_truth, objects_in, scaled_region
from medseg.datasets.record import Region

Size = tuple[int, int]  # height, width; pixels


@dataclass(frozen=True)
class _Place:
    """Where the samples of one image go in the arrays."""

    image: Image
    first: int  # row of its first sample
    count: int


def prepare(images: Sequence[Image], geometry: Geometry, machine: MachineParams, folder: Path) -> tuple[str, ...]:
    """Write the samples of the images, a split of the manifest, to packed arrays in `folder`, named as the split.

    Samples stand in the order of `images`. Any number of workers writes the same bytes: the place of each image follows
    from the manifest. Returns what was lost, in words, which `about.yaml` holds too. Raises `UserError` where there is
    no sample.
    """
    places = _places(images, geometry)
    total, split = sum(place.count for place in places), folder.name
    if total == 0:
        raise _no_sample(split, geometry)
    frame = sample_size(images, geometry)
    create_arrays(folder, total, *frame, geometry.channels)
    write = partial(_write_samples, geometry=geometry, frame=frame, folder=folder.absolute())
    kept = run_parallel(machine, write, places, f"prepare {split}")
    warnings = tuple(lost_in_words(split, kept, geometry))
    describe_arrays(folder, _index(places, geometry), geometry, images[0].intensity, warnings)
    return warnings


def _no_sample(split: str, geometry: Geometry) -> UserError:
    if not isinstance(geometry, Patchify):
        return UserError(f"the manifest has no image in {split}; see the section split")
    return UserError(
        f"params.yaml: prepare.patch = {geometry.patch}: no image of {split} is as large as a patch; choose a smaller "
        "patch or prepare.border = pad"
    )


def _places(images: Sequence[Image], geometry: Geometry) -> list[_Place]:
    places, first = [], 0
    for image in images:
        count = sample_count(*image.region.size, geometry)
        places.append(_Place(image.at(image.root.absolute()), first, count))
        first += count
    return places


def _write_samples(place: _Place, geometry: Geometry, frame: Size, folder: Path) -> Kept:
    image, first = place.image, place.first
    pixels, mask = image.read()
    with sample_writer(folder) as write:
        for images, truths in samples_of(pixels, mask, image.region, geometry, frame):
            write(first, images, truths)
            first += len(images)
    is_deep = holds_16_bits(image.root / image.file)
    objects, lost = count_objects_lost(mask, image.region, geometry)
    return Kept(image.file, place.count, objects, lost, len(np.unique(pixels)) if is_deep else None)


def count_objects_lost(mask: Pixels, region: Region, geometry: Geometry) -> tuple[int, int]:
    """The annotated objects of a mask (H, W) in its region, and how many of them have no pixel in any sample."""
    annotated = np.zeros_like(mask)
    region.crop(annotated)[...] = region.crop(mask)
    if not annotated.any():
        return 0, 0
    truth = fit_truth(mask, region, geometry)
    if isinstance(geometry, Patchify) and geometry.border == "drop":
        starts = origins(*region.size, geometry.patch, geometry.stride, "drop")
        bottom, right = (max(ends) for ends in zip(*starts, strict=True)) if starts else (-geometry.patch,) * 2
        truth[region.top + bottom + geometry.patch :] = UNANNOTATED
        truth[:, region.left + right + geometry.patch :] = UNANNOTATED
    found = objects_in(annotated, truth, geometry)
    return found.count, len(found.lost)


def samples_of(
    image: Pixels, mask: Pixels, region: Region, geometry: Geometry, frame: Size
) -> Iterator[tuple[Pixels, Pixels]]:
    """The samples of a whole image (H, W, 1 or 3) and its mask (H, W), as parts (n, h, w, C) and (n, h, w), all uint8.

    Evaluation and prediction give the network whole images, so samples are cut from the whole image after `fit`. They
    hold the annotated `region`, and of its surroundings what lies in the sample; there, truth is `UNANNOTATED`.

    - `resize`: the whole image;
    - `scale`: a window of `frame` around the region, moved to lie in the image, black where the image is smaller;
    - `patchify`: patches in the order of `patches.origins` from the region's corner on, a row at a time, since those of
      a large image may not fit in memory; mirrored where they reach beyond the image.
    """
    image, truth = fit(image, geometry), fit_truth(mask, region, geometry)
    if isinstance(geometry, Resize):
        yield image[None], truth[None]
    elif isinstance(geometry, Scale):
        yield _window(image, truth, scaled_region(region, mask.shape[0], mask.shape[1], geometry), frame)
    else:
        yield from _patches(image, truth, region, geometry)


def _window(image: Pixels, truth: Pixels, region: Region, frame: Size) -> tuple[Pixels, Pixels]:
    top, left = (
        max(0, min(first, side - length))
        for first, side, length in zip((region.top, region.left), truth.shape, frame, strict=True)
    )
    images, truths = np.zeros((1, *frame, image.shape[2]), np.uint8), np.full((1, *frame), UNANNOTATED, np.uint8)
    for part, whole in ((images[0], image), (truths[0], truth)):
        seen = whole[top : top + frame[0], left : left + frame[1]]
        part[: seen.shape[0], : seen.shape[1]] = seen
    return images, truths


def _patches(image: Pixels, truth: Pixels, region: Region, geometry: Patchify) -> Iterator[tuple[Pixels, Pixels]]:
    height, width = region.size
    if geometry.border == "pad":
        height, width = (padded_size(side, geometry.patch, geometry.stride) for side in region.size)
    if min(height, width) < geometry.patch:
        return
    bottom, right = region.top + height, region.left + width
    whole = max(bottom, truth.shape[0]), max(right, truth.shape[1])
    image, truth = (pad_to(part, *whole)[region.top : bottom, region.left : right] for part in (image, truth))
    for top in range(0, height - geometry.patch + 1, geometry.stride):
        band = slice(top, top + geometry.patch)
        images, truths = (cut(part[band], geometry.patch, geometry.stride, "drop") for part in (image, truth))
        yield images, truths


def _index(places: list[_Place], geometry: Geometry) -> pd.DataFrame:
    """The rows of `index.csv`."""
    return pd.DataFrame(
        [
            {
                "file": place.image.file,
                "label": place.image.label,
                "group": place.image.group,
                "sha256": place.image.sha256,
                "phash": place.image.phash,
                "patient": place.image.patient,
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


def sample_size(images: Sequence[Image], geometry: Geometry) -> Size:
    """Height and width of the samples of all `images`; with `Scale`, of the largest scaled region."""
    if isinstance(geometry, Patchify):
        return geometry.patch, geometry.patch
    if isinstance(geometry, Scale):
        regions = [scaled_region(image.region, image.height, image.width, geometry) for image in images]
        sizes = np.array([region.size for region in regions])
        return int(sizes[:, 0].max()), int(sizes[:, 1].max())
    return geometry.height, geometry.width
