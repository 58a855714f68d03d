"""A model as one ONNX file gives the probabilities that PyTorch gives."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import test_every_model
import tiny
import torch

from medseg import export as exporting
from medseg.bundle import load_bundle, save_bundle
from medseg.classes import TaskParams, logit_count
from medseg.description import Description
from medseg.errors import UserError
from medseg.export import export
from medseg.geometry import Geometry, Patchify, Resize, Scale
from medseg.imaging import Pixels
from medseg.models.network import build_model
from medseg.models.params import ModelParams
from medseg.params import validate
from medseg.postprocess import Probabilities
from medseg.runtimes import open_model

SIZES = [(1, 64, 64), (2, 33, 47), (1, 7, 40), (1, 96, 50)]
OPEN = ["cmunext", "improved_unet", "segformer", "segnet", "unet", "unet_plain"]
FIXED = ["pspnet", "upernet"]
SCALE = Scale(name="scale", channels=1, factor=0.5)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def bundle(
    folder: Path, kind: str = "unet_plain", task: TaskParams = tiny.BINARY, geometry: Geometry | None = None
) -> Path:
    """A model folder with a small network of random weights whose probabilities are spread over 0..1."""
    torch.manual_seed(0)
    model = validate(test_every_model.section(kind), ModelParams, "model")
    description = tiny.description(geometry, model, threshold=0.4, task=task)
    network = build_model(model, description.channels, logit_count(task))
    save_bundle(folder, test_every_model.settled(network), description)
    return folder


def pictures(count: int, height: int, width: int, channels: int = 1) -> Pixels:
    return np.random.default_rng(height).integers(0, 256, (count, height, width, channels), np.uint8)


def by_torch(folder: Path, pixels: Pixels) -> Probabilities:
    network, description = load_bundle(folder)
    with torch.inference_mode():
        logits = network(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    shares = logits.sigmoid() if logit_count(description.task) == 1 else logits.softmax(1)
    found: Probabilities = shares.numpy()
    return found


@pytest.mark.parametrize("kind", OPEN)
def test_pictures_of_any_size_and_number_get_the_same_probabilities(kind: str, tmp_path: Path) -> None:
    task = tiny.LESIONS if kind in {"unet", "segnet"} else tiny.BINARY
    folder, path = bundle(tmp_path / "model", kind, task), tmp_path / "model.onnx"
    assert export(folder, path) is None
    model = open_model(path, None, "cpu")
    assert model.size is None
    for size in SIZES:
        pixels = pictures(*size)
        found = model.forward(pixels)
        assert found.shape == (size[0], logit_count(task), *size[1:])
        np.testing.assert_allclose(found, by_torch(folder, pixels), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", FIXED)
def test_pyramid_pooling_is_fixed_to_the_size_of_the_samples(kind: str, tmp_path: Path) -> None:
    wide = Resize(name="resize", channels=1, height=64, width=96, aspect="squash")
    folder, path = bundle(tmp_path / "model", kind, geometry=wide), tmp_path / "model.onnx"
    assert export(folder, path) == (64, 96)
    model, pixels = open_model(path, None, "cpu"), pictures(3, 64, 96)
    assert model.size == (64, 96)
    assert metadata(path)["size"] == "96x64 pixels alone"
    np.testing.assert_allclose(model.forward(pixels), by_torch(folder, pixels), rtol=0, atol=1e-4)


def metadata(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def test_the_file_says_all_that_the_folder_says(tmp_path: Path) -> None:
    folder, path = bundle(tmp_path / "model", task=tiny.LESIONS), tmp_path / "model.onnx"
    export(folder, path)
    found = metadata(path)
    described: Any = json.loads(found["description"])
    expected: Description = load_bundle(folder)[1]
    assert validate(described, Description, "metadata") == expected == open_model(path, None, "cpu").description
    assert found["size"] == "any"
    assert "uint8 0..255" in found["input"]
    assert "normal, benign, malignant" in found["output"]


def test_weights_lie_in_the_file(tmp_path: Path) -> None:
    export(bundle(tmp_path / "model"), tmp_path / "alone" / "model.onnx")
    assert [path.name for path in (tmp_path / "alone").iterdir()] == ["model.onnx"]


def test_a_tile_fixes_the_size_of_scaled_pictures(tmp_path: Path) -> None:
    folder, path = bundle(tmp_path / "model", geometry=SCALE), tmp_path / "model.onnx"
    assert export(folder, path, tile=48) == (48, 48)
    assert open_model(path, None, "cpu").size == (48, 48)


@pytest.mark.parametrize(
    ("geometry", "tile"),
    [(tiny.resize(side=32), 48), (Patchify(name="patchify", channels=1, patch=32, stride=8, border="pad"), 16)],
    ids=["resized", "patches"],
)
def test_a_tile_unlike_the_samples_is_refused(tmp_path: Path, geometry: Geometry, tile: int) -> None:
    folder = bundle(tmp_path / "model", geometry=geometry)
    with pytest.raises(UserError, match=f"--tile {tile}: the network's samples measure 32x32"):
        export(folder, tmp_path / "model.onnx", tile)


def test_pyramid_pooling_over_scaled_pictures_asks_for_a_tile(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "model", "pspnet", geometry=SCALE)
    with pytest.raises(UserError, match="--tile"):
        export(folder, tmp_path / "model.onnx")


def test_a_file_that_differs_from_the_network_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    with pytest.raises(UserError, match=r"differs from it by .* nothing was written"):
        export(bundle(tmp_path / "model"), tmp_path / "out" / "model.onnx")
    assert list((tmp_path / "out").iterdir()) == []
