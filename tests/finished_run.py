"""What all stages before the report leave behind, for images of 40x30 whose masks are set by hand."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tiny
import yaml

from medseg.core.files import write_text
from medseg.data.image import Image, images_of
from medseg.data.image_io import Pixels, write_png
from medseg.data.manifest import Fault, ManifestParams, measure, write_manifest
from medseg.data.task import Multiclass, TaskParams
from medseg.datasets.record import Record, Region
from medseg.evaluation.evaluate import Evaluation
from medseg.evaluation.per_image import score_image
from medseg.evaluation.plots import write_plots
from medseg.evaluation.strata import size_limits, size_strata
from medseg.evaluation.summary import write_tables
from medseg.inference.prediction_files import MASKS, UNCERTAINTY, mask_path, write_prediction, write_uncertainty
from medseg.inference.settings import Counting, Scoring
from medseg.metrics.calibration import CalibrationErrors
from medseg.metrics.counting import CountingParams
from medseg.metrics.overlap import Counts
from medseg.metrics.surface import Tolerance
from medseg.previews.audit import audit

Where = tuple[slice, slice]

HOSTILE = "<script>alert(1).png"
HEIGHT, WIDTH = 30, 40
TRUTH, FOUND = (slice(5, 15), slice(5, 15)), (slice(5, 15), slice(10, 20))  # half of each is shared: Dice 0.5, IoU 1/3


@dataclass(frozen=True)
class Drawn:
    """A test image: where something is annotated in it, and what was found where."""

    file: str
    label: str
    truth: Where | None
    found: Where | None
    code: int = 1  # of the class that was found
    uncertainty: float = 0.1


IMAGES = (
    Drawn(HOSTILE, "a|b", TRUTH, FOUND, code=2, uncertainty=0.2),
    Drawn("good.png", "a|b", TRUTH, TRUTH),
    Drawn("empty.png", "NA", None, FOUND),
)
TRAIN = Drawn("train.png", "a|b", TRUTH, None)
SEVERAL = Multiclass(name="multiclass", background="NA", labels=["a|b", "c<d"])
EVALUATE: dict[str, Any] = {
    "test_time_augmentation": "val",
    "threshold": "val",
    "crf": {"use": "never", "iterations": 10},
    "fill_holes": "val",
    "smallest_object": 30,
    "largest_component": "never",
    "uncertainty": "flips",
    "overlap": 0.5,
    "batch_size": 16,
}
PARAMETERS: dict[str, Any] = {
    "data": {"name": "busi", "path": None},
    "prepare": {
        "name": "resize",
        "channels": 1,
        "height": 96,
        "width": 128,
        "aspect": "squash",
        "small_objects": "drop",
    },
    "intensity": {"name": "full"},
    "augment": {"factor": 7, "rotate": {"p": 0.5, "degrees": 15}},
    "model": {"name": "unet", "encoder": "resnet18"},
    "loss": {"name": "bce_dice"},
    "evaluate": EVALUATE,
    "machine": {"workers": 1, "backend": "threading", "accelerator": "cpu"},
    "name": "first",
    "seed": 0,
}
CHOSEN: dict[str, Any] = {
    "choices": {
        "test_time_augmentation": "none",
        "crf": None,
        "postprocess": {"threshold": 0.4, "fill_holes": False, "smallest_object": 30, "largest_component": False},
    },
    "options": [
        {
            "option": "test_time_augmentation",
            "simplest": 0.7,
            "other": 0.65,
            "tried": "flips",
            "error": 0.01,
            "chosen": "none",
        },
        {"option": "threshold", "simplest": 0.7, "other": 0.74, "tried": "0.4", "error": 0.0123, "chosen": "0.4"},
        {
            "option": "fill_holes",
            "simplest": 0.74,
            "other": 0.739996,
            "tried": "always",
            "error": 0.0,
            "chosen": "never",
        },
    ],
    "images": 15,
    "groups": 12,
    "warnings": [],
}
CALIBRATION = CalibrationErrors(
    ece=0.1,
    brier=0.0123,
    constant_brier=0.0456,
    counted=400,
    ruled_out=3200,
    ruled_out_probability=0.002,
    ruled_out_observed=0.015,
)
SCORING = Scoring(
    tolerance=Tolerance(pixels=2.0, diagonal=0.01),
    counting=Counting(
        truth=CountingParams(smallest=10, split=False, depth=1.0),
        prediction=CountingParams(smallest=0, split=True, depth=0.5),
    ),
    uncertainty="flips",
)
DESCRIPTION: dict[str, Any] = {
    "model": {
        "name": "unet",
        "encoder": "resnet18",
        "encoder_weights": "auto",
        "decoder_channels": [64, 48, 32, 24, 16],
        "input_mean": [0.5],
        "input_std": [0.5],
    },
    "channels": 1,
    "task": {"name": "binary"},
    "geometry": PARAMETERS["prepare"],
    "intensity": {"name": "full"},
    "training": {
        "initial_weights": "random",
        "initial_network": None,
        "warnings": ["no weights for <resnet18>"],
        "best_epoch": 2,
        "epochs": 3,
        "val_dice": 0.75,
        "samples": 28,
        "packages": {"torch": "2.13.0"},
    },
    "overlap": 0.5,
    "chosen": CHOSEN,
    "scoring": SCORING.model_dump(),
}


@dataclass(frozen=True)
class Run:
    """The inputs of the stage `report`, in its order."""

    params: Path
    raw: Path
    manifest: Path
    audit: Path
    training: Path
    segmenter: Path
    predictions: Path
    plots: Path
    code: Path
    stages: Path

    def paths(self) -> list[Path]:
        return [getattr(self, field.name) for field in fields(self)]


def run_in(folder: Path) -> Run:
    """The paths of a run that lies in `folder`."""
    return Run(
        params=folder / "params.yaml",
        raw=folder / "raw",
        manifest=folder / "manifest.csv",
        audit=folder / "audit.json",
        training=folder / "training",
        segmenter=folder / "segmenter",
        predictions=folder / "predictions",
        plots=folder / "plots",
        code=folder / "code",
        stages=folder / "stages",
    )


def write_run(
    folder: Path,
    region: Region | None = None,
    images: Sequence[Drawn] = IMAGES,
    task: TaskParams = tiny.BINARY,
    with_uncertainty: bool = True,
) -> Run:
    """Write a finished run to `folder`; `region` is what counts of every image."""
    run = run_in(folder)
    write_text(run.params, yaml.safe_dump(PARAMETERS, sort_keys=False))
    description = DESCRIPTION | {"task": task.model_dump()}
    write_text(run.segmenter / "model.yaml", yaml.safe_dump(description, sort_keys=False))
    for code in (run.code, run.stages):
        write_text(code / "main.py", "")
    manifest = _write_data(run, images, region)
    _write_scores(run, images_of(manifest, run.raw), images, task, with_uncertainty)
    _write_training(run.training / "plots" / "metrics")
    return run


def _write_data(run: Run, images: Sequence[Drawn], region: Region | None) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    for image in [*images, TRAIN]:
        write_png(run.raw / image.file, rng.integers(90, 110, (HEIGHT, WIDTH), dtype=np.uint8))
        write_png(run.raw / "masks" / image.file, _mask(image.truth) * np.uint8(255))
    records = [Record(image.file, (f"masks/{image.file}",), image.label, region=region) for image in [*images, TRAIN]]
    table, _ = measure(records, run.raw, ManifestParams(bad_files="fail", duplicate_distance=0), tiny.CPU)
    table.insert(4, "split", ["train" if file == TRAIN.file else "test" for file in table["file"]])
    write_manifest(table, run.manifest)
    faults = [Fault("broken <b>.png", "is cut off")]
    found = audit("busi", table, faults, [], [], []) | {"contradicting_labels": [["good.png", "twin & sister.png"]]}
    write_text(run.audit, json.dumps(found))
    return table


def _write_scores(
    run: Run, scored: Sequence[Image], images: Sequence[Drawn], task: TaskParams, with_uncertainty: bool
) -> None:
    by_file = {image.file: image for image in scored}
    table = pd.DataFrame([_score(run, by_file[image.file], image, task) for image in images])
    shares = (table["truth_pixels"] / table["region_pixels"]).to_numpy()
    table.insert(3, "size", size_strata(shares, size_limits(shares)))
    if not with_uncertainty:
        table["uncertainty"] = np.nan
    for image in images if with_uncertainty else ():
        deviation = image.uncertainty * _mask(image.found).astype(np.float32)
        write_uncertainty(mask_path(run.predictions / UNCERTAINTY, by_file[image.file]), deviation)
    evaluation = Evaluation(
        split="test",
        task=task,
        table=table,
        curve=pd.DataFrame({"threshold": [0.0, 0.5, 1.0], "precision": [0.1, 0.6, 1.0], "recall": [1.0, 0.6, 0.0]}),
        calibration=pd.DataFrame({"confidence": [0.1, 0.9], "observed": [0.2, 0.8], "pixels": [300, 100]}),
        calibration_errors=CALIBRATION,
        class_calibration=dict.fromkeys(task.class_names, CALIBRATION) if task.has_classes else {},
        pooled=dict.fromkeys(task.class_names, Counts(10, 5, 5, 80)),
    )
    thresholds = pd.DataFrame({"threshold": [0.3, 0.5, 0.7], "dice": [0.68, 0.7, 0.66]})
    means, _ = write_tables(evaluation, run.predictions, run.predictions / "summary.json")
    run.plots.mkdir(parents=True)
    write_plots(evaluation, thresholds, means, scored, run.predictions, run.plots)


def _score(run: Run, image: Image, drawn: Drawn, task: TaskParams) -> dict[str, Any]:
    """Write an image's prediction, and give its row of per_image.csv."""
    codes = _mask(drawn.found) * np.uint8(drawn.code if task.has_classes else 1)
    write_prediction(mask_path(run.predictions / MASKS, image), codes, task)
    codes, truth = image.crop(codes), image.crop(image.read_mask())
    scores = score_image(codes, truth, task.codes([image.label])[0], task, SCORING)
    names = {"file": image.file, "label": image.label, "group": image.group}
    return names | scores | {"uncertainty": drawn.uncertainty if codes.any() or truth.any() else np.nan}


def _write_training(folder: Path) -> None:
    series = {
        "train/loss": ["0.9", "0.5", "0.25"],
        "val/loss": ["0.8", "nan", "0.4"],
        "val/dice": ["0.5", "0.75", "0.7"],
        "learning_rate": ["0.001", "0.001", "0.0001"],
    }
    for name, values in series.items():
        rows = "".join(f"{epoch}\t{value}\n" for epoch, value in enumerate(values, start=1))
        write_text(folder / f"{name}.tsv", f"step\t{name.split('/')[-1]}\n{rows}")


def _mask(where: Where | None) -> Pixels:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    if where:
        mask[where] = 1
    return mask
