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
from medseg.datasets import title_of
from medseg.evaluation import describe
from medseg.inference.settings import SegmenterDescription
from medseg.models.model_yaml import read_description
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
    """What a report shows of a task with several classes beside the summary."""

    colours: dict[str, str]  # by class, as CSS writes them
    confusion: dict[str, dict[str, int]]  # images by label, then by predicted label; the background first
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
    lead: str
    record: dict[str, Any]
    description: SegmenterDescription
    warnings: list[str]
    audit: dict[str, Any]
    summary: dict[str, Any]
    strata: list[Stratum]  # of images in which something is annotated; the first is of all of these
    empty: Stratum | None  # images in which nothing is
    uncertainty: Uncertainty | None  # None where no map was made
    parameters: dict[str, list[tuple[str, Any]]]  # by section; nested keys joined by dots
    limits: list[str]
    classes: Classes | None  # None in a binary task
    charts: Charts
    case_sheet: str  # a data URI
    cases: list[Case]  # worst first, those without a score last


def collect(record: dict[str, Any], sources: Sources, machine: MachineParams) -> Report:
    """Gather a run's report; `record` is the run's record. Raises `UserError` that names a missing file."""
    table, description = read_manifest(sources.manifest), read_description(sources.segmenter, SegmenterDescription)
    audit, summary = read_json(sources.audit), record["metrics"]
    title = f"{describe.architecture(description.model)} on {title_of(audit['data'])}"
    strata = read_strata(sources.predictions / "summary.csv")
    return Report(
        title=title[:1].upper() + title[1:],
        lead=_lead(description),
        record=record,
        description=description,
        warnings=[*audit["warnings"], *describe.warnings(description)],
        audit=audit,
        summary=summary,
        strata=[stratum for stratum in strata if stratum.by != "empty"],
        empty=next((stratum for stratum in strata if stratum.by == "empty"), None),
        uncertainty=_uncertainty(sources.plots, description, summary),
        parameters=sections(record["parameters"]),
        limits=list(describe.limits(audit, summary["split"], strata[0].means["dice"].groups)),
        classes=_classes(sources.plots, description.task),
        charts=all_charts(sources.training, sources.plots, description),
        case_sheet=data_uri(read_bytes(sources.plots / "cases.png"), "image/png"),
        cases=scored_cases(
            images_of(table, sources.raw, description.intensity), sources.predictions, description.task, machine
        ),
    )


def sections(parameters: dict[str, Any]) -> dict[str, list[tuple[str, Any]]]:
    """The parameters as lists of dotted keys and values, by section; values without a section come first, as `run`."""
    top = [(key, value) for key, value in parameters.items() if not isinstance(value, dict)]
    below = {key: list(_flattened(value)) for key, value in parameters.items() if isinstance(value, dict)}
    return {"run": top, **below}


def _lead(description: SegmenterDescription) -> str:
    training, samples = description.training, describe.samples_briefly(description.geometry.model_dump())
    return (
        f"{describe.network(description.model)}, started from {describe.initial_weights(training)}. "
        f"Samples: {samples}. Training: {describe.training_in_short(training)}."
    )


def _uncertainty(plots: Path, description: SegmenterDescription, summary: dict[str, Any]) -> Uncertainty | None:
    sheet = plots / "uncertainty.png"
    if not sheet.exists():
        return None
    return Uncertainty(
        meaning=describe.uncertainty(description.scoring.uncertainty),
        finding=describe.uncertainty_finding(summary["uncertainty"]["rank_correlation"], summary["images"]),
        sheet=data_uri(read_bytes(sheet), "image/png"),
    )


def _classes(plots: Path, task: TaskParams) -> Classes | None:
    if not task.has_classes:
        return None
    table = read_table(plots / "confusion.csv")
    pairs = Counter(zip(table["actual"], table["predicted"], strict=True))
    colours = [f"rgb{colour}" for colour in task.colours]
    return Classes(
        colours=dict(zip(task.class_names, colours, strict=True)),
        confusion={actual: {found: pairs[actual, found] for found in task.names} for actual in task.names},
        rule=describe.label_rule(task),
    )


def _flattened(section: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
