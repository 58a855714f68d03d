"""The table per image to figures: means with 95 % intervals by stratum, and the scalars of `metrics/evaluate.json`."""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medseg.core.files import write_text
from medseg.evaluation.evaluate import Evaluation
from medseg.evaluation.per_image import COLUMNS, DECIMALS
from medseg.evaluation.strata import EMPTY, SIZES
from medseg.metrics.bootstrap import RESAMPLES, SEED, bootstrap_intervals
from medseg.metrics.overlap import Counts, overlap_scores

# Means over the images in which something is annotated.
FIGURES = (
    "dice",
    "iou",
    "precision",
    "recall",
    "specificity",
    "accuracy",
    "area_error",
    "area_error_absolute",
    "hd95",
    "assd",
    "nsd",
    "nsd_relative",
    "objects_f1",
    "objects_iou",
    "contours_absolute_error",
    "contours_relative_error",
    "counted_absolute_error",
    "counted_relative_error",
    "class_dice",
    "class_iou",
    "uncertainty",
)
# Means over those in which nothing is.
FIGURES_OF_EMPTY = ("false_positive", "false_positive_area", "specificity", "contours_predicted", "counted_predicted")
MEANS = ("precision", "recall", "specificity", "accuracy", "area_error", "hd95", "assd", "nsd", "nsd_relative")
TOTALS = ("objects", "objects_found", "objects_detected", "objects_missed", "objects_false")


def write_tables(evaluation: Evaluation, folder: Path, metrics: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Write per_image.csv, what its columns mean (columns.md) and figures.csv to `folder`, and their summary as JSON.

    Gives what `figure_table` and `summarise` do.
    """
    figures = figure_table(evaluation.table)
    summary = summarise(evaluation, figures)
    for name, table in (("per_image", evaluation.table), ("figures", figures)):
        table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
    write_text(folder / "columns.md", _columns_text(evaluation.table))
    write_text(metrics, json.dumps(summary, indent=2) + "\n")
    return figures, summary


def figure_table(table: pd.DataFrame) -> pd.DataFrame:
    """The means of a table per image with their 95 % intervals, by the cluster bootstrap over groups.

    Columns: by (all, label, size, empty), stratum, figure, images (that the mean is over), undefined (left out of it),
    missed (of the images, those in which nothing annotated was found: their distances are the diagonal), groups, mean,
    low, high. An interval is NaN where there are fewer than two groups, a mean where all is undefined.
    """
    rows = []
    for kind, stratum, part in _strata(_derived(table)):
        figures = [name for name in (FIGURES_OF_EMPTY if kind == EMPTY else FIGURES) if name in part]
        rows += [{"by": kind, "stratum": stratum} | row for row in _figure_rows(part, figures)]
    return pd.DataFrame(rows)


def summarise(evaluation: Evaluation, figures: pd.DataFrame) -> dict[str, Any]:
    """The figures of `metrics/evaluate.json`; means over images whose truth is not empty, empties in their own row."""
    table = evaluation.table
    full = table[table["truth_pixels"] > 0]
    of_all = figures[figures["by"] == "all"].set_index("figure")
    return {
        "split": evaluation.split,
        "images": len(full),
        "missed": int((full["recall"] == 0).sum()),
        **_with_interval("dice", of_all),
        **_with_interval("iou", of_all),
        **{name: _mean(of_all, name) for name in MEANS},
        "objects": {name.removeprefix("objects_"): int(table[name].sum()) for name in TOTALS}
        | {"f1": _mean(of_all, "objects_f1"), "iou": _mean(of_all, "objects_iou")},
        "counts": {
            f"{name}_{kind}": _mean(of_all, f"{name}_{kind}_error")
            for name in ("contours", "counted")
            for kind in ("absolute", "relative")
        },
        "ece": _defined(evaluation.ece),
        "uncertainty": {"mean": _mean(of_all, "uncertainty"), "rank_correlation": _rank_correlation(full)},
        **{f"{kind}s": _dice_of(figures, kind) for kind in ("label", "size")},
        "empty": _empty(figures, len(table) - len(full)),
        "pooled": _pooled(table),
        **({"classes": _classes(figures, evaluation.pooled)} if evaluation.task.has_classes else {}),
        "calls": _calls(confusion(evaluation)),
    }


def confusion(evaluation: Evaluation) -> pd.DataFrame:
    """What each image is and what it was called: columns actual and predicted, in the order of the table.

    With several classes an image is its label; in a binary task it is `foreground` where anything of the truth is
    annotated, else `empty`.
    """
    table = evaluation.table
    actual = [
        evaluation.task.actual_name(label, bool(pixels))
        for label, pixels in zip(table["label"], table["truth_pixels"], strict=True)
    ]
    return pd.DataFrame({"actual": actual, "predicted": table["called"].tolist()})


def _columns_text(table: pd.DataFrame) -> str:
    lines = [f"- `{name}`: {COLUMNS[name]}" for name in table.columns]
    return "\n".join(["# The columns of per_image.csv", "", *lines, ""])


def _derived(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(
        area_error_absolute=table["area_error"].abs(),
        false_positive=(table["predicted_pixels"] > 0).astype(float),
        false_positive_area=table["predicted_pixels"] / table["region_pixels"],
    )


def _strata(table: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    full = table[table["truth_pixels"] > 0]
    yield "all", "all", full
    for label, part in full.groupby("label", sort=True):
        yield "label", str(label), part
    for size in SIZES:
        if len(part := full[full["size"] == size]):
            yield "size", size, part
    if len(empty := table[table["truth_pixels"] == 0]):
        yield EMPTY, EMPTY, empty


def _figure_rows(part: pd.DataFrame, figures: list[str]) -> list[dict[str, Any]]:
    """A row for each figure; those that are defined for the same images share their resamples."""
    alike: dict[bytes, list[str]] = defaultdict(list)
    for name in figures:
        alike[part[name].notna().to_numpy().tobytes()].append(name)
    rows = {}
    for names in alike.values():
        defined = part[part[names[0]].notna()]
        intervals = bootstrap_intervals(defined[names].to_numpy(), defined["group"].tolist(), RESAMPLES, SEED)
        for name, interval in zip(names, intervals, strict=True):
            rows[name] = {
                "figure": name,
                "images": len(defined),
                "undefined": len(part) - len(defined),
                "missed": int((defined["recall"] == 0).sum()),
                "groups": defined["group"].nunique(),
                **{key: round(value, DECIMALS) for key, value in vars(interval).items()},
            }
    return [rows[name] for name in figures]


def _with_interval(name: str, figures: pd.DataFrame) -> dict[str, float | None]:
    return {name: _mean(figures, name)} | {
        f"{name}_{bound}": _defined(figures.loc[name, bound]) for bound in ("low", "high")
    }


def _mean(figures: pd.DataFrame, name: str) -> float | None:
    return _defined(figures.loc[name, "mean"])


def _defined(value: Any) -> float | None:
    """The number, rounded; None, which JSON has, for NaN, which it has not."""
    return None if np.isnan(value) else round(float(value), DECIMALS)


def _rank_correlation(full: pd.DataFrame) -> float | None:
    """Spearman's, of uncertainty and Dice: near -1 where the uncertain images are those that go wrong."""
    ranks = full[["uncertainty", "dice"]].dropna().rank()
    if (ranks.nunique() < 2).any():
        return None
    return _defined(ranks["uncertainty"].corr(ranks["dice"]))


def _dice_of(figures: pd.DataFrame, kind: str) -> dict[str, dict[str, float | None]]:
    rows = figures[(figures["by"] == kind) & (figures["figure"] == "dice")]
    return {
        str(stratum): {"images": int(images), "dice": _defined(mean)}
        for stratum, images, mean in zip(rows["stratum"], rows["images"], rows["mean"], strict=True)
    }


def _empty(figures: pd.DataFrame, images: int) -> dict[str, float | None]:
    rows = figures[figures["by"] == EMPTY].set_index("figure")
    names = {"with_false_positives": "false_positive", "false_positive_area": "false_positive_area"}
    return {"images": images} | {name: _mean(rows, column) if images else None for name, column in names.items()}


def _pooled(table: pd.DataFrame) -> dict[str, float | None]:
    shared, predicted, truth = (int(table[f"{name}_pixels"].sum()) for name in ("shared", "predicted", "truth"))
    union = predicted + truth - shared
    return {
        "dice": round(2 * shared / (predicted + truth), DECIMALS) if union else None,
        "iou": round(shared / union, DECIMALS) if union else None,
    }


def _classes(figures: pd.DataFrame, pooled: dict[str, Counts]) -> dict[str, dict[str, float | None]]:
    """Means over the images of each class whose truth is not empty, and its Dice pooled over all images."""
    found: dict[str, dict[str, float | None]] = {}
    for name, counts in pooled.items():
        rows = figures[(figures["by"] == "label") & (figures["stratum"] == name)].set_index("figure")
        found[name] = {
            "images": 0 if rows.empty else int(rows["images"].max()),
            "dice": None if rows.empty else _mean(rows, "class_dice"),
            "iou": None if rows.empty else _mean(rows, "class_iou"),
            "pooled_dice": _defined(overlap_scores(counts)["dice"]),
        }
    return found


def _calls(calls: pd.DataFrame) -> dict[str, float | None]:
    right = int((calls["actual"] == calls["predicted"]).sum())
    return {"images": len(calls), "right": right, "accuracy": round(right / len(calls), DECIMALS)}
