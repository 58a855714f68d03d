"""Everything that a report shows, gathered from what the other stages wrote."""

import base64
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from medseg.cases import draw_case
from medseg.classes import Binary, Multiclass, TaskParams
from medseg.description import read_description
from medseg.errors import UserError
from medseg.figures import class_colours
from medseg.imaging import Pixels
from medseg.machine import MachineParams, run_parallel
from medseg.manifest import read_manifest
from medseg.report import words
from medseg.report.charts import Axis, Chart, Line, Point, bar_chart, line_chart
from medseg.runs import SPLITS, read_bytes, read_json
from medseg.segmenter import SegmenterDescription

THUMBNAIL = 160  # pixels of the longer side
JPEG_QUALITY = 85
SCORE_COLUMNS = ("dice", "iou", "precision", "recall", "class_dice", "class_iou")


@dataclass(frozen=True)
class Sources:
    """What the other stages wrote."""

    raw: Path
    manifest: Path
    audit: Path
    training: Path
    segmenter: Path
    predictions: Path
    plots: Path


@dataclass(frozen=True)
class Case:
    """One scored image. Scores are None where its truth marks nothing; shares are of the scored pixels, 0..1."""

    file: str
    label: str
    dice: float | None
    iou: float | None
    marked: float
    predicted: float
    class_dice: float | None  # None too in a binary task
    called: str
    thumbnail: str  # a data URI


@dataclass(frozen=True)
class Classes:
    """What a report shows of a task with several classes beside the metrics."""

    colours: dict[str, str]  # by class, as CSS writes them
    calls: dict[str, dict[str, int]]  # images by label, then by what they were called; the background first
    rule: str


@dataclass(frozen=True)
class Report:
    """What the templates fill in."""

    title: str
    start: str
    record: dict[str, Any]
    description: SegmenterDescription
    audit: dict[str, Any]
    audit_rows: list[tuple[str, str]]
    splits: list[str]  # that occur, in their usual order
    metrics: dict[str, Any]
    parameters: dict[str, list[tuple[str, Any]]]  # by section; nested keys joined by dots
    method: list[str]
    limits: list[str]
    classes: Classes | None  # None in a binary task
    charts: list[Chart]
    case_sheet: str  # a data URI
    cases: list[Case]  # worst first, those without a score last


def collect(record: dict[str, Any], sources: Sources, machine: MachineParams) -> Report:
    """Gather a run's report; `record` is the run's record. Raises `UserError` that names a missing file."""
    table, description = read_manifest(sources.manifest), read_description(sources.segmenter, SegmenterDescription)
    audit, metrics, parameters = read_json(sources.audit), record["metrics"], record["parameters"]
    return Report(
        title=words.title(parameters),
        start=words.start(parameters["model"].get("encoder"), description.training),
        record=record,
        description=description,
        audit=audit,
        audit_rows=words.audit_rows(audit),
        splits=[split for split in SPLITS if split in audit["splits"]],
        metrics=metrics,
        parameters=sections(parameters),
        method=words.method(description, table),
        limits=words.limits(parameters, audit, metrics, table),
        classes=_classes(sources.plots, description.task),
        charts=[*training_charts(sources.training, description), *score_charts(sources.plots, description)],
        case_sheet=data_uri(read_bytes(sources.plots / "cases.png"), "image/png"),
        cases=scored_cases(table, sources, description.task, machine),
    )


def sections(parameters: dict[str, Any]) -> dict[str, list[tuple[str, Any]]]:
    """The parameters as lists of dotted keys and values, by section; values without a section come first, as `run`."""
    top = [(key, value) for key, value in parameters.items() if not isinstance(value, dict)]
    below = {key: list(_flattened(value)) for key, value in parameters.items() if isinstance(value, dict)}
    return {"run": top, **below}


def training_charts(training: Path, description: SegmenterDescription) -> list[Chart]:
    """Loss, Dice on val and learning rate over epochs, from DVCLive's files below `training`."""
    folder = training / "plots" / "metrics"
    train_loss, val_loss, val_dice, rate = (
        _series(folder / f"{name}.tsv") for name in ("train/loss", "val/loss", "val/dice", "learning_rate")
    )
    epochs = _epochs(train_loss, val_loss, val_dice, rate)
    title = "Dice on val, pooled" if isinstance(description.task, Binary) else "Dice on val, pooled, mean over classes"
    losses = [Line("train", train_loss), Line("val", val_loss)]
    best = next((point for point in val_dice if point[0] == description.training.best_epoch), None)
    return [
        line_chart("Loss", epochs, _from_zero("loss", *train_loss, *val_loss), losses, None, ""),
        line_chart(title, epochs, Axis("Dice", 0, 1), [Line("val", val_dice)], best, "kept epoch"),
        line_chart("Learning rate", epochs, _from_zero("rate", *rate), [Line("rate", rate)], None, ""),
    ]


def score_charts(plots: Path, description: SegmenterDescription) -> list[Chart]:
    """Precision over recall, and images by Dice, from the files that evaluation wrote."""
    curve = _read_table(plots / "precision_recall.csv")
    points = list(zip(curve["recall"], curve["precision"], strict=True))
    chosen = int((curve["threshold"] - description.chosen.choices.postprocess.threshold).abs().to_numpy().argmin())
    histogram = _read_table(plots / "dice_histogram.csv")
    recall, precision = Axis("recall", 0, 1), Axis("precision", 0, 1)
    note = f"threshold {description.chosen.choices.postprocess.threshold:g}"
    return [
        line_chart("Precision and recall, pooled", recall, precision, [Line("", points)], points[chosen], note),
        bar_chart("Images by Dice", Axis("Dice", 0, 1), "images", [int(count) for count in histogram["images"]]),
    ]


def scored_cases(manifest: pd.DataFrame, sources: Sources, task: TaskParams, machine: MachineParams) -> list[Case]:
    """Every scored image with its thumbnail: by Dice, worst first, then those without one, most found first."""
    scores = _read_scores(sources.predictions / "per_image.csv")
    scores["marked"], scores["predicted"] = (
        scores[f"{name}_pixels"] / scores["region_pixels"] for name in ("truth", "predicted")
    )
    # Where there is no Dice, the order is that of the area found.
    scores["rank"] = scores["dice"].fillna(1 + (1 - scores["predicted"]))
    scores = scores.sort_values(["rank", "file"])
    rows = manifest.set_index("file", drop=False).loc[scores["file"]]
    thumbnails = run_parallel(machine, partial(_thumbnail, sources=sources, task=task), rows.itertuples(), "report")
    return [_case(score, thumbnail) for score, thumbnail in zip(scores.itertuples(), thumbnails, strict=True)]


def jpeg_uri(image: Pixels) -> str:
    """RGB (H, W, 3) uint8 as a data URI; colours are not subsampled, so that thin outlines keep theirs."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return data_uri(buffer.getvalue(), "image/jpeg")


def data_uri(content: bytes, kind: str) -> str:
    """Bytes of the media type `kind` as an address that holds them."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _thumbnail(row: Any, sources: Sources, task: TaskParams) -> str:
    return jpeg_uri(draw_case(row, sources.raw, sources.predictions, task, THUMBNAIL))


def _case(score: Any, thumbnail: str) -> Case:
    values = (score.dice, score.iou, getattr(score, "class_dice", None))
    dice, iou, class_dice = (None if pd.isna(value) else float(value) for value in values)
    return Case(score.file, score.label, dice, iou, score.marked, score.predicted, class_dice, score.called, thumbnail)


def _classes(plots: Path, task: TaskParams) -> Classes | None:
    if not isinstance(task, Multiclass):
        return None
    table = pd.read_csv(io.BytesIO(read_bytes(plots / "confusion.csv")), dtype=str, keep_default_na=False)
    pairs = Counter(zip(table["actual"], table["predicted"], strict=True))
    names = [task.background, *task.labels]
    colours = [f"rgb{colour}" for colour in class_colours(len(task.labels))]
    return Classes(
        colours=dict(zip(task.labels, colours, strict=True)),
        calls={actual: {called: pairs[actual, called] for called in names} for actual in names},
        rule=words.call_rule(task),
    )


def _flattened(section: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _series(path: Path) -> list[Point]:
    table = _read_table(path, separator="\t")
    return list(zip(table["step"], table[path.stem], strict=True))


def _epochs(*series: list[Point]) -> Axis:
    steps = [step for points in series for step, _ in points] or [1]
    return Axis("epoch", min(steps), max(steps), whole=True)


def _from_zero(label: str, *points: Point) -> Axis:
    values = [value for _, value in points if value < float("inf")]
    return Axis(label, 0, max(values, default=1) or 1)


def _read_table(path: Path, separator: str = ",") -> pd.DataFrame:
    try:
        return pd.read_csv(io.BytesIO(read_bytes(path)), sep=separator)
    except ValueError as error:
        raise UserError(f"{path}: not readable as a table: {error}") from error


def _read_scores(path: Path) -> pd.DataFrame:
    """The table per image; a file or label called NA stays text."""
    return pd.read_csv(
        io.BytesIO(read_bytes(path)),
        dtype={"file": str, "label": str, "group": str, "called": str},
        keep_default_na=False,
        na_values={name: [""] for name in SCORE_COLUMNS},
    )
