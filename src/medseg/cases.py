"""One scored picture: where its predicted mask lies, in which form, and how picture, truth and prediction are drawn."""

from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from medseg.classes import Binary, TaskParams, class_names
from medseg.figures import TRUTH, class_colours, outlined, within
from medseg.imaging import Pixels, read_codes, read_mask, write_codes, write_png
from medseg.manifest import crop, read_pair, region_of

MASKS, UNCERTAINTY = "masks", "uncertainty"  # folders with a file for each scored picture
_MOST_UNCERTAIN = 0.5  # the standard deviation of probabilities that are 0 in half the orientations and 1 in the others


def mask_path(folder: Path, file: str) -> Path:
    """Where the map of the picture `file` lies in a folder of maps: `a.png` for a.png, `a.tif.png` for a.tif."""
    return folder / (file if PurePosixPath(file).suffix == ".png" else f"{file}.png")


def write_prediction(path: Path, codes: Pixels, task: TaskParams) -> None:
    """Write a predicted mask (H, W) uint8 of codes 0, 1, ... as PNG.

    A binary mask is grey, 0 and 255. With several classes it has a palette: the values are the codes, shown in the
    colours of the overlays.
    """
    if isinstance(task, Binary):
        write_png(path, codes * np.uint8(255))
    else:
        write_codes(path, codes, class_colours(len(task.labels)))


def read_prediction(path: Path, task: TaskParams) -> Pixels:
    """Read the codes (H, W) uint8 that `write_prediction` wrote. Raises `UserError` that names the file."""
    return read_mask([path]) if isinstance(task, Binary) else read_codes(path)


def write_uncertainty(path: Path, deviation: NDArray[np.float32]) -> None:
    """Write a standard deviation of probabilities (H, W), 0..0.5, as grey PNG: 0 is none, 255 is 0.5."""
    write_png(path, np.rint(deviation / _MOST_UNCERTAIN * 255).clip(0, 255).astype(np.uint8))


def read_case(row: Any, raw: Path, predictions: Path, task: TaskParams) -> tuple[Pixels, Pixels, list[Pixels]]:
    """The annotated region of a manifest row: picture (H, W, 1 or 3), truth (H, W) and the mask (H, W) of each class.

    Masks are uint8 of 0 and 1. Raises `UserError` where a file is missing or unreadable.
    """
    image, truth = read_pair(row, raw)
    codes = read_prediction(mask_path(predictions / MASKS, row.file), task)
    image, truth, codes = (crop(pixels, region_of(row)) for pixels in (image, truth, codes))
    return image, truth, [(codes == code).astype(np.uint8) for code in range(1, len(class_names(task)) + 1)]


def draw_case(row: Any, raw: Path, predictions: Path, task: TaskParams, side: int) -> Pixels:
    """The annotated region of a manifest row with the outlines of truth (green) and of each predicted class on it.

    Gives (H, W, 3) uint8 RGB, at most `side` pixels on the longer side. A binary prediction is red, classes have the
    colours of `figures.class_colours`. The outlines are drawn after shrinking, so that they stay one pixel wide.
    Raises `UserError` where a file is missing or unreadable.
    """
    image, truth, found = read_case(row, raw, predictions, task)
    drawn = within(image, min(side, max(image.shape[:2])))
    drawn = drawn.reshape(*drawn.shape[:2], image.shape[2])  # resizing drops the channel axis of grey pictures
    for mask, colour in [(truth, TRUTH), *zip(found, class_colours(len(found)), strict=True)]:
        drawn = outlined(drawn, _shrunk(mask, drawn.shape[0], drawn.shape[1]), colour)
    return drawn


def coloured(deviation: Pixels) -> Pixels:
    """A map (H, W) or (H, W, 1) uint8, as `write_uncertainty` writes it, as RGB: black, violet, orange, yellow."""
    return cv2.cvtColor(cv2.applyColorMap(deviation, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB).astype(np.uint8)


def _shrunk(mask: NDArray[Any], height: int, width: int) -> Pixels:
    """A mask of 0 and 1 at another size; a pixel is 1 where at least half of it was."""
    share = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return (share >= 0.5).astype(np.uint8)
