"""The window between two percentiles of the training images' pixels: found once, of train alone."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import UserError
from medseg.core.parallel import MachineParams, run_parallel
from medseg.data.image import Image
from medseg.data.image_io import holds_16_bits, read_values
from medseg.data.intensity import IntensityParams, Percentiles, Range, Window

_PARTS = 32  # into which the images are divided, whatever the workers: each gives a histogram of half a megabyte


def resolve_intensity(train: Sequence[Image], params: IntensityParams, machine: MachineParams) -> Range:
    """The range of intensities that `params` means: of percentiles, the window that all pixels of `train` give.

    Raises `UserError` where an image can't be read, or percentiles are asked of files of 8 and of 16 bits together.
    """
    if not isinstance(params, Percentiles):
        return params
    images = [image.at(image.root.absolute()) for image in train]
    parts = min(len(images), _PARTS)
    counts = run_parallel(machine, _histogram, [images[part::parts] for part in range(parts)], "intensities")
    if len({len(values) for values in counts}) > 1:
        raise _mixed()
    return window_between(np.sum(counts, axis=0), params)


def window_between(counts: NDArray[np.int64], params: Percentiles) -> Window:
    """The window between percentiles of pixels; `counts` (256,) or (65536,) says how many have each value.

    A percentile is the least value that so many percent of the pixels do not exceed.
    """
    reached = 100 * np.cumsum(counts) / counts.sum()
    low, high = (int(np.searchsorted(reached, percent)) for percent in (params.low, params.high))
    low = min(low, len(counts) - 2)
    return Window(name="window", bits=8 if len(counts) == 256 else 16, low=low, high=max(low + 1, high))


def _histogram(images: Sequence[Image]) -> NDArray[np.int64]:
    """How many pixels of all images have each value, (256,) or (65536,)."""
    total = None
    for image in images:
        path = image.root / image.file
        values = read_values(path)
        if values.dtype == np.uint8 and holds_16_bits(path):
            raise UserError(f"{path}: 16-bit colours are read at full range alone; convert it to 8 bits, or to grey")
        counts = np.bincount(values.ravel(), minlength=np.iinfo(values.dtype).max + 1)
        if total is not None and len(total) != len(counts):
            raise _mixed()
        total = counts if total is None else total + counts
    assert total is not None  # a part holds an image
    return total


def _mixed() -> UserError:
    return UserError(
        "params.yaml: intensity.name = percentiles: the training images are files of 8 and of 16 bits, which have no "
        "range in common; convert them to one of both"
    )
