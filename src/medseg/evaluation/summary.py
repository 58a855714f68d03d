"""From the table per image to means and how sure they are, by stratum (summary.csv) and of all images (summary.json).

`write_metrics` writes the few numbers that DVC compares.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medseg.core.files import write_text
from medseg.evaluation.estimates import of_keys, of_row, to_keys
from medseg.evaluation.evaluate import Evaluation
from medseg.evaluation.per_image import UNCERTAINTY, columns, values_of
from medseg.evaluation.strata import EMPTY, SIZES
from medseg.metrics import registry
from medseg.metrics.calibration import CalibrationErrors
from medseg.metrics.intervals import Values, estimates
from medseg.metrics.overlap import overlap_scores
from medseg.metrics.registry import DECIMALS

WITH_ENDS = ("dice", "iou")
TOTALS = ("objects", "objects_found", "objects_detected", "objects_missed", "objects_false")


def write_tables(evaluation: Evaluation, folder: Path, summary: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Write per_image.csv, the meaning of its columns (columns.md) and summary.csv to `folder`, and `summary` as JSON.

    Gives what `summary_table` and `summarise` do.
    """
    means = summary_table(evaluation.table)
    content = summarise(evaluation, means)
    evaluation.table.to_csv(folder / "per_image.csv", index=False, lineterminator="\n")
    means.to_csv(folder / "summary.csv", index=False, lineterminator="\n")
    meanings = [f"- `{name}`: {meaning}" for name, meaning in columns().items() if name in evaluation.table]
    write_text(folder / "columns.md", "\n".join(["# The columns of per_image.csv", "", *meanings, ""]))
    write_text(summary, json.dumps(content, indent=2) + "\n")
    return means, content


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """The means of a table per image and how sure they are.

    Columns: by (all, label, size, empty), stratum, metric, images (that the mean is over), undefined (left out of it),
    missed (of the images, those in which nothing annotated was found: their distances are the diagonal), groups, and
    those of `intervals.Estimate`: mean, median, low, high, ends. Strata but `empty` hold the images in which something
    is annotated. What is not defined is NaN.
    """
    rows = []
    for kind, stratum, part in _strata(table):
        over = EMPTY if kind == EMPTY else "annotated"
        names = [metric.key for metric in registry.METRICS if metric.over in (over, "both")]
        names += [] if kind == EMPTY else [UNCERTAINTY]
        means = _means(part, [name for name in names if name in part])
        rows += [{"by": kind, "stratum": stratum} | row for row in means]
    return pd.DataFrame(rows)


def summarise(evaluation: Evaluation, means: pd.DataFrame) -> dict[str, Any]:
    """All of an evaluation in one tree for JSON, None where a value is undefined; `means` as of `summary_table`.

    Means are over the images in which something is annotated; `empty` is of the others.
    """
    table = evaluation.table
    annotated = table[table["truth_pixels"] > 0]
    of_all = means[means["by"] == "all"].set_index("metric")
    labels = confusion(evaluation)
    right = int((labels["actual"] == labels["predicted"]).sum())
    return {
        "split": evaluation.split,
        "images": len(annotated),
        "missed": int((annotated["recall"] == 0).sum()),
        **{
            key: value for name in WITH_ENDS for key, value in to_keys(name, of_row(of_all.loc[name].to_dict())).items()
        },
        **{
            metric.key: _mean(of_all, metric.key)
            for metric in registry.METRICS
            if metric.kind in ("overlap", "surface") and metric.key in of_all.index and metric.key not in WITH_ENDS
        },
        "objects": {name.removeprefix("objects_"): int(table[name].sum()) for name in TOTALS}
        | {"f1": _mean(of_all, "objects_f1"), "iou": _mean(of_all, "objects_iou")},
        "counts": {
            f"{name}_{kind}": _mean(of_all, f"{name}_{kind}_error")
            for name in ("contours", "counted")
            for kind in ("absolute", "relative")
        },
        "calibration": _calibration(evaluation.calibration_errors),
        "uncertainty": {"mean": _mean(of_all, UNCERTAINTY), "rank_correlation": _rank_correlation(annotated)},
        **{f"{kind}s": _dice_by(means, kind) for kind in ("label", "size")},
        "empty": _empty(means, len(table) - len(annotated)),
        "pooled": _pooled(table),
        **({"classes": _classes(means, evaluation)} if evaluation.task.has_classes else {}),
        "image_labels": {"images": len(labels), "right": right, "accuracy": round(right / len(labels), DECIMALS)},
    }


def write_metrics(summary: dict[str, Any], path: Path) -> None:
    """Write the few numbers of `summarise` by which experiments are compared as flat JSON, without undefined ones.

    Means over the images in which something is annotated: dice with the ends of `estimates.to_keys`, iou, hd95
    (pixels), nsd, f1 (of objects), and dice/CLASS where there are several classes; false_positive_images is the share
    of the other images in which anything is found.
    """
    values = to_keys("dice", of_keys(summary, "dice"))
    values |= {name: summary[name] for name in ("iou", "hd95", "nsd")}
    values |= {"f1": summary["objects"]["f1"], "false_positive_images": summary["empty"]["with_false_positives"]}
    values |= {f"dice/{name}": scores["dice"] for name, scores in summary.get("classes", {}).items()}
    defined = {name: value for name, value in values.items() if value is not None}
    write_text(path, json.dumps(defined, indent=2) + "\n")


def confusion(evaluation: Evaluation) -> pd.DataFrame:
    """The actual and the predicted label of each image: columns actual and predicted, in the order of the table.

    With several classes the actual one is the image's label; in a binary task it is `foreground` where anything is
    annotated, else `empty`.
    """
    table = evaluation.table
    actual = [
        evaluation.task.actual_name(label, bool(pixels))
        for label, pixels in zip(table["label"], table["truth_pixels"], strict=True)
    ]
    return pd.DataFrame({"actual": actual, "predicted": table["predicted_label"].tolist()})


def _strata(table: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """The strata of `summary_table`: by, stratum and their rows."""
    annotated = table[table["truth_pixels"] > 0]
    yield "all", "all", annotated
    for label, part in annotated.groupby("label", sort=True):
        yield "label", str(label), part
    for size in SIZES:
        if len(part := annotated[annotated["size"] == size]):
            yield "size", size, part
    if len(empty := table[table["truth_pixels"] == 0]):
        yield EMPTY, EMPTY, empty


def _means(part: pd.DataFrame, names: list[str]) -> list[dict[str, Any]]:
    """A row for each column; columns of one kind that are defined for the same images share their resamples."""
    alike: dict[tuple[bytes, Values], list[str]] = defaultdict(list)
    for name in names:
        alike[part[name].notna().to_numpy().tobytes(), values_of(name)].append(name)
    rows = {}
    for (_, kind), shared in alike.items():
        defined = part[part[shared[0]].notna()]
        found = estimates(defined[shared].to_numpy(), defined["group"].tolist(), kind)
        for name, estimate in zip(shared, found, strict=True):
            rows[name] = {
                "metric": name,
                "images": len(defined),
                "undefined": len(part) - len(defined),
                "missed": int((defined["recall"] == 0).sum()),
                "groups": defined["group"].nunique(),
                **{key: round(value, DECIMALS) if key != "ends" else value for key, value in vars(estimate).items()},
            }
    return [rows[name] for name in names]


def _mean(means: pd.DataFrame, name: str) -> float | None:
    return _defined(means.loc[name, "mean"])


def _defined(value: Any) -> float | None:
    """The number, rounded; None for NaN, which JSON does not have."""
    return None if np.isnan(value) else round(float(value), DECIMALS)


def _rank_correlation(annotated: pd.DataFrame) -> float | None:
    """Spearman's rank correlation of uncertainty and Dice: near -1 where the uncertain images are those that fail."""
    ranks = annotated[[UNCERTAINTY, "dice"]].dropna().rank()
    if (ranks.nunique() < 2).any():
        return None
    return _defined(ranks[UNCERTAINTY].corr(ranks["dice"]))


def _dice_by(means: pd.DataFrame, kind: str) -> dict[str, dict[str, float | None]]:
    rows = means[(means["by"] == kind) & (means["metric"] == "dice")]
    return {
        str(stratum): {"images": int(images), "dice": _defined(mean)}
        for stratum, images, mean in zip(rows["stratum"], rows["images"], rows["mean"], strict=True)
    }


def _empty(means: pd.DataFrame, images: int) -> dict[str, float | None]:
    """False positives in the images in which nothing is annotated."""
    rows = means[means["by"] == EMPTY].set_index("metric")
    names = {"with_false_positives": "false_positive", "false_positive_area": "false_positive_area"}
    return {"images": images} | {name: _mean(rows, column) if images else None for name, column in names.items()}


def _pooled(table: pd.DataFrame) -> dict[str, float | None]:
    """Dice and IoU over the pixels of all images together."""
    shared, predicted, truth = (int(table[f"{name}_pixels"].sum()) for name in ("shared", "predicted", "truth"))
    union = predicted + truth - shared
    return {
        "dice": round(2 * shared / (predicted + truth), DECIMALS) if union else None,
        "iou": round(shared / union, DECIMALS) if union else None,
    }


def _calibration(errors: CalibrationErrors) -> dict[str, float | None]:
    return {name: value if isinstance(value, int) else _defined(value) for name, value in asdict(errors).items()}


def _classes(means: pd.DataFrame, evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """For each class, means over its annotated images, and Dice and calibration pooled over all images."""
    found: dict[str, dict[str, Any]] = {}
    for name, counts in evaluation.pooled.items():
        rows = means[(means["by"] == "label") & (means["stratum"] == name)].set_index("metric")
        found[name] = {
            "images": 0 if rows.empty else int(rows["images"].max()),
            "dice": None if rows.empty else _mean(rows, "class_dice"),
            "iou": None if rows.empty else _mean(rows, "class_iou"),
            "pooled_dice": _defined(overlap_scores(counts)["dice"]),
            "calibration": _calibration(evaluation.class_calibration[name]),
        }
    return found
