"""A model as one ONNX file gives the probabilities that PyTorch gives."""

import json
from pathlib import Path
from typing import Any, get_args

import model_sections
import numpy as np
import onnx
import pytest
import tiny
import torch
from torch.nn import functional

from medseg.core.errors import UserError
from medseg.core.params import validate
from medseg.data.geometry import Geometry, Patchify, Scale
from medseg.data.image_io import Pixels
from medseg.data.task import TaskParams
from medseg.inference import onnx_export
from medseg.inference.backends import open_model
from medseg.inference.onnx_export import ExportedNetwork, export
from medseg.inference.postprocess import Probabilities
from medseg.inference.settings import SegmenterDescription
from medseg.inference.torch_backend import load_segmenter
from medseg.models.network import Network, build_model
from medseg.models.params import Library, ModelParams

SIZES = [(1, 64, 64), (2, 33, 47), (1, 7, 40), (1, 96, 50)]
ARCHS: tuple[str, ...] = get_args(Library.model_fields["arch"].annotation)
KINDS = {arch: model_sections.ENCODED | {"name": "library", "arch": arch} for arch in ARCHS} | model_sections.SECTIONS
SCALE = Scale(name="scale", channels=1, factor=0.5, small_objects="drop")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def bundle(
    folder: Path, kind: str = "unet_plain", task: TaskParams = tiny.BINARY, geometry: Geometry | None = None
) -> Path:
    """A model folder with a small network whose probabilities are spread over 0..1.

    Its weights are random, but MAnet's: with random ones, rounding in PyTorch itself moves its probabilities by more
    than 1e-4, so it has learnt a little.
    """
    torch.manual_seed(0)
    model = validate(KINDS[kind], ModelParams, "model")
    description = tiny.segmenter(geometry, model, task, threshold=0.4)
    network = build_model(model, description.channels, task.logits)
    tiny.save_model(folder, taught(network) if kind == "manet" else model_sections.settled(network), description)
    return folder


def taught(network: Network) -> Network:
    """In evaluation mode, after ten steps on four bright squares."""
    samples = [tiny.square(seed, 32, 32) for seed in range(4)]
    batch = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image, _ in samples])
    truth = torch.stack([torch.from_numpy(mask).float()[None] for _, mask in samples])
    optimizer = torch.optim.Adam(network.parameters(), lr=0.005)
    for _ in range(10):
        optimizer.zero_grad()
        torch.autograd.backward(functional.binary_cross_entropy_with_logits(network(batch), truth))
        optimizer.step()
    return network.eval()


def images(count: int, height: int, width: int, channels: int = 1) -> Pixels:
    return np.random.default_rng(height).integers(0, 256, (count, height, width, channels), np.uint8)


def by_torch(folder: Path, pixels: Pixels) -> Probabilities:
    network, description = load_segmenter(folder)
    with torch.inference_mode():
        logits = network(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    found: Probabilities = description.task.probabilities(logits).numpy()
    return found


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if kind in ARCHS else []) for kind in sorted(KINDS)]
)
def test_images_of_any_size_and_number_get_the_same_probabilities(kind: str, tmp_path: Path) -> None:
    task = tiny.LESIONS if kind in {"unet", "segnet"} else tiny.BINARY
    folder, path = bundle(tmp_path / "model", kind, task), tmp_path / "model.onnx"
    assert export(folder, path) is None
    model = open_model(path, None, "cpu")
    assert model.size is None
    for size in SIZES:
        pixels = images(*size)
        found = model.forward(pixels)
        assert found.shape == (size[0], task.logits, *size[1:])
        np.testing.assert_allclose(found, by_torch(folder, pixels), rtol=0, atol=1e-4)


def metadata(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def test_the_file_says_all_that_the_folder_says(tmp_path: Path) -> None:
    folder, path = bundle(tmp_path / "model", task=tiny.LESIONS), tmp_path / "model.onnx"
    export(folder, path)
    found = metadata(path)
    described: Any = json.loads(found["description"])
    expected = load_segmenter(folder)[1]
    assert expected.chosen.choices.postprocess.threshold == 0.4
    assert validate(described, SegmenterDescription, "metadata") == expected
    assert open_model(path, None, "cpu").description == expected
    assert found["size"] == "any"
    assert "uint8 0..255" in found["input"]
    assert found["intensity"] == "the full range of a file's type, 0..255 or 0..65535, becomes 0..255"
    assert "normal, benign, malignant" in found["output"]


def test_weights_lie_in_the_file(tmp_path: Path) -> None:
    export(bundle(tmp_path / "model"), tmp_path / "alone" / "model.onnx")
    assert [path.name for path in (tmp_path / "alone").iterdir()] == ["model.onnx"]


def test_a_tile_fixes_the_size_of_scaled_images(tmp_path: Path) -> None:
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


def test_exporting_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    network = load_segmenter(bundle(tmp_path / "model", "pspnet"))[0]
    pixels = torch.from_numpy(images(1, 40, 56)).permute(0, 3, 1, 2)
    before = network(pixels)
    exported = ExportedNetwork(network, tiny.BINARY).eval()
    torch.testing.assert_close(exported(pixels), before.sigmoid())
    assert torch.equal(network(pixels), before)


def test_a_file_that_differs_from_the_network_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "TOLERANCE", -1.0)
    with pytest.raises(UserError, match=r"differs from it by .* nothing was written"):
        export(bundle(tmp_path / "model"), tmp_path / "out" / "model.onnx")
    assert list((tmp_path / "out").iterdir()) == []
