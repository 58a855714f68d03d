"""The plots of an evaluation that DVC draws: tables of curves and counts, and sheets of cases."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from medseg.data.image import Image
from medseg.data.image_io import Pixels, read_image, write_png
from medseg.evaluation.cases import coloured, draw_case
from medseg.evaluation.evaluate import Evaluation
from medseg.evaluation.summary import confusion
from medseg.inference.prediction_files import UNCERTAINTY, mask_path
from medseg.previews.drawing import contact_sheet, titled

HISTOGRAM_BINS = 20
INITIALS = 3  # letters of a class's name on the sheet of cases, more where classes begin alike
TILE = 192  # pixels, the longer side of an image on the sheets
COLUMNS = 6


def write_plots(
    evaluation: Evaluation,
    thresholds: pd.DataFrame,
    means: pd.DataFrame,
    images: Sequence[Image],
    predictions: Path,
    folder: Path,
) -> None:
    """Write into `folder` what `dvc plots` shows of an evaluation that was written to `predictions`.

    `thresholds` is the table of `tuning.select`, `means` that of `summary.summary_table`.

    CSV: precision_recall, thresholds (of val), calibration, dice_histogram, dice_by_label, counts, confusion. PNG:
    cases, and uncertainty where maps of it were written.
    """
    table = evaluation.table
    tables = {
        "precision_recall": evaluation.curve,
        "thresholds": thresholds,
        "calibration": evaluation.calibration,
        "dice_histogram": dice_histogram(table),
        "dice_by_label": dice_by_label(means),
        "counts": table[["file", "counted_truth", "counted_predicted", "contours_truth", "contours_predicted"]],
        "confusion": confusion(evaluation),
    }
    for name, content in tables.items():
        content.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
    write_png(folder / "cases.png", case_sheet(evaluation, images, predictions, COLUMNS))
    if (predictions / UNCERTAINTY).is_dir():
        write_png(folder / "uncertainty.png", uncertainty_sheet(evaluation, images, predictions, COLUMNS))


def dice_histogram(table: pd.DataFrame) -> pd.DataFrame:
    """Images per bin of Dice, empty truths left out: columns dice (the bin's lower edge) and images."""
    counts, edges = np.histogram(table["dice"].dropna(), bins=HISTOGRAM_BINS, range=(0, 1))
    return pd.DataFrame({"dice": [f"{edge:.2f}" for edge in edges[:-1]], "images": counts})


def dice_by_label(means: pd.DataFrame) -> pd.DataFrame:
    """Columns label, dice: the mean of each label and that of all."""
    chosen = means[(means["metric"] == "dice") & means["by"].isin(["all", "label"])]
    return pd.DataFrame({"label": chosen["stratum"], "dice": chosen["mean"]}).dropna()


def case_sheet(evaluation: Evaluation, images: Sequence[Image], predictions: Path, columns: int) -> Pixels:
    """Worst, median and best images by Dice, a row each, with the outlines of truth and prediction of `draw_case`.

    (H, W, 3) uint8 RGB. Where there are fewer images than `columns`, the rows are shorter and hold the same images.
    The title is the Dice, with several classes followed by the label and, if it differs, the predicted label, both
    shortened to their first letters: `0.71 mal as ben`.
    """
    ranked = evaluation.table.dropna(subset=["dice"]).sort_values("dice", kind="stable")["file"].tolist()
    width = min(columns, len(ranked))
    middle = (len(ranked) - width) // 2
    chosen = ranked[:width] + ranked[middle : middle + width] + (ranked[-width:] if width else [])
    by_file = {image.file: image for image in images}
    titles = _titles(evaluation)
    tiles = [
        titled(draw_case(by_file[file], predictions, evaluation.task, TILE), titles[file], TILE) for file in chosen
    ]
    return contact_sheet(tiles, max(1, width), TILE)


def uncertainty_sheet(evaluation: Evaluation, images: Sequence[Image], predictions: Path, columns: int) -> Pixels:
    """The images with the highest uncertainty: outlines, and below each its map, from black to yellow.

    (H, W, 3) uint8 RGB; the title is the Dice. The brightest colour is a standard deviation of 0.5.
    """
    table = evaluation.table.dropna(subset=["uncertainty"]).sort_values("uncertainty", ascending=False, kind="stable")
    chosen = table["file"].tolist()[:columns]
    by_file = {image.file: image for image in images}
    titles = _titles(evaluation)
    outlines = [
        titled(draw_case(by_file[file], predictions, evaluation.task, TILE), titles[file], TILE) for file in chosen
    ]
    shown = [by_file[file] for file in chosen]
    maps = [coloured(image.crop(read_image(mask_path(predictions / UNCERTAINTY, image)))) for image in shown]
    return contact_sheet([*outlines, *maps], max(1, len(chosen)), TILE)


def initials(names: Sequence[str]) -> dict[str, str]:
    """The first letters of each name: `INITIALS`, or as many more as it takes to tell all names apart."""
    longest = max(len(name) for name in names)
    lengths = range(INITIALS, longest + 1)
    length = next((length for length in lengths if len({name[:length] for name in names}) == len(names)), longest)
    return {name: name[:length] for name in names}


def _titles(evaluation: Evaluation) -> dict[str, str]:
    table = evaluation.table
    scores = ["empty" if np.isnan(dice) else f"{dice:.2f}" for dice in table["dice"]]
    if evaluation.task.has_classes:
        short = initials(evaluation.task.names)
        pairs = [
            (short[label], short[found]) for label, found in zip(table["label"], table["predicted_label"], strict=True)
        ]
        labels = [label if label == found else f"{label} as {found}" for label, found in pairs]
        scores = [f"{score} {label}" for score, label in zip(scores, labels, strict=True)]
    return dict(zip(table["file"], scores, strict=True))
