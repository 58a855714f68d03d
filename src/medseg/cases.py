"""One scored picture: where its predicted mask lies, and how picture, truth and prediction are drawn as one."""

from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from medseg.figures import PREDICTION, TRUTH, outlined, within
from medseg.imaging import Pixels, read_mask
from medseg.manifest import crop, read_pair, region_of


def mask_path(folder: Path, file: str) -> Path:
    """Where the predicted mask of the picture `file` lies: `a.png` for a.png and `a.tif.png` for a.tif beside it."""
    return folder / (file if PurePosixPath(file).suffix == ".png" else f"{file}.png")


def draw_case(row: Any, raw: Path, masks: Path, side: int) -> Pixels:
    """The annotated region of a manifest row with the outlines of truth (green) and prediction (red) on it.

    Gives (H, W, 3) uint8 RGB, at most `side` pixels on the longer side. The outlines are drawn after shrinking, so
    that they stay one pixel wide. Raises `UserError` where a file is missing or unreadable.
    """
    image, truth = read_pair(row, raw)
    predicted = read_mask([mask_path(masks, row.file)])
    image, truth, predicted = (crop(pixels, region_of(row)) for pixels in (image, truth, predicted))
    drawn = within(image, min(side, max(image.shape[:2])))
    drawn = drawn.reshape(*drawn.shape[:2], image.shape[2])  # resizing drops the channel axis of grey pictures
    for mask, colour in ((truth, TRUTH), (predicted, PREDICTION)):
        drawn = outlined(drawn, _shrunk(mask, drawn.shape[0], drawn.shape[1]), colour)
    return drawn


def _shrunk(mask: Pixels, height: int, width: int) -> Pixels:
    """A mask of 0 and 1 at another size; a pixel is 1 where at least half of it was."""
    share = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return (share >= 0.5).astype(np.uint8)
