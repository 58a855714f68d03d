"""Files of predictions: masks and maps of uncertainty, their names and formats."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medseg.data.image_io import Pixels, write_png
from medseg.data.mask_io import read_codes, read_mask, write_codes
from medseg.data.task import TaskParams

if TYPE_CHECKING:  # prediction loads no pandas, on which tables of images stand
    from medseg.data.image import Image

MASKS, UNCERTAINTY = "masks", "uncertainty"  # folders with one file per scored image
_MAX_DEVIATION = 0.5  # the greatest standard deviation of values in 0..1: half of them are 0, half are 1


def mask_path(folder: Path, image: "Image") -> Path:
    """The mask or uncertainty map of an image in `folder`."""
    return folder / f"{image.name}.png"


def write_prediction(path: Path, codes: Pixels, task: TaskParams) -> None:
    """Write a predicted mask (H, W) uint8 of class codes as PNG.

    A binary mask is 8-bit grey, 0 and 255. A mask of several classes is a palette image: its values are the class
    codes, its colours those of the overlays.
    """
    if task.has_classes:
        write_codes(path, codes, task.colours)
    else:
        write_png(path, codes * np.uint8(255))


def read_prediction(path: Path, task: TaskParams) -> Pixels:
    """Read the class codes (H, W) uint8 that `write_prediction` wrote. Raises `UserError` naming an unreadable file."""
    return read_codes(path) if task.has_classes else read_mask([path])


def write_uncertainty(path: Path, deviation: NDArray[np.float32]) -> None:
    """Write the standard deviation of probabilities (H, W), 0..0.5, as 8-bit grey PNG: 255 is 0.5."""
    write_png(path, np.rint(deviation / _MAX_DEVIATION * 255).clip(0, 255).astype(np.uint8))
