"""The charts of a run, from the curves that training logged and the tables that evaluation wrote."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medseg.inference.settings import SegmenterDescription
from medseg.report.charts import Axis, Chart, Line, Point, bar_chart, diagonal_chart, line_chart
from medseg.report.tables import read_curve, read_table


class Charts(NamedTuple):
    """All charts of a report."""

    training: list[Chart]
    threshold: Chart | None  # of val; None where val has nothing annotated
    scores: list[Chart]
    calibration: Chart | None  # None where foreground is ruled out everywhere
    counts: Chart


def all_charts(training: Path, plots: Path, description: SegmenterDescription) -> Charts:
    """Read the folders of training's and evaluation's plots. Raises `UserError` that names a missing file."""
    return Charts(
        training=training_charts(training, description),
        threshold=threshold_chart(plots, description),
        scores=score_charts(plots, description),
        calibration=calibration_chart(plots),
        counts=counts_chart(plots),
    )


def training_charts(training: Path, description: SegmenterDescription) -> list[Chart]:
    """Loss, Dice on val and learning rate over epochs, from DVCLive's files below `training`."""
    folder = training / "plots" / "metrics"
    train_loss, val_loss, val_dice, rate = (
        read_curve(folder / f"{name}.tsv") for name in ("train/loss", "val/loss", "val/dice", "learning_rate")
    )
    epochs = _epochs(train_loss, val_loss, val_dice, rate)
    title = "Dice on val, pooled, mean over classes" if description.task.has_classes else "Dice on val, pooled"
    losses = [Line("train", train_loss), Line("val", val_loss)]
    best = next((point for point in val_dice if point[0] == description.training.best_epoch), None)
    return [
        line_chart("Loss", epochs, _from_zero("loss", *train_loss, *val_loss), losses, None, ""),
        line_chart(title, epochs, Axis("Dice", 0, 1), [Line("val", val_dice)], best, "kept epoch"),
        line_chart("Learning rate", epochs, _from_zero("rate", *rate), [Line("rate", rate)], None, ""),
    ]


def threshold_chart(plots: Path, description: SegmenterDescription) -> Chart | None:
    """Mean Dice on val over thresholds, with the threshold in use annotated, between two of the curve if need be."""
    table = read_table(plots / "thresholds.csv")
    if table.empty:
        return None
    threshold = description.chosen.choices.postprocess.threshold
    points = list(zip(table["threshold"], table["dice"], strict=True))
    mark = (threshold, float(np.interp(threshold, table["threshold"], table["dice"])))
    x, y = Axis("threshold", 0, 1), Axis("Dice", *_ends(table["dice"].min(), table["dice"].max()))
    return line_chart("Mean Dice on val over thresholds", x, y, [Line("", points)], mark, f"threshold {threshold:g}")


def score_charts(plots: Path, description: SegmenterDescription) -> list[Chart]:
    """Images by Dice, and precision over recall."""
    curve, histogram = read_table(plots / "precision_recall.csv"), read_table(plots / "dice_histogram.csv")
    points = list(zip(curve["recall"], curve["precision"], strict=True))
    threshold = description.chosen.choices.postprocess.threshold
    chosen = int((curve["threshold"] - threshold).abs().to_numpy().argmin())
    recall, precision = Axis("recall", 0, 1), Axis("precision", 0, 1)
    title, note = "Precision and recall, pooled over pixels", f"threshold {threshold:g}"
    return [
        bar_chart("Images by Dice", Axis("Dice", 0, 1), "images", [int(count) for count in histogram["images"]]),
        line_chart(title, recall, precision, [Line("", points)], points[chosen], note),
    ]


def calibration_chart(plots: Path) -> Chart | None:
    """The share of foreground that was observed over the probability that was said."""
    curve = read_table(plots / "calibration.csv")
    if curve.empty:
        return None
    x, y = Axis("predicted probability", 0, 1), Axis("observed share of foreground", 0, 1)
    line = Line("", list(zip(curve["confidence"], curve["observed"], strict=True)))
    return diagonal_chart("Calibration", x, y, line, {}, "perfect calibration")


def counts_chart(plots: Path) -> Chart:
    """Objects counted in the prediction over those of the truth."""
    counts = read_table(plots / "counts.csv")
    pairs = Counter(zip(counts["counted_truth"], counts["counted_predicted"], strict=True))
    most = max([1, *(max(pair) for pair in pairs)])
    margin = 0.06 * most  # so that dots at 0 are whole
    x, y = (Axis(label, -margin, most + margin, whole=True) for label in ("objects of the truth", "objects found"))
    return diagonal_chart("Objects counted", x, y, None, pairs, "equal counts")


def _ends(low: float, high: float) -> tuple[float, float]:
    """Tenths around all values: a curve that is nearly flat is not drawn as if it were not."""
    return np.floor(10 * low) / 10, min(1.0, (np.floor(10 * high) + 1) / 10)


def _epochs(*series: list[Point]) -> Axis:
    steps = [step for points in series for step, _ in points] or [1]
    return Axis("epoch", min(steps), max(steps), whole=True)


def _from_zero(label: str, *points: Point) -> Axis:
    values = [value for _, value in points if value < float("inf")]
    return Axis(label, 0, max(values, default=1) or 1)
