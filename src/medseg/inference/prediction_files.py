"""Files of predictions: where they lie and in which form."""

from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from medseg.data.image_io import Pixels, write_png
from medseg.data.mask_io import read_codes, read_mask, write_codes
from medseg.data.task import TaskParams

MASKS, UNCERTAINTY = "masks", "uncertainty"  # folders with a file for each scored image
_MOST_UNCERTAIN = 0.5  # the standard deviation of probabilities that are 0 in half the orientations and 1 in the others


def mask_path(folder: Path, file: str) -> Path:
    """Where the map of the image `file` lies in a folder of maps: `a.png` for a.png, `a.tif.png` for a.tif."""
    return folder / (file if PurePosixPath(file).suffix == ".png" else f"{file}.png")


def write_prediction(path: Path, codes: Pixels, task: TaskParams) -> None:
    """Write a predicted mask (H, W) uint8 of codes 0, 1, ... as PNG.

    A binary mask is grey, 0 and 255. With several classes it has a palette: the values are the codes, shown in the
    colours of the overlays.
    """
    if task.has_classes:
        write_codes(path, codes, task.colours)
    else:
        write_png(path, codes * np.uint8(255))


def read_prediction(path: Path, task: TaskParams) -> Pixels:
    """Read the codes (H, W) uint8 that `write_prediction` wrote. Raises `UserError` that names the file."""
    return read_codes(path) if task.has_classes else read_mask([path])


def write_uncertainty(path: Path, deviation: NDArray[np.float32]) -> None:
    """Write a standard deviation of probabilities (H, W), 0..0.5, as grey PNG: 0 is none, 255 is 0.5."""
    write_png(path, np.rint(deviation / _MOST_UNCERTAIN * 255).clip(0, 255).astype(np.uint8))
