"""A model against the pictures that it never chose: a table per image, its summary, and the predicted masks."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field
from torch import nn
from tqdm import tqdm

from medseg.cases import draw_case, mask_path, write_prediction
from medseg.classes import FOREGROUND, Binary, TaskParams, class_codes, class_names
from medseg.description import Description
from medseg.errors import UserError
from medseg.figures import contact_sheet, titled
from medseg.imaging import Pixels, write_png
from medseg.inference import choose_device, classify, foreground_probability, predict
from medseg.machine import MachineParams
from medseg.manifest import read_pair, region_of
from medseg.metrics import Counts, PrecisionRecall, count_classes, count_pixels, overlap_scores, prevailing_class
from medseg.outputs import write_text
from medseg.params import Section

SCORES = ("dice", "iou", "precision", "recall", "accuracy")
HISTOGRAM_BINS = 20
CURVE_STEPS = 100
EMPTY = "empty"  # what a picture is called in a binary task where nothing is marked or found
INITIALS = 3  # letters of a class's name on the sheet of cases, more where classes begin alike
TILE = 192  # pixels, the longer side of a picture on the sheet of cases


class EvaluateParams(Section):
    """The section `evaluate`."""

    threshold: float = Field(gt=0, lt=1)
    overlap: float = Field(ge=0, lt=0.95)
    batch_size: int = Field(ge=1)


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found: one row per image, the pooled precision-recall curve, and pooled pixels by class.

    The columns of `table`:

    - file, label, group: from the manifest;
    - region_pixels, truth_pixels, predicted_pixels, shared_pixels: sizes of the scored region, of truth and predicted
      foreground in it, and of what they share;
    - dice, iou, precision, recall, accuracy: foreground of any class against background, 0..1; all but accuracy are
      NaN where the truth is empty;
    - class_dice, class_iou, with several classes alone: the same truth, but of the prediction only pixels of the
      picture's own class count; NaN where the truth is empty;
    - called: with several classes the one that most of the predicted foreground in the region has, of equal ones the
      first of the task, and the background's label where nothing was predicted; in a binary task `foreground` or
      `empty`.
    """

    split: str
    task: TaskParams
    table: pd.DataFrame
    curve: pd.DataFrame
    pooled: dict[str, Counts]  # by class; its truth are the marked pixels of its own pictures, over all pictures


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

    Pixels count inside the annotated region alone. Masks are written as `masks`/NAME.png, whole pictures, in the form
    of `cases.write_prediction`. Raises `UserError` where a picture's label does not fit the classes of the network.
    """
    split, task = scored_split(manifest), description.task
    scored = manifest[manifest["split"] == split]
    _check_labels(scored, task)
    device = choose_device(machine.accelerator)
    network = network.to(device).eval()
    curve = PrecisionRecall(CURVE_STEPS)
    pooled = dict.fromkeys(class_names(task), Counts(0, 0, 0, 0))
    rows = []
    pairs = list(zip(scored.itertuples(), class_codes(scored["label"], task), strict=True))
    for row, own in tqdm(pairs, desc="evaluate", disable=None):
        image, truth = read_pair(row, raw)
        probabilities = predict(network, image, description.geometry, params.overlap, params.batch_size, device)
        codes = classify(probabilities, description.threshold)
        write_prediction(mask_path(masks, str(row.file)), codes, task)
        region = region_of(row)
        inside = slice(region.top, region.bottom), slice(region.left, region.right)
        codes, truth = codes[inside], truth[inside]
        curve.add(foreground_probability(probabilities)[inside], truth)
        for name, counts in zip(pooled, count_classes(codes, truth * own, len(pooled)), strict=True):
            pooled[name] += counts
        rows.append(_row(row, count_pixels(codes, truth)) | _class_row(codes, truth, own, task))
    return Evaluation(split, task, pd.DataFrame(rows), pd.DataFrame(curve.curve()).round(6), pooled)


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
        **({} if isinstance(evaluation.task, Binary) else {"classes": _classes(full, evaluation.pooled)}),
        "calls": _calls(confusion(evaluation)),
    }


def confusion(evaluation: Evaluation) -> pd.DataFrame:
    """What each image is and what it was called: columns actual and predicted, in the order of the table.

    With several classes an image is its label; in a binary task it is `foreground` where anything of the truth is
    marked, else `empty`.
    """
    table = evaluation.table
    marked = [FOREGROUND if pixels else EMPTY for pixels in table["truth_pixels"]]
    actual = marked if isinstance(evaluation.task, Binary) else table["label"].tolist()
    return pd.DataFrame({"actual": actual, "predicted": table["called"].tolist()})


def write_tables(evaluation: Evaluation, per_image: Path, metrics: Path) -> None:
    """Write the table per image as CSV and its summary as JSON."""
    evaluation.table.to_csv(per_image, index=False, lineterminator="\n")
    write_text(metrics, json.dumps(summarise(evaluation), indent=2) + "\n")


def write_plots(evaluation: Evaluation, manifest: pd.DataFrame, raw: Path, masks: Path, folder: Path) -> None:
    """Write the precision-recall curve, the Dice histogram and the calls as CSV, and the sheet of cases as PNG."""
    evaluation.curve.to_csv(folder / "precision_recall.csv", index=False, lineterminator="\n")
    dice_histogram(evaluation.table).to_csv(folder / "dice_histogram.csv", index=False, lineterminator="\n")
    confusion(evaluation).to_csv(folder / "confusion.csv", index=False, lineterminator="\n")
    write_png(folder / "cases.png", case_sheet(evaluation, manifest, raw, masks, columns=6))


def dice_histogram(table: pd.DataFrame) -> pd.DataFrame:
    """Images per twentieth of Dice, empty truths left out: columns dice (lower edge) and images."""
    counts, edges = np.histogram(table["dice"].dropna(), bins=HISTOGRAM_BINS, range=(0, 1))
    return pd.DataFrame({"dice": [f"{edge:.2f}" for edge in edges[:-1]], "images": counts})


def case_sheet(evaluation: Evaluation, manifest: pd.DataFrame, raw: Path, masks: Path, columns: int) -> Pixels:
    """Worst, median and best images by Dice, a row each, with the outlines of truth and prediction of `draw_case`.

    (H, W, 3) uint8 RGB. Where there are fewer images than `columns`, the rows are shorter and hold the same images.
    The title is the Dice, with several classes followed by the label and by what the image was called if it differs,
    as the first letters of both: `0.71 mal as ben`.
    """
    ranked = evaluation.table.dropna(subset=["dice"]).sort_values("dice", kind="stable")["file"].tolist()
    width = min(columns, len(ranked))
    middle = (len(ranked) - width) // 2
    chosen = ranked[:width] + ranked[middle : middle + width] + (ranked[-width:] if width else [])
    rows = {row.file: row for row in manifest.itertuples()}
    titles = _titles(evaluation)
    tiles = [titled(draw_case(rows[file], raw, masks, evaluation.task, TILE), titles[file], TILE) for file in chosen]
    return contact_sheet(tiles, max(1, width), TILE)


def initials(names: Sequence[str]) -> dict[str, str]:
    """The first letters of each name: `INITIALS`, or as many more as it takes to tell all names apart."""
    longest = max(len(name) for name in names)
    lengths = range(INITIALS, longest + 1)
    length = next((length for length in lengths if len({name[:length] for name in names}) == len(names)), longest)
    return {name: name[:length] for name in names}


def _titles(evaluation: Evaluation) -> dict[str, str]:
    table = evaluation.table
    scores = [f"{dice:.2f}" for dice in table["dice"]]
    if not isinstance(evaluation.task, Binary):
        short = initials(_call_names(evaluation.task))
        calls = [(short[label], short[call]) for label, call in zip(table["label"], table["called"], strict=True)]
        words = [label if label == call else f"{label} as {call}" for label, call in calls]
        scores = [f"{score} {call}" for score, call in zip(scores, words, strict=True)]
    return dict(zip(table["file"], scores, strict=True))


def _check_labels(scored: pd.DataFrame, task: TaskParams) -> None:
    if isinstance(task, Binary):
        return
    known = _call_names(task)
    for file, label, share in zip(scored["file"], scored["label"], scored["foreground"], strict=True):
        if label not in known:
            raise UserError(
                f"{file}: its label '{label}' is no class of the network, which knows {', '.join(known)}; "
                "see the section task"
            )
        if label == task.background and share > 0:
            raise UserError(
                f"{file}: something is marked in it, but its label '{label}' is task.background; "
                "list the label in task.labels and train again"
            )


def _call_names(task: TaskParams) -> list[str]:
    """What a picture can be called, by code."""
    return [EMPTY if isinstance(task, Binary) else task.background, *class_names(task)]


def _class_row(codes: Pixels, truth: Pixels, own: np.uint8, task: TaskParams) -> dict[str, Any]:
    names = _call_names(task)
    called = {"called": names[prevailing_class(codes, len(names) - 1)]}
    if isinstance(task, Binary):
        return called
    scores = overlap_scores(count_pixels(codes == own, truth))
    return {f"class_{name}": round(scores[name], 6) for name in ("dice", "iou")} | called


def _classes(full: pd.DataFrame, pooled: dict[str, Counts]) -> dict[str, dict[str, float | None]]:
    """Means over the pictures of each class whose truth is not empty, and its Dice pooled over all pictures."""
    figures = {}
    for name, counts in pooled.items():
        part, dice = full[full["label"] == name], overlap_scores(counts)["dice"]
        figures[name] = {
            "images": len(part),
            "dice": _share(part["class_dice"]),
            "iou": _share(part["class_iou"]),
            "pooled_dice": None if np.isnan(dice) else round(dice, 6),
        }
    return figures


def _calls(calls: pd.DataFrame) -> dict[str, float | None]:
    right = calls["actual"] == calls["predicted"]
    return {"images": len(calls), "right": int(right.sum()), "accuracy": _share(right)}


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
