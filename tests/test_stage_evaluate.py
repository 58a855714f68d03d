"""The stage `evaluate` from its arguments to its outputs, on three pictures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
import yaml

from medseg.bundle import WEIGHTS, load_bundle, save_bundle
from medseg.classes import Multiclass
from medseg.errors import UserError
from medseg.imaging import read_codes, read_image
from medseg.manifest import write_manifest
from medseg.models.network import build_model
from stages.evaluate import main

SECTIONS: dict[str, Any] = {
    "evaluate": {"threshold": 0.35, "overlap": 0.5, "batch_size": 4},
    "machine": {"workers": 1, "backend": "threading", "accelerator": "cpu"},
}
NAMES = ("params.yaml", "raw", "manifest.csv", "network", "segmenter", "predictions", "evaluate.json", "plots/evaluate")


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """The arguments of the stage, with inputs in place."""
    paths = [tmp_path / name for name in NAMES]
    paths[0].write_text(yaml.safe_dump(SECTIONS))
    torch.manual_seed(0)
    save_bundle(paths[3], build_model(tiny.unet(), 1, 1), tiny.description())
    sizes = {"a (1).png": (40, 50), "b.png": (33, 35), "c.png": (64, 48)}
    rows = [tiny.row(paths[1], file, *tiny.square(number, *size)) for number, (file, size) in enumerate(sizes.items())]
    write_manifest(pd.DataFrame(rows), paths[2])
    return paths


def test_scores_masks_plots_and_the_bundle_come_out(paths: list[Path]) -> None:
    main(*paths)
    *_, segmenter, predictions, metrics, plots = paths
    summary = json.loads(metrics.read_text())
    table = pd.read_csv(predictions / "per_image.csv")
    assert (summary["split"], summary["images"]) == ("test", 3)
    assert summary["dice"] == pytest.approx(table["dice"].mean(), abs=1e-6)
    assert read_image(predictions / "masks/a (1).png").shape == (40, 50, 1)
    assert {path.name for path in plots.iterdir()} == {
        "cases.png",
        "confusion.csv",
        "dice_histogram.csv",
        "precision_recall.csv",
    }
    network, description = load_bundle(segmenter)
    assert description == tiny.description(threshold=0.35)  # all as trained, but for the threshold
    original, _ = load_bundle(paths[3])
    picture = torch.from_numpy(np.zeros((1, 1, 32, 32), np.uint8))
    assert torch.equal(network(picture), original(picture))


def test_a_network_of_classes_leaves_codes_and_calls(paths: list[Path]) -> None:
    task = Multiclass(name="multiclass", background="normal", labels=["a", "b", "c"])
    torch.manual_seed(0)
    save_bundle(paths[3], build_model(tiny.unet(), 1, 4), tiny.description(task=task))
    main(*paths)
    *_, predictions, metrics, plots = paths
    summary = json.loads(metrics.read_text())
    assert list(summary["classes"]) == ["a", "b", "c"]
    assert summary["calls"]["images"] == 3
    assert set(np.unique(read_codes(predictions / "masks/b.png"))) <= {0, 1, 2, 3}
    assert pd.read_csv(plots / "confusion.csv")["actual"].tolist() == ["a", "a", "a"]


def test_equal_inputs_give_equal_bytes(paths: list[Path]) -> None:
    outputs = paths[4:]
    contents = []
    for _ in range(2):
        main(*paths)
        files = [file for path in outputs for file in ([path] if path.is_file() else sorted(path.rglob("*.*")))]
        contents.append({file: file.read_bytes() for file in files if file.is_file()})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 2 + 4 + 1 + 4


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
    assert not any(path.exists() for path in paths[4:])


def test_cut_weights_are_named_and_nothing_is_written(paths: list[Path]) -> None:
    weights = paths[3] / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(UserError, match=str(weights)):
        main(*paths)
    assert not any(path.exists() for path in paths[4:])


def test_a_picture_that_vanished_is_named_and_no_half_of_an_output_stays(paths: list[Path]) -> None:
    (paths[1] / "c.png").unlink()
    with pytest.raises(UserError, match=r"c\.png"):
        main(*paths)
    assert not any(path.exists() for path in paths[4:])
    assert not list(paths[0].parent.glob(".partial-*"))
