"""Everything that a report shows, gathered from what the other stages wrote."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.core.files import read_bytes, read_json
from medseg.core.parallel import MachineParams
from medseg.data.image import images_of
from medseg.data.manifest import read_manifest
from medseg.data.task import TaskParams
from medseg.experiments.run_record import SPLITS
from medseg.inference.settings import SegmenterDescription
from medseg.models.model_yaml import read_description
from medseg.report import sentences
from medseg.report.choices import Decision, decisions
from medseg.report.images import Case, data_uri, scored_cases
from medseg.report.run_charts import Charts, all_charts
from medseg.report.tables import Stratum, read_strata, read_table


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
class Classes:
    """What a report shows of a task with several classes beside the metrics."""

    colours: dict[str, str]  # by class, as CSS writes them
    calls: dict[str, dict[str, int]]  # images by label, then by what they were called; the background first
    rule: str


@dataclass(frozen=True)
class Uncertainty:
    """What a report shows of the maps of uncertainty."""

    meaning: str
    finding: str
    sheet: str  # a data URI


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
    strata: list[Stratum]  # of images in which something is annotated; the first is of all of these
    empty: Stratum | None  # images in which nothing is
    decisions: list[Decision]
    calibration: str
    uncertainty: Uncertainty | None  # None where no map was made
    parameters: dict[str, list[tuple[str, Any]]]  # by section; nested keys joined by dots
    method: list[str]
    limits: list[str]
    classes: Classes | None  # None in a binary task
    charts: Charts
    case_sheet: str  # a data URI
    cases: list[Case]  # worst first, those without a score last


def collect(record: dict[str, Any], sources: Sources, machine: MachineParams) -> Report:
    """Gather a run's report; `record` is the run's record. Raises `UserError` that names a missing file."""
    table, description = read_manifest(sources.manifest), read_description(sources.segmenter, SegmenterDescription)
    audit, metrics, parameters = read_json(sources.audit), record["metrics"], record["parameters"]
    strata = read_strata(sources.predictions / "summary.csv")
    pixels = int(read_table(sources.plots / "calibration.csv")["pixels"].sum())
    return Report(
        title=sentences.title(parameters),
        start=sentences.start(parameters["model"].get("encoder"), description.training),
        record=record,
        description=description,
        audit=audit,
        audit_rows=sentences.audit_rows(audit),
        splits=[split for split in SPLITS if split in audit["splits"]],
        metrics=metrics,
        strata=[stratum for stratum in strata if stratum.by != "empty"],
        empty=next((stratum for stratum in strata if stratum.by == "empty"), None),
        decisions=decisions(description.chosen, parameters["evaluate"]),
        calibration=sentences.calibration(metrics["ece"], pixels),
        uncertainty=_uncertainty(sources.plots, parameters["evaluate"]["uncertainty"], metrics),
        parameters=sections(parameters),
        method=sentences.method(description, table),
        limits=sentences.limits(parameters, audit, metrics, table),
        classes=_classes(sources.plots, description.task),
        charts=all_charts(sources.training, sources.plots, description),
        case_sheet=data_uri(read_bytes(sources.plots / "cases.png"), "image/png"),
        cases=scored_cases(images_of(table, sources.raw), sources.predictions, description.task, machine),
    )


def sections(parameters: dict[str, Any]) -> dict[str, list[tuple[str, Any]]]:
    """The parameters as lists of dotted keys and values, by section; values without a section come first, as `run`."""
    top = [(key, value) for key, value in parameters.items() if not isinstance(value, dict)]
    below = {key: list(_flattened(value)) for key, value in parameters.items() if isinstance(value, dict)}
    return {"run": top, **below}


def _uncertainty(plots: Path, orientations: str, metrics: dict[str, Any]) -> Uncertainty | None:
    sheet = plots / "uncertainty.png"
    if not sheet.exists():
        return None
    return Uncertainty(
        meaning=sentences.uncertainty_meaning(orientations),
        finding=sentences.uncertainty(metrics["uncertainty"]["rank_correlation"], metrics["images"]),
        sheet=data_uri(read_bytes(sheet), "image/png"),
    )


def _classes(plots: Path, task: TaskParams) -> Classes | None:
    if not task.has_classes:
        return None
    table = read_table(plots / "confusion.csv")
    pairs = Counter(zip(table["actual"], table["predicted"], strict=True))
    names = task.names
    colours = [f"rgb{colour}" for colour in task.colours]
    return Classes(
        colours=dict(zip(task.class_names, colours, strict=True)),
        calls={actual: {called: pairs[actual, called] for called in names} for actual in names},
        rule=sentences.call_rule(task),
    )


def _flattened(section: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
