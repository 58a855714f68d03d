"""A model against the pictures that it never chose: a table per image, its summary, and the predicted masks."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field
from torch import nn
from tqdm import tqdm

from medseg.cases import draw_case, mask_path
from medseg.description import Description
from medseg.errors import UserError
from medseg.figures import contact_sheet, titled
from medseg.imaging import Pixels, write_png
from medseg.inference import choose_device, predict
from medseg.machine import MachineParams
from medseg.manifest import read_pair, region_of
from medseg.metrics import Counts, PrecisionRecall, count_pixels, overlap_scores
from medseg.outputs import write_text
from medseg.params import Section

SCORES = ("dice", "iou", "precision", "recall", "accuracy")
HISTOGRAM_BINS = 20
CURVE_STEPS = 100
TILE = 192  # pixels, the longer side of a picture on the sheet of cases


class EvaluateParams(Section):
    """The section `evaluate`."""

    threshold: float = Field(gt=0, lt=1)
    overlap: float = Field(ge=0, lt=0.95)
    batch_size: int = Field(ge=1)


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found: one row per image, and the pooled precision-recall curve."""

    split: str
    table: pd.DataFrame
    curve: pd.DataFrame


def scored_split(manifest: pd.DataFrame) -> str:
    """The split that is scored: test, or val where the protocol has no test set.

    Raises `UserError` where there is neither.
    """
    for split in ("test", "val"):
        if (manifest["split"] == split).any():
            return split
    raise UserError("the manifest has no picture in test or val, so there is nothing to score; see the section split")


def evaluate(
    network: nn.Module,
    description: Description,
    manifest: pd.DataFrame,
    raw: Path,
    params: EvaluateParams,
    machine: MachineParams,
    masks: Path,
) -> Evaluation:
    """Predict the pictures of the scored split at their own resolution, write their masks, and score them.

    Pixels count inside the annotated region alone. Masks are written as `masks`/NAME.png, 0 and 255, whole pictures.
    """
    split = scored_split(manifest)
    device = choose_device(machine.accelerator)
    network = network.to(device).eval()
    curve = PrecisionRecall(CURVE_STEPS)
    rows = []
    for row in tqdm(list(manifest[manifest["split"] == split].itertuples()), desc="evaluate", disable=None):
        image, truth = read_pair(row, raw)
        foreground = predict(network, image, description.geometry, params.overlap, params.batch_size, device)[0]
        mask = (foreground >= description.threshold).astype(np.uint8)
        write_png(mask_path(masks, str(row.file)), mask * 255)
        region = region_of(row)
        inside = slice(region.top, region.bottom), slice(region.left, region.right)
        curve.add(foreground[inside], truth[inside])
        rows.append(_row(row, count_pixels(mask[inside], truth[inside])))
    return Evaluation(split, pd.DataFrame(rows), pd.DataFrame(curve.curve()).round(6))


def summarise(evaluation: Evaluation) -> dict[str, Any]:
    """The figures of `metrics/evaluate.json`; means over images whose truth is not empty, empties in their own row."""
    table = evaluation.table
    full, empty = table[table["truth_pixels"] > 0], table[table["truth_pixels"] == 0]
    return {
        "split": evaluation.split,
        "images": len(full),
        **_means(full),
        "missed": int((full["recall"] == 0).sum()),
        "empty": {
            "images": len(empty),
            "with_false_positives": _share(empty["predicted_pixels"] > 0),
            "false_positive_area": _share(empty["predicted_pixels"] / empty["region_pixels"]),
        },
        "pooled": _pooled(table),
        "labels": {
            str(label): {"images": len(part), **_means(part)} for label, part in full.groupby("label", sort=True)
        },
    }


def write_tables(evaluation: Evaluation, per_image: Path, metrics: Path) -> None:
    """Write the table per image as CSV and its summary as JSON."""
    evaluation.table.to_csv(per_image, index=False, lineterminator="\n")
    write_text(metrics, json.dumps(summarise(evaluation), indent=2) + "\n")


def write_plots(evaluation: Evaluation, manifest: pd.DataFrame, raw: Path, masks: Path, folder: Path) -> None:
    """Write the precision-recall curve and the Dice histogram as CSV, and the sheet of cases as PNG."""
    evaluation.curve.to_csv(folder / "precision_recall.csv", index=False, lineterminator="\n")
    dice_histogram(evaluation.table).to_csv(folder / "dice_histogram.csv", index=False, lineterminator="\n")
    write_png(folder / "cases.png", case_sheet(evaluation, manifest, raw, masks, columns=6))


def dice_histogram(table: pd.DataFrame) -> pd.DataFrame:
    """Images per twentieth of Dice, empty truths left out: columns dice (lower edge) and images."""
    counts, edges = np.histogram(table["dice"].dropna(), bins=HISTOGRAM_BINS, range=(0, 1))
    return pd.DataFrame({"dice": [f"{edge:.2f}" for edge in edges[:-1]], "images": counts})


def case_sheet(evaluation: Evaluation, manifest: pd.DataFrame, raw: Path, masks: Path, columns: int) -> Pixels:
    """Worst, median and best images by Dice, a row each, with the outlines of truth (green) and prediction (red).

    (H, W, 3) uint8 RGB. Where there are fewer images than `columns`, the rows are shorter and hold the same images.
    """
    ranked = evaluation.table.dropna(subset=["dice"]).sort_values("dice", kind="stable")["file"].tolist()
    width = min(columns, len(ranked))
    middle = (len(ranked) - width) // 2
    chosen = ranked[:width] + ranked[middle : middle + width] + (ranked[-width:] if width else [])
    rows = {row.file: row for row in manifest.itertuples()}
    scores = evaluation.table.set_index("file")["dice"]
    tiles = [titled(draw_case(rows[file], raw, masks, TILE), f"{scores[file]:.2f}", TILE) for file in chosen]
    return contact_sheet(tiles, max(1, width), TILE)


def _row(row: Any, counts: Counts) -> dict[str, Any]:
    return {
        "file": row.file,
        "label": row.label,
        "group": row.group,
        "region_pixels": sum(vars(counts).values()),
        "truth_pixels": counts.true_positives + counts.misses,
        "predicted_pixels": counts.true_positives + counts.false_positives,
        "shared_pixels": counts.true_positives,
        **{name: round(value, 6) for name, value in overlap_scores(counts).items()},
    }


def _means(table: pd.DataFrame) -> dict[str, float | None]:
    return {name: _share(table[name]) for name in SCORES}


def _share(values: pd.Series) -> float | None:
    return round(float(values.mean()), 6) if len(values) else None


def _pooled(table: pd.DataFrame) -> dict[str, float | None]:
    shared, predicted, truth = (int(table[f"{name}_pixels"].sum()) for name in ("shared", "predicted", "truth"))
    union = predicted + truth - shared
    return {
        "dice": round(2 * shared / (predicted + truth), 6) if union else None,
        "iou": round(shared / union, 6) if union else None,
    }
