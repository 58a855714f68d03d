"""The command `medseg predict`: finding the images, writing the files of each, and a table of all."""

import csv
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from medseg.core.cells import is_formula
from medseg.core.errors import UserError
from medseg.core.files import atomic_file, write_text
from medseg.data.image_io import Pixels, read_image, write_png
from medseg.data.task import TaskParams
from medseg.inference.crf import load_library
from medseg.inference.geojson import feature_collection
from medseg.inference.postprocess import Probabilities
from medseg.inference.prediction_files import write_prediction
from medseg.inference.predictor import Predictor
from medseg.inference.settings import SegmenterDescription
from medseg.metrics.counting import count_objects
from medseg.previews.drawing import outlined, within

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"}  # of the images in a folder
BATCH_SIZE = 64  # tiles, enough to keep a GPU busy; `predict_tiles` takes fewer of large ones
OVERLAY_SIDE = 1600  # pixels, the greatest length of the longer side
TABLE = "predictions.csv"
CLASS_COLUMNS = ("pixels", "share", "objects", "counted")  # of the table, each preceded by the class


def find_images(arguments: Sequence[str], out: Path) -> list[Path]:
    """The images that files, folders and patterns name: absolute paths, sorted, without duplicates.

    A folder stands for all files below it, at any depth, with one of `SUFFIXES`, except hidden ones. Files and patterns
    (`*`, `?`, `[...]`, and `**` for any depth) are taken whatever their suffix. Files in `out` are left out. Raises
    `UserError` where an argument names nothing, or no image is found.
    """
    found = {_absolute(path) for argument in arguments for path in _matches(argument)}
    out = _absolute(out)
    images = sorted(path for path in found if not path.is_relative_to(out))
    if not images:
        raise UserError(f"{' '.join(arguments)}: no image found; in folders they end in {' '.join(sorted(SUFFIXES))}")
    return images


def output_names(images: Sequence[Path]) -> dict[Path, str]:
    """The name of each image's outputs: its path below the folder common to all images, without suffix.

    Images whose names would be equal, such as a.png and a.tif, keep their suffix.
    """
    base = os.path.commonpath([path.parent for path in images])
    names = {path: path.relative_to(base).with_suffix("").as_posix() for path in images}
    while len(set(names.values())) < len(names):
        counts = Counter(names.values())
        names = {path: path.relative_to(base).as_posix() if counts[name] > 1 else name for path, name in names.items()}
    return names


def predict_images(predictor: Predictor, images: Sequence[Path], out: Path) -> None:
    """Predict images of any size, as evaluation does, and write into `out`, with NAME from `output_names`:

    - masks/NAME.png: class codes, in the form of `prediction_files.write_prediction`;
    - probabilities/NAME.png: 16-bit grey, 0..65535 for the probability 0..1 of foreground; with several classes
      probabilities/CODE/NAME.png for each;
    - contours/NAME.geojson: as `geojson.feature_collection` gives them;
    - overlays/NAME.png: the image with the outlines of each class, its longer side at most `OVERLAY_SIDE`;
    - predictions.csv: a row per image: file, name, width, height, and of each class CLASS_pixels, CLASS_share (of the
      image's pixels), CLASS_objects (8-connected), and CLASS_counted: objects by the rule scoring.counting.prediction
      of model.yaml, which may drop small ones and separate touching ones.

    An image that fails is left out and the others go on; other files in `out` stay. Raises `UserError` at the end,
    which names all images that failed, and why.
    """
    if predictor.description.chosen.choices.crf is not None:
        load_library()  # one message where it is missing, not one for each image
    rows, failed = [], []
    for path, name in tqdm(output_names(images).items(), desc="predict", disable=None):
        try:
            rows.append({"file": str(path), "name": name} | _predict_one(predictor, path, out, name))
        # PyTorch raises RuntimeError where memory runs out.
        except (UserError, OSError, MemoryError, RuntimeError, cv2.error) as error:
            failed.append(str(error) if str(path) in str(error) else f"{path}: {str(error) or type(error).__name__}")
    _write_table(out / TABLE, rows, predictor.description.task)
    if failed:
        head = f"{len(failed)} of {len(images)} images failed; {out / TABLE} holds the others:"
        raise UserError("\n       ".join([head, *failed]))


def _matches(argument: str) -> Iterable[Path]:
    path = Path(argument)
    base = Path(path.anchor)  # Path.glob takes relative patterns alone
    try:
        if path.is_dir():
            return _in_folder(path)
        if path.exists():
            return [path]
        matches = list(base.glob(str(path.relative_to(base))))
    except (OSError, ValueError) as error:  # a name that is too long; ** beside letters
        raise UserError(f"{argument}: {error}") from error
    if not matches:
        raise UserError(f"{argument}: no such image, folder or pattern of images")
    return [match for match in matches if match.is_file()]


def _absolute(path: Path) -> Path:
    # Links are not resolved: their targets may lie in a cache and be named by hashes.
    return Path(os.path.normpath(Path.cwd() / path))


def _in_folder(folder: Path) -> Iterable[Path]:
    for path in folder.rglob("*"):
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and not is_hidden and path.is_file():
            yield path


def _predict_one(predictor: Predictor, path: Path, out: Path, name: str) -> dict[str, Any]:
    """Write the files of one image and return its row of the table."""
    # Python decodes bytes that are no UTF-8 to surrogates; `csv` does not quote a carriage return.
    if any(letter == "\r" or "\ud800" <= letter <= "\udfff" for letter in str(path)):
        raise UserError(f"{path}: its name is no UTF-8 or holds a carriage return; rename it for the table's sake")
    if is_formula(name):
        raise UserError(f"{path}: a spreadsheet would run its name in the table as a formula; rename it")
    image, task = read_image(path), predictor.description.task
    prediction = predictor.predict(image, BATCH_SIZE)
    codes = prediction.codes
    objects = feature_collection(codes, task)
    write_prediction(out / "masks" / f"{name}.png", codes, task)
    write_text(out / "contours" / f"{name}.geojson", json.dumps(objects, separators=(",", ":")) + "\n")
    write_png(out / "overlays" / f"{name}.png", _overlay(image, codes, task))
    _write_probabilities(out / "probabilities", name, prediction.probabilities, task)
    return _row(codes, objects, predictor.description)


def _row(codes: Pixels, objects: dict[str, Any], description: SegmenterDescription) -> dict[str, Any]:
    row: dict[str, Any] = {"width": codes.shape[1], "height": codes.shape[0]}
    connected = Counter(feature["properties"]["code"] for feature in objects["features"])
    for code, name in enumerate(description.task.class_names, start=1):
        mask = codes == code
        pixels = int(mask.sum())
        counted = count_objects(mask, description.scoring.counting.prediction)
        values = (pixels, round(pixels / codes.size, 6), connected[code], counted)
        row |= {f"{name}_{column}": value for column, value in zip(CLASS_COLUMNS, values, strict=True)}
    return row


def _overlay(image: Pixels, codes: Pixels, task: TaskParams) -> Pixels:
    """The overlay (H, W, 3) uint8; outlines are drawn after shrinking, so that they stay one pixel wide."""
    drawn = within(image, min(OVERLAY_SIDE, max(image.shape[:2])))
    drawn = drawn.reshape(*drawn.shape[:2], image.shape[2])  # OpenCV drops the channel axis of grey images
    for code, colour in enumerate(task.colours, start=1):
        mask = (codes == code).astype(np.float32)
        coverage = cv2.resize(mask, (drawn.shape[1], drawn.shape[0]), interpolation=cv2.INTER_AREA)
        drawn = outlined(drawn, (coverage >= 0.5).astype(np.uint8), colour)
    return drawn


def _write_probabilities(folder: Path, name: str, probabilities: Probabilities, task: TaskParams) -> None:
    if not task.has_classes:
        _write_16_bit(folder / f"{name}.png", probabilities[0])
        return
    for code, probability in enumerate(probabilities[1:], start=1):
        _write_16_bit(folder / str(code) / f"{name}.png", probability)


def _write_16_bit(path: Path, probability: Probabilities) -> None:
    # Blending tiles may exceed 1 by a rounding error.
    values = np.clip(probability, 0, 1)
    values *= 65535
    image = Image.fromarray(values.round(out=values).astype(np.uint16))
    with atomic_file(path) as partial:
        image.save(partial, format="PNG")


def _write_table(path: Path, rows: list[dict[str, Any]], task: TaskParams) -> None:
    columns = [f"{name}_{column}" for name in task.class_names for column in CLASS_COLUMNS]
    with atomic_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["file", "name", "width", "height", *columns], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
