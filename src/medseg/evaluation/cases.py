"""Reading and drawing one scored image with its truth and its prediction."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from medseg.data.colours import TRUTH
from medseg.data.image import Image
from medseg.data.image_io import Pixels
from medseg.data.task import TaskParams
from medseg.inference.prediction_files import MASKS, mask_path, read_prediction
from medseg.previews.drawing import filled, outlined, within


def read_case(image: Image, predictions: Path, task: TaskParams) -> tuple[Pixels, Pixels, list[Pixels]]:
    """The annotated region of an image: pixels (H, W, 1 or 3), truth (H, W) and the mask (H, W) of each class.

    Masks are uint8 of 0 and 1. Raises `UserError` where a file is missing or unreadable.
    """
    pixels, truth = image.read_region()
    codes = image.crop(read_prediction(mask_path(predictions / MASKS, image), task))
    return pixels, truth, [(codes == code).astype(np.uint8) for code in range(1, len(task.class_names) + 1)]


def draw_case(image: Image, predictions: Path, task: TaskParams, side: int) -> Pixels:
    """The annotated region of an image with the truth (green, tinted) and the outlines of each predicted class on it.

    Gives (H, W, 3) uint8 RGB, at most `side` pixels on the longer side. A binary prediction is red, classes have the
    colours of the task. The outlines are drawn after shrinking, so that they stay one pixel wide.
    Raises `UserError` where a file is missing or unreadable.
    """
    pixels, truth, found = read_case(image, predictions, task)
    drawn = within(pixels, min(side, max(pixels.shape[:2])))
    drawn = drawn.reshape(*drawn.shape[:2], pixels.shape[2])  # resizing drops the channel axis of grey images
    drawn = filled(drawn, _shrunk(truth, drawn.shape[0], drawn.shape[1]), TRUTH, opacity=0.15)
    for mask, colour in [(truth, TRUTH), *zip(found, task.colours, strict=True)]:
        drawn = outlined(drawn, _shrunk(mask, drawn.shape[0], drawn.shape[1]), colour)
    return drawn


def coloured(deviation: Pixels) -> Pixels:
    """A map (H, W) or (H, W, 1) uint8, as `write_uncertainty` writes it, as RGB: black, violet, orange, yellow."""
    return cv2.cvtColor(cv2.applyColorMap(deviation, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB).astype(np.uint8)


def _shrunk(mask: NDArray[Any], height: int, width: int) -> Pixels:
    """A mask of 0 and 1 at a smaller size; a pixel is 1 where at least half of its area was."""
    share = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return (share >= 0.5).astype(np.uint8)
