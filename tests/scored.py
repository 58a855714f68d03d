"""Images with their truths, and networks of one line that see nothing but brightness, to be scored."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tiny

from medseg.data.geometry import Geometry, Patchify
from medseg.data.image import Image
from medseg.data.image_io import Pixels
from medseg.data.task import Multiclass
from medseg.evaluation.evaluate import Evaluation, evaluate
from medseg.inference.postprocess import Probabilities
from medseg.inference.predictor import Predictor
from medseg.inference.sliding_window import Forward

TILES = Patchify(name="patchify", channels=1, patch=16, stride=16, border="pad")
THREE = Multiclass(name="multiclass", background="normal", labels=["benign", "malignant"])
LEVELS = (20, 120, 220)  # grey values that `levels` takes for background, benign and malignant


def bright(pixels: Pixels) -> Probabilities:
    """Foreground where a pixel is above 128."""
    logits = (pixels[..., 0].astype(np.float64) - 128.5) / 16
    probabilities: Probabilities = (1 / (1 + np.exp(-logits))).astype(np.float32)[:, None]
    return probabilities


def levels(pixels: Pixels) -> Probabilities:
    """The class whose grey value is nearest."""
    logits = np.stack([-(((pixels[..., 0].astype(np.float64) - level) / 16) ** 2) for level in LEVELS], axis=1)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Probabilities = (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities


def drawn(mask: Pixels) -> Pixels:
    """A grey image that `bright` segments as `mask`."""
    return (mask * np.uint8(200) + 20)[..., None].astype(np.uint8)


def run(
    folder: Path,
    images: Sequence[Image],
    geometry: Geometry = TILES,
    forward: Forward = bright,
    **choices: Any,
) -> Evaluation:
    """Score `images`, and leave what is predicted in `folder`."""
    return evaluate(Predictor(tiny.segmenter(geometry, **choices), forward), images, 2, folder)


def run_classes(folder: Path, images: Sequence[Image]) -> Evaluation:
    """As `run`, with `levels`."""
    return run(folder, images, forward=levels, task=THREE)


def half(height: int, width: int) -> Pixels:
    mask = np.zeros((height, width), np.uint8)
    mask[:, : width // 2] = 1
    return mask


def four_images(raw: Path) -> list[Image]:
    """One found whole (Dice 1), one found by half (2/3), one missed (0), one empty with false positives."""
    nothing = np.zeros((20, 30), np.uint8)
    all_over = np.ones((20, 30), np.uint8)
    return [
        tiny.image(raw, "whole.png", drawn(half(20, 30)), half(20, 30), label="benign"),
        tiny.image(raw, "by half.png", drawn(half(20, 30)), all_over, label="malignant"),
        tiny.image(raw, "missed.png", drawn(nothing), half(20, 30), label="malignant"),
        tiny.image(raw, "empty.png", drawn(half(20, 30)), nothing, label="normal"),
    ]


def shown(codes: Pixels) -> Pixels:
    """A grey image that `levels` segments as `codes`."""
    return np.array(LEVELS, np.uint8)[codes][..., None]


def blocks(*parts: tuple[int, int, int, int, int]) -> Pixels:
    """Codes (20, 30), 0 but for rectangles given as code, top, bottom, left, right."""
    codes = np.zeros((20, 30), np.uint8)
    for code, top, bottom, left, right in parts:
        codes[top:bottom, left:right] = code
    return codes


NOTHING = np.zeros((20, 30), np.uint8)
PREDICTED = {
    "good.png": ("benign", half(20, 30), blocks((1, 0, 20, 0, 10), (2, 0, 20, 10, 15))),
    "wrong class.png": ("malignant", half(20, 30), blocks((1, 0, 20, 0, 15))),
    "missed.png": ("malignant", half(20, 30), NOTHING),
    "tie.png": ("malignant", half(20, 30), blocks((1, 0, 10, 0, 15), (2, 10, 20, 0, 15))),
    "false alarm.png": ("normal", NOTHING, blocks((2, 0, 20, 0, 15))),
    "quiet.png": ("normal", NOTHING, NOTHING),
}


def images_of_classes(raw: Path) -> list[Image]:
    """The images of `PREDICTED`."""
    return [
        tiny.image(raw, file, shown(codes), truth, label=label) for file, (label, truth, codes) in PREDICTED.items()
    ]
