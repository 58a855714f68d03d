"""Every scored image for the page: JPEG, outlines as SVG paths over it, map of uncertainty, and scores."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage

from medseg.core.parallel import MachineParams, run_parallel
from medseg.data.image import Image
from medseg.data.image_io import Pixels, read_image
from medseg.data.task import TaskParams
from medseg.evaluation.cases import coloured, read_case
from medseg.inference.prediction_files import UNCERTAINTY, mask_path
from medseg.previews.drawing import within
from medseg.report.tables import defined, read_table

SIDE = 480  # pixels of an image's longer side, at most
MAP_SIDE = 240  # of its map of uncertainty, which is smooth
QUALITIES = (78, 60, 40, 20)  # of the JPEG, the first under which it is at most `LARGEST`, else the last
LARGEST = 60_000  # bytes of an image as text


@dataclass(frozen=True)
class ImageView:
    """What of an image is shown: its annotated region alone."""

    width: int  # of the region, pixels: outlines are drawn in these
    height: int
    image: str  # a data URI
    truth: str  # an SVG path through the middle of the outermost pixels; (0, 0) is the middle of the first
    found: list[str]  # the same of each predicted class
    uncertainty: str  # a data URI; empty where no map was written


@dataclass(frozen=True)
class Case:
    """One scored image: scores are the columns of per_image.csv that hold numbers, None where undefined."""

    file: str
    label: str
    size: str
    predicted_label: str
    scores: dict[str, float | None]  # and `annotated` and `found`, shares of the region's pixels, 0..1
    image: ImageView


def scored_cases(images: Sequence[Image], predictions: Path, task: TaskParams, machine: MachineParams) -> list[Case]:
    """Every scored image, worst first: by Dice, then those without one by the area wrongly found."""
    table = read_table(predictions / "per_image.csv")
    for name, column in (("annotated", "truth_pixels"), ("found", "predicted_pixels")):
        table[name] = table[column] / table["region_pixels"]
    table["rank"] = table["dice"].fillna(1 + (1 - table["found"]))
    table = table.sort_values(["rank", "file"])
    by_file = {image.file: image.at(image.root.absolute()) for image in images}
    draw = partial(draw_image, predictions=predictions.absolute(), task=task)
    views = run_parallel(machine, draw, [by_file[file] for file in table["file"]], "report")
    return [_case(row, view) for row, view in zip(table.to_dict("records"), views, strict=True)]


def draw_image(image: Image, predictions: Path, task: TaskParams) -> ImageView:
    """The annotated region of an image. Raises `UserError` where a file is missing or unreadable."""
    pixels, truth, classes = read_case(image, predictions, task)
    height, width = truth.shape
    detail = max(height, width) / SIDE
    shown = within(pixels, min(SIDE, max(height, width)))
    return ImageView(
        width=width,
        height=height,
        image=jpeg_uri(shown.reshape(*shown.shape[:2], -1)),
        truth=outline(truth, detail),
        found=[outline(mask, detail) for mask in classes],
        uncertainty=_uncertainty(image, predictions),
    )


def outline(mask: NDArray[Any], detail: float) -> str:
    """The outlines of a mask's (H, W) objects and holes as an SVG path, coordinates relative and whole.

    It leaves the border by no more than half of `detail` (pixels), or than half a pixel.
    """
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return "".join(_ring(cv2.approxPolyDP(contour, max(1.0, detail) / 2, True)[:, 0]) for contour in contours)


def jpeg_uri(image: Pixels) -> str:
    """(H, W, 1 or 3) uint8 as a data URI of a JPEG, which is packed harder where it would be large."""
    encoded = PilImage.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    for quality in QUALITIES:
        buffer = io.BytesIO()
        encoded.save(buffer, "JPEG", quality=quality, optimize=True)
        uri = data_uri(buffer.getvalue(), "image/jpeg")
        if len(uri) <= LARGEST:
            break
    return uri


def data_uri(content: bytes, kind: str) -> str:
    """Bytes of the media type `kind` as an address that holds them."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _case(row: dict[Any, Any], image: ImageView) -> Case:
    text = {name: row.pop(name) for name in ("file", "label", "group", "size", "predicted_label")}
    del text["group"], row["rank"]
    return Case(**text, scores={name: defined(value) for name, value in row.items()}, image=image)


def _uncertainty(image: Image, predictions: Path) -> str:
    path = mask_path(predictions / UNCERTAINTY, image)
    if not path.exists():
        return ""
    deviation = image.crop(read_image(path))
    small = within(deviation, min(MAP_SIDE, max(deviation.shape[:2])))
    return jpeg_uri(coloured(small))


def _ring(points: NDArray[Any]) -> str:
    steps = np.diff(points, axis=0)
    return f"M{points[0][0]} {points[0][1]}l" + _joined(steps) + "z" if len(steps) else _dot(points[0])


def _joined(steps: NDArray[Any]) -> str:
    return " ".join(f"{x} {y}" for x, y in steps).replace(" -", "-")


def _dot(point: NDArray[Any]) -> str:
    """A line to where it starts: round ends make it a dot."""
    return f"M{point[0]} {point[1]}h0z"
