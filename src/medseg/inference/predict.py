"""The command `medseg predict`: finding the images, writing the files of each, and a table of all."""

import csv
import glob
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from medseg.core.cells import is_formula
from medseg.core.errors import UserError
from medseg.core.files import PARTIAL_PREFIX, atomic_file, check_folder, write_text
from medseg.core.folders import files_below
from medseg.core.locks import sole_writer
from medseg.data.image_io import SUFFIXES, Pixels, read_image, write_png
from medseg.data.output_names import output_names
from medseg.data.task import TaskParams
from medseg.inference.crf import load_library
from medseg.inference.geojson import feature_collection
from medseg.inference.postprocess import Probabilities
from medseg.inference.prediction_files import MASKS, write_prediction
from medseg.inference.predictor import Predictor
from medseg.inference.settings import SegmenterDescription
from medseg.metrics.counting import count_objects
from medseg.previews.drawing import outlined, within

BATCH_SIZE = 64  # tiles, enough to keep a GPU busy; `predict_tiles` takes fewer of large ones
OVERLAY_SIDE = 1600  # pixels, the greatest length of the longer side
TABLE = "predictions.csv"
COLUMNS = ("file", "name", "width", "height")  # of the table, the first ones
HEAD = ",".join(COLUMNS).encode()
CONTOURS, OVERLAYS, PROBABILITIES = "contours", "overlays", "probabilities"
FOLDERS = (MASKS, CONTOURS, OVERLAYS, PROBABILITIES)
LOCK = f"{PARTIAL_PREFIX}lock"  # in the folder that is written to
CLASS_COLUMNS = ("pixels", "share", "objects", "counted")  # of the table, each preceded by the class


@dataclass(frozen=True)
class _Outputs:
    """The files that are written for an image."""

    name: str
    mask: Path
    contours: Path
    overlay: Path
    probabilities: list[Path]  # of foreground; with several classes, of each


def find_images(arguments: Sequence[str], out: Path) -> list[Path]:
    """The images that files, folders and patterns name: absolute paths, sorted, each image once.

    A folder stands for all files below it, at any depth, links to folders followed, with one of the `SUFFIXES` of
    images, except hidden ones. Files and patterns (`*`, `?`, `[...]`, and `**` for any depth) are taken whatever their
    suffix. Files in `out` are left out. Raises `UserError` where an argument names nothing, a link leads back to a
    folder that it lies in, or no image is found.
    """
    found = {_place(path): path for argument in arguments for path in sorted(_matches(argument), reverse=True)}
    if not found:
        raise UserError(f"{' '.join(arguments)}: no image found; in folders they end in {' '.join(sorted(SUFFIXES))}")
    images = sorted(_absolute(path) for place, path in found.items() if not place.is_relative_to(out.resolve()))
    if not images:
        raise UserError(f"{' '.join(arguments)}: all images lie in --out {out}, what is predicted; name another folder")
    return images


def name_images(images: Sequence[Path]) -> dict[Path, str]:
    """The name of each image's outputs: that of `output_names`, below the folder common to all images."""
    base = os.path.commonpath([path.parent for path in images])
    names = output_names(path.relative_to(base).as_posix() for path in images)
    return {path: names[path.relative_to(base).as_posix()] for path in images}


def check_out(out: Path) -> None:
    """Raise `UserError` where `out` can't be a folder, or holds masks and the like that no prediction wrote."""
    check_folder(out, "--out")
    if not out.exists():
        return
    if (out / TABLE).is_file():
        with (out / TABLE).open("rb") as table:
            head = table.read(len(HEAD))
        if head not in (b"", HEAD):  # empty: of a prediction that did not end
            raise UserError(f"--out {out}: its {TABLE} is none that a prediction wrote; name another folder")
        return
    if foreign := [folder for folder in FOLDERS if os.path.lexists(out / folder)]:
        raise UserError(f"--out {out}: holds {', '.join(foreign)} that no prediction wrote; name another folder")


def predict_images(predictor: Predictor, images: Sequence[Path], out: Path) -> None:
    """Predict images of any size, as evaluation does, and write into `out`, with NAME from `name_images`:

    - masks/NAME.png: class codes, in the form of `prediction_files.write_prediction`;
    - probabilities/NAME.png: 16-bit grey, 0..65535 for the probability 0..1 of foreground; with several classes
      probabilities/CODE/NAME.png for each;
    - contours/NAME.geojson: as `geojson.feature_collection` gives them;
    - overlays/NAME.png: the image with the outlines of each class, its longer side at most `OVERLAY_SIDE`;
    - predictions.csv: a row per image: file, name, width, height, and of each class CLASS_pixels, CLASS_share (of the
      image's pixels), CLASS_objects (8-connected), and CLASS_counted: objects by the rule scoring.counting.prediction
      of model.yaml, which may drop small ones and separate touching ones.

    An image that fails is left out and the others go on; other files in `out` stay. The table is empty until all are
    done. Raises `UserError` where `out` is none for it (`check_out`), another process predicts into it, or an image
    would be overwritten; and at the end, naming all images that failed, and why.
    """
    if predictor.description.chosen.choices.crf is not None:
        load_library()  # one message where it is missing, not one for each image
    check_out(out)
    task, rows, failed = predictor.description.task, [], []
    outputs = {path: _outputs(out, name, task) for path, name in name_images(images).items()}
    _check_inputs_stay(outputs)
    with sole_writer(out / LOCK, out):
        _write_table(out / TABLE, [], task)
        for path, written in tqdm(outputs.items(), desc="predict", disable=None):
            try:
                rows.append({"file": str(path), "name": written.name} | _predict_one(predictor, path, written))
            # PyTorch raises RuntimeError where memory runs out.
            except (UserError, OSError, MemoryError, RuntimeError, cv2.error) as error:
                reason = str(error) or type(error).__name__
                failed.append(reason if str(path) in reason else f"{path}: {reason}")
        _write_table(out / TABLE, rows, task)
    if failed:
        head = f"{len(failed)} of {len(images)} images failed; {out / TABLE} holds the others:"
        raise UserError("\n       ".join([head, *failed]))


def _matches(argument: str) -> Iterable[Path]:
    path = Path(argument)
    try:
        if argument and path.is_dir():
            return [path / name for name in files_below(path) if PurePosixPath(name).suffix.lower() in SUFFIXES]
        if argument and path.exists():
            return [path]
        matches = [Path(match) for match in glob.glob(argument, recursive=True)]  # noqa: PTH207  # Path's follows no links
        found = [match for match in matches if match.exists()]
    except (OSError, ValueError) as error:  # a name that is too long, or holds a NUL
        raise UserError(f"{argument}: {error}") from error
    if not found:
        raise UserError(f"{argument}: no such image, folder or pattern of images")
    return [match for match in found if match.is_file()]


def _absolute(path: Path) -> Path:
    # Links are not resolved: their targets may lie in a cache and be named by hashes.
    return _place(path) if ".." in path.parts else Path(os.path.normpath(Path.cwd() / path))


def _place(path: Path) -> Path:
    """Where a file lies, links to folders resolved; equal for all ways to name it."""
    return Path(os.path.realpath(path.parent)) / path.name


def _outputs(out: Path, name: str, task: TaskParams) -> _Outputs:
    folders = [str(code) for code in range(1, task.logits)] or [""]
    return _Outputs(
        name=name,
        mask=out / MASKS / f"{name}.png",
        contours=out / CONTOURS / f"{name}.geojson",
        overlay=out / OVERLAYS / f"{name}.png",
        probabilities=[out / PROBABILITIES / folder / f"{name}.png" for folder in folders],
    )


def _check_inputs_stay(outputs: dict[Path, _Outputs]) -> None:
    """Raise `UserError` where a file that is written would replace an image, reached through links or not."""
    places = {_identity(path, follow) for path in outputs for follow in (False, True)} - {None}
    for written in outputs.values():
        for path in (written.mask, written.contours, written.overlay, *written.probabilities):
            if _identity(path, follow=False) in places:
                raise UserError(f"--out: {path} is one of the images, and would be overwritten; name another folder")


def _identity(path: Path, follow: bool) -> tuple[int, int] | None:
    """Device and number of a file, or of the link that it is; None where there is none."""
    try:
        found = path.stat(follow_symlinks=follow)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _predict_one(predictor: Predictor, path: Path, written: _Outputs) -> dict[str, Any]:
    """Write the files of one image and return its row of the table."""
    # Python decodes bytes that are no UTF-8 to surrogates; `csv` does not quote a carriage return.
    if any(letter == "\r" or "\ud800" <= letter <= "\udfff" for letter in str(path)):
        raise UserError(f"{path}: its name is no UTF-8 or holds a carriage return; rename it for the table's sake")
    if is_formula(written.name):
        raise UserError(f"{path}: a spreadsheet would run its name in the table as a formula; rename it")
    image, task = read_image(path, predictor.description.intensity), predictor.description.task
    prediction = predictor.predict(image, BATCH_SIZE)
    codes = prediction.codes
    objects = feature_collection(codes, task)
    write_prediction(written.mask, codes, task)
    write_text(written.contours, json.dumps(objects, separators=(",", ":")) + "\n")
    write_png(written.overlay, _overlay(image, codes, task))
    for place, probability in zip(
        written.probabilities, prediction.probabilities[-len(written.probabilities) :], strict=True
    ):
        _write_16_bit(place, probability)
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
        writer = csv.DictWriter(file, [*COLUMNS, *columns], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
