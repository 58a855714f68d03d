"""The stage `evaluate` from its arguments to its outputs, on three images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
import yaml

from medseg.core.errors import UserError
from medseg.core.params import read_yaml
from medseg.data.image_io import read_image, write_png
from medseg.data.manifest import write_manifest
from medseg.data.mask_io import read_codes
from medseg.data.task import Multiclass
from medseg.data.training_images import read_training_images
from medseg.evaluation.choice_rule import MIN_GROUPS
from medseg.inference.settings import SegmenterDescription
from medseg.models.checkpoint import load_bundle
from medseg.models.model_yaml import WEIGHTS, Description
from medseg.models.network import build_model
from medseg.previews.audit import audit
from stages.evaluate import main

PROJECT = Path(__file__).parents[2]
SECTIONS: dict[str, Any] = {
    "evaluate": read_yaml(PROJECT / "conf/evaluate/default.yaml") | {"threshold": 0.35},
    "machine": {"workers": 1, "backend": "threading", "accelerator": "cpu"},
}
INPUTS = ("params.yaml", "raw", "manifest.csv", "audit.json", "network")
OUTPUTS = ("segmenter", "predictions", "evaluate.json", "plots/evaluate", "environment.json")
PLOTS = ["calibration", "confusion", "counts", "dice_by_label", "dice_histogram", "precision_recall", "thresholds"]


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """The arguments of the stage, with inputs in place."""
    paths = [tmp_path / name for name in (*INPUTS, *OUTPUTS)]
    paths[0].write_text(yaml.safe_dump(SECTIONS))
    torch.manual_seed(0)
    tiny.save_model(paths[4], build_model(tiny.unet(), 1, 1), tiny.description())
    sizes = {"a (1).png": (40, 50), "b.png": (33, 35), "c.png": (64, 48)}
    rows = [tiny.row(paths[1], file, *tiny.square(number, *size)) for number, (file, size) in enumerate(sizes.items())]
    rows += [
        tiny.row(paths[1], f"val {number}.png", *tiny.square(9 + number, 40, 40), split="val")
        for number in range(MIN_GROUPS)
    ]
    table = pd.DataFrame(rows)
    write_manifest(table, paths[2])
    paths[3].write_text(json.dumps(audit("folder", table, [], [], [], [])))
    return paths


def test_scores_masks_plots_and_the_bundle_come_out(paths: list[Path]) -> None:
    main(*paths)
    *_, segmenter, predictions, metrics, plots, _ = paths
    summary = json.loads((predictions / "summary.json").read_text())
    table = pd.read_csv(predictions / "per_image.csv")
    assert (summary["split"], summary["images"]) == ("test", 3)
    dice = json.loads(metrics.read_text())["dice"]
    assert summary["dice"] == dice == pytest.approx(table["dice"].mean(), abs=1e-6)
    assert read_image(predictions / "masks/a (1).png").shape == (40, 50, 1)
    assert sorted(path.name for path in plots.iterdir()) == sorted(
        ["cases.png", "uncertainty.png", *(f"{name}.csv" for name in PLOTS)]
    )
    assert sorted(path.name for path in predictions.iterdir()) == [
        "columns.md",
        "masks",
        "per_image.csv",
        "summary.csv",
        "summary.json",
        "uncertainty",
    ]
    network, description = load_bundle(segmenter, SegmenterDescription)
    original, _ = load_bundle(paths[4], Description)
    assert read_training_images(segmenter)["use"].tolist() == ["val"]  # ten files of equal bytes, says the manifest
    assert description.chosen.choices.postprocess.threshold == 0.35
    assert description.chosen.options[0].option == "test_time_augmentation"
    image = torch.from_numpy(np.zeros((1, 1, 32, 32), np.uint8))
    assert torch.equal(network(image), original(image))
    assert list(json.loads(paths[9].read_text())) == ["evaluate"]


def test_a_network_of_classes_leaves_codes_and_labels(paths: list[Path]) -> None:
    task = Multiclass(name="multiclass", background="normal", labels=["a", "b", "c"])
    torch.manual_seed(0)
    tiny.save_model(paths[4], build_model(tiny.unet(), 1, 4), tiny.description(task=task))
    main(*paths)
    *_, predictions, metrics, plots, _ = paths
    summary = json.loads((predictions / "summary.json").read_text())
    assert list(summary["classes"]) == ["a", "b", "c"]
    assert summary["image_labels"]["images"] == 3
    assert json.loads(metrics.read_text())["dice/a"] == summary["classes"]["a"]["dice"]
    assert set(np.unique(read_codes(predictions / "masks/b.png"))) <= {0, 1, 2, 3}
    assert pd.read_csv(plots / "confusion.csv")["actual"].tolist() == ["a", "a", "a"]


def test_equal_inputs_give_equal_bytes(paths: list[Path]) -> None:
    outputs = paths[5:9]
    contents = []
    for _ in range(2):
        main(*paths)
        files = [file for path in outputs for file in ([path] if path.is_file() else sorted(path.rglob("*.*")))]
        contents.append({file: file.read_bytes() for file in files if file.is_file()})
    assert contents[0] == contents[1]
    segmenter, predictions, metrics, plots = 4, 4 + 2 * 3, 1, 2 + len(PLOTS)
    assert len(contents[0]) == segmenter + predictions + metrics + plots


@pytest.mark.parametrize(
    ("section", "change", "named"),
    [
        ("evaluate", {"threshold": 1.0}, r"evaluate\.threshold"),
        ("evaluate", {"batch": 1}, r"evaluate\.batch"),
        ("machine", {"workers": -1}, r"machine\.workers"),
    ],
)
def test_a_wrong_value_stops_before_any_work(
    paths: list[Path], section: str, change: dict[str, Any], named: str
) -> None:
    paths[0].write_text(yaml.safe_dump(SECTIONS | {section: SECTIONS[section] | change}))
    with pytest.raises(UserError, match=named):
        main(*paths)
    assert not any(path.exists() for path in paths[5:])


def test_cut_weights_are_named_and_nothing_is_written(paths: list[Path]) -> None:
    weights = paths[4] / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(UserError, match=str(weights)):
        main(*paths)
    assert not any(path.exists() for path in paths[5:])


def test_an_image_that_vanished_is_named_and_no_half_of_an_output_stays(paths: list[Path]) -> None:
    (paths[1] / "c.png").unlink()
    with pytest.raises(UserError, match=r"c\.png"):
        main(*paths)
    assert not any(path.exists() for path in paths[5:])
    assert not list(paths[0].parent.glob(".partial-*"))


def test_what_test_shows_chooses_nothing(paths: list[Path]) -> None:
    paths[0].write_text(yaml.safe_dump(SECTIONS | {"evaluate": SECTIONS["evaluate"] | {"threshold": "val"}}))
    main(*paths)
    before, scores = read_yaml(paths[5] / "model.yaml"), paths[7].read_text()
    for mask in paths[1].glob("[abc]*_mask.png"):
        write_png(mask, np.uint8(255) - read_image(mask))
    main(*paths)
    assert read_yaml(paths[5] / "model.yaml") == before
    assert paths[7].read_text() != scores
