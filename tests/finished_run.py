"""What all stages before the report leave behind, for four pictures of 40x30, written by hand."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from medseg.audit import audit
from medseg.cases import write_prediction
from medseg.classes import Multiclass
from medseg.imaging import write_png
from medseg.machine import MachineParams
from medseg.manifest import Fault, ManifestParams, measure, write_manifest
from medseg.outputs import write_text
from medseg.records import Record, Region

HOSTILE = "<script>alert(1).png"
HEIGHT, WIDTH = 30, 40
TRUTH, FOUND = (slice(5, 15), slice(5, 15)), (slice(5, 15), slice(10, 20))  # half of each is shared: Dice 0.5, IoU 1/3
MACHINE = MachineParams(workers=1, backend="threading", accelerator="cpu")

PARAMETERS: dict[str, Any] = {
    "data": {"name": "busi", "path": None},
    "prepare": {"name": "resize", "channels": 1, "height": 96, "width": 128, "aspect": "squash"},
    "augment": {"factor": 7, "rotate": {"p": 0.5, "degrees": 15}},
    "model": {"name": "unet", "encoder": "resnet18"},
    "loss": {"name": "bce_dice"},
    "evaluate": {"threshold": 0.5, "overlap": 0.5, "batch_size": 16},
    "machine": {"workers": 1, "backend": "threading", "accelerator": "cpu"},
    "name": "first",
    "seed": 0,
}
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
    "threshold": 0.5,
    "training": {
        "first_weights": "random",
        "former": None,
        "warnings": ["no weights for <resnet18>"],
        "best_epoch": 2,
        "epochs": 3,
        "val_dice": 0.75,
        "samples": 28,
        "packages": {"torch": "2.13.0"},
    },
}
SCORED = {"dice": 0.75, "iou": 0.666667, "precision": 0.75, "recall": 0.75, "accuracy": 0.958333}
METRICS: dict[str, Any] = {
    "split": "test",
    "images": 2,
    **SCORED,
    "missed": 0,
    "empty": {"images": 1, "with_false_positives": 1.0, "false_positive_area": 0.083333},
    "pooled": {"dice": 0.6, "iou": 0.428571},
    "labels": {"a|b": {"images": 2, **SCORED}},
    "calls": {"images": 3, "right": 2, "accuracy": 0.666667},
}
COLUMNS = (
    "file,label,group,region_pixels,truth_pixels,predicted_pixels,shared_pixels,dice,iou,precision,recall,accuracy"
)
PER_IMAGE = f"""{COLUMNS},called
good.png,a|b,g00001,1200,100,100,100,1.0,1.0,1.0,1.0,1.0,foreground
empty.png,NA,g00002,1200,0,100,0,,,,,0.916667,foreground
{HOSTILE},a|b,g00000,1200,100,100,50,0.5,0.333333,0.5,0.5,0.916667,foreground
"""
SEVERAL = Multiclass(name="multiclass", background="NA", labels=["a|b", "c<d"])
SEVERAL_METRICS: dict[str, Any] = {
    **METRICS,
    "classes": {
        "a|b": {"images": 2, "dice": 0.5, "iou": 0.5, "pooled_dice": 0.571429},
        "c<d": {"images": 0, "dice": None, "iou": None, "pooled_dice": None},
    },
    "calls": {"images": 3, "right": 1, "accuracy": 0.333333},
}
SEVERAL_PER_IMAGE = f"""{COLUMNS},class_dice,class_iou,called
good.png,a|b,g00001,1200,100,100,100,1.0,1.0,1.0,1.0,1.0,1.0,1.0,a|b
empty.png,NA,g00002,1200,0,100,0,,,,,0.916667,,,a|b
{HOSTILE},a|b,g00000,1200,100,100,50,0.5,0.333333,0.5,0.5,0.916667,0.0,0.0,c<d
"""
SEVERAL_CALLS = "actual,predicted\na|b,a|b\nNA,a|b\na|b,c<d\n"


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
    metrics: Path
    plots: Path

    def paths(self) -> list[Path]:
        return [getattr(self, field.name) for field in fields(self)]


def write_run(folder: Path, region: Region | None = None) -> Run:
    """Write a finished run to `folder`; `region` is what counts of every picture."""
    run = Run(
        params=folder / "params.yaml",
        raw=folder / "raw",
        manifest=folder / "manifest.csv",
        audit=folder / "audit.json",
        training=folder / "training",
        segmenter=folder / "segmenter",
        predictions=folder / "predictions",
        metrics=folder / "evaluate.json",
        plots=folder / "plots",
    )
    write_text(run.params, yaml.safe_dump(PARAMETERS, sort_keys=False))
    write_text(run.segmenter / "model.yaml", yaml.safe_dump(DESCRIPTION, sort_keys=False))
    write_text(run.metrics, json.dumps(METRICS))
    _write_data(run, region)
    _write_scores(run)
    _write_training(run.training / "plots" / "metrics")
    return run


def call_by_class(run: Run) -> None:
    """Make it a run that knows the classes `a|b` and `c<d`: one picture of `a|b` is found as such, one as `c<d`."""
    write_text(
        run.segmenter / "model.yaml", yaml.safe_dump(DESCRIPTION | {"task": SEVERAL.model_dump()}, sort_keys=False)
    )
    write_text(run.metrics, json.dumps(SEVERAL_METRICS))
    write_text(run.predictions / "per_image.csv", SEVERAL_PER_IMAGE)
    write_text(run.plots / "confusion.csv", SEVERAL_CALLS)
    for file, found, code in ((HOSTILE, FOUND, 2), ("good.png", TRUTH, 1), ("empty.png", FOUND, 1)):
        codes = np.zeros((HEIGHT, WIDTH), np.uint8)
        codes[found] = code
        write_prediction(run.predictions / "masks" / file, codes, SEVERAL)


def _write_data(run: Run, region: Region | None) -> None:
    files = {HOSTILE: "a|b", "good.png": "a|b", "empty.png": "NA", "train.png": "a|b"}
    rng = np.random.default_rng(0)
    for file in files:
        write_png(run.raw / file, rng.integers(90, 110, (HEIGHT, WIDTH), dtype=np.uint8))
        write_png(run.raw / "masks" / file, _mask(TRUTH if file != "empty.png" else None))
    records = [Record(file, (f"masks/{file}",), label, region=region) for file, label in files.items()]
    table, _ = measure(records, run.raw, ManifestParams(bad_files="fail", duplicate_distance=0), MACHINE)
    table.insert(4, "split", ["test", "test", "test", "train"])
    write_manifest(table, run.manifest)
    faults = [Fault("broken <b>.png", "is cut off")]
    found = audit("busi", table, faults) | {"contradicting_labels": [["good.png", "twin & sister.png"]]}
    write_text(run.audit, json.dumps(found))


def _write_scores(run: Run) -> None:
    write_text(run.predictions / "per_image.csv", PER_IMAGE)
    for file, found in ((HOSTILE, FOUND), ("good.png", TRUTH), ("empty.png", FOUND)):
        write_png(run.predictions / "masks" / file, _mask(found))
    write_text(
        run.plots / "confusion.csv",
        "actual,predicted\nforeground,foreground\nempty,foreground\nforeground,foreground\n",
    )
    write_png(run.plots / "cases.png", np.full((8, 8, 3), 77, np.uint8))
    write_text(
        run.plots / "precision_recall.csv", "threshold,precision,recall\n0.0,0.1,1.0\n0.5,0.6,0.6\n1.0,1.0,0.0\n"
    )
    histogram = "".join(f"{step / 20:.2f},{1 if step in (10, 19) else 0}\n" for step in range(20))
    write_text(run.plots / "dice_histogram.csv", "dice,images\n" + histogram)


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


def _mask(where: tuple[slice, slice] | None) -> Any:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    if where:
        mask[where] = 255
    return mask
