"""A network and an image of any size to probabilities at the image's own size."""

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from medseg.core.errors import UserError
from medseg.data.geometry import Geometry, Scale
from medseg.data.image_io import Pixels
from medseg.inference.postprocess import Probabilities
from medseg.inference.sliding_window import predict_image
from medseg.inference.torch_backend import choose_device, load_segmenter, network_forward
from medseg.models.checkpoint import save_bundle
from medseg.models.network import build_model

CPU = torch.device("cpu")


class AsLogits(nn.Module):
    """Gives the first channel of its input, less 128 and divided by 32, as logits."""

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels[:, :1].float() - 128) / 32


class Recorder(AsLogits):
    """Notes the shapes of the batches that it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, pixels: Tensor) -> Tensor:
        self.shapes.append(tuple(pixels.shape))
        return super().forward(pixels)


class Constant(nn.Module):
    """Logit 1 everywhere."""

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.ones_like(pixels[:, :1], dtype=torch.float32)


class ThreeLogits(nn.Module):
    """Logits 0, `AsLogits` and its opposite."""

    def forward(self, pixels: Tensor) -> Tensor:
        bright = (pixels[:, :1].float() - 128) / 32
        return torch.cat([torch.zeros_like(bright), bright, -bright], dim=1)


def predict(
    network: nn.Module, image: Pixels, geometry: Geometry, overlap: float, batch_size: int, device: torch.device
) -> Probabilities:
    task = tiny.LESIONS if isinstance(network, ThreeLogits) else tiny.BINARY
    return predict_image(network_forward(network, task, device), image, geometry, overlap, batch_size)


def expected(image: Pixels) -> Probabilities:
    probabilities: Probabilities = (1 / (1 + np.exp(-(image[None, :, :, 0] - 128.0) / 32))).astype(np.float32)
    return probabilities


@settings(max_examples=30)
@given(st.integers(1, 50), st.integers(1, 50), st.sampled_from([0.0, 0.3, 0.5, 0.94]), st.integers(1, 7))
def test_tiles_give_every_pixel_its_own_probability(height: int, width: int, overlap: float, batch_size: int) -> None:
    image = tiny.noise(height, width)
    found = predict(AsLogits(), image, tiny.patches(), overlap, batch_size, CPU)
    assert found.dtype == np.float32
    # Up to 16 x 16 tiles overlap in a pixel, and a sum of so many single-precision numbers may be off by their count.
    np.testing.assert_allclose(found, expected(image), rtol=256 * float(np.finfo(np.float32).eps))


@pytest.mark.parametrize(
    "geometry",
    [
        tiny.patches(),
        tiny.frame(32, 32, "squash"),
        tiny.frame(24, 48, "keep"),
        Scale(name="scale", channels=1, factor=0.5, small_objects="drop"),
    ],
    ids=["tiles", "squashed", "kept", "scaled"],
)
@pytest.mark.parametrize("size", [(7, 9), (16, 16), (33, 20)])
def test_a_constant_network_gives_a_constant_map(geometry: Geometry, size: tuple[int, int]) -> None:
    found = predict(Constant(), tiny.noise(*size), geometry, 0.5, 4, CPU)
    assert found.shape == (1, *size)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-1)), rtol=1e-6)


def test_the_batch_size_bounds_batches_and_changes_nothing() -> None:
    image = tiny.noise(40, 30)
    recorder = Recorder()
    found = predict(recorder, image, tiny.patches(), 0.5, 3, CPU)
    assert {shape[1:] for shape in recorder.shapes} == {(1, 16, 16)}
    assert max(shape[0] for shape in recorder.shapes) == 3
    np.testing.assert_array_equal(found, predict(AsLogits(), image, tiny.patches(), 0.5, 100, CPU))


def test_tiles_overlap_by_the_share_that_is_asked_for() -> None:
    recorder = Recorder()
    predict(recorder, tiny.noise(16, 48), tiny.patches(), 0.5, 1, CPU)
    assert len(recorder.shapes) == 5  # at 0, 8, 16, 24 and 32
    recorder = Recorder()
    predict(recorder, tiny.noise(16, 48), tiny.patches(), 0.0, 1, CPU)
    assert len(recorder.shapes) == 3


def test_an_image_of_the_networks_size_comes_back_as_it_was() -> None:
    image = tiny.noise(32, 24)
    found = predict(AsLogits(), image, tiny.frame(32, 24, "squash"), 0.5, 4, CPU)
    np.testing.assert_allclose(found, expected(image), atol=1e-6)


@pytest.mark.parametrize("aspect", ["squash", "keep"])
@pytest.mark.parametrize("size", [(96, 64), (20, 90)])
def test_resizing_there_and_back_keeps_objects_in_their_place(size: tuple[int, int], aspect: str) -> None:
    image = np.zeros((*size, 1), np.uint8)
    image[: size[0] // 2, : size[1] // 2] = 255
    found = predict(AsLogits(), image, tiny.frame(64, 64, aspect), 0.5, 4, CPU)[0] >= 0.5
    agree = found == (image[..., 0] > 0)
    assert found.shape == size
    assert agree.mean() > 0.95


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("geometry", ["tiles", "resized"])
def test_the_network_sees_the_channels_that_it_was_trained_on(geometry: str, channels: int) -> None:
    wanted: Geometry = tiny.patches(16, channels) if geometry == "tiles" else tiny.frame(16, 16, "squash", channels)
    for stored in (1, 3):
        recorder = Recorder()
        found = predict(recorder, tiny.noise(20, 20, stored), wanted, 0.5, 4, CPU)
        assert found.shape == (1, 20, 20)
        assert all(shape[1] == channels for shape in recorder.shapes)


def test_grey_images_stored_as_rgb_give_the_same_map() -> None:
    grey = tiny.noise(30, 30)
    np.testing.assert_array_equal(
        predict(AsLogits(), grey, tiny.patches(), 0.5, 4, CPU),
        predict(AsLogits(), np.repeat(grey, 3, axis=2), tiny.patches(), 0.5, 4, CPU),
    )


@pytest.mark.parametrize(
    "geometry",
    [
        tiny.patches(),
        tiny.frame(30, 20, "squash"),
        tiny.frame(24, 48, "keep"),
        Scale(name="scale", channels=1, factor=1, small_objects="drop"),
    ],
    ids=["tiles", "squashed", "kept", "scaled"],
)
def test_several_logits_give_shares_that_add_up_to_one(geometry: Geometry) -> None:
    found = predict(ThreeLogits(), tiny.noise(30, 20), geometry, 0.5, 4, CPU)
    assert found.shape == (3, 30, 20)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(axis=0), 1, rtol=1e-5)


def test_several_logits_become_their_softmax() -> None:
    image = tiny.noise(30, 20)
    bright = (image[..., 0] - 128.0) / 32
    powers = np.exp(np.stack([np.zeros_like(bright), bright, -bright]))
    found = predict(ThreeLogits(), image, tiny.frame(30, 20, "squash"), 0.5, 4, CPU)
    np.testing.assert_allclose(found, powers / powers.sum(axis=0), rtol=1e-5)


def test_the_network_is_run_as_it_is_after_training_and_keeps_no_gradients() -> None:
    network = nn.Sequential(AsLogits(), nn.Dropout(0.9))
    network.train()
    forward, pixels = network_forward(network, tiny.BINARY, CPU), tiny.noise(9, 7)[None]
    np.testing.assert_allclose(forward(pixels)[0], expected(pixels[0]), atol=1e-6)
    assert not network.training


def test_the_settings_of_prediction_are_loaded_with_the_network(tmp_path: Path) -> None:
    described = tiny.segmenter(threshold=0.4)
    save_bundle(tmp_path, build_model(described.model, 1, 1), described)
    network, found = load_segmenter(tmp_path)
    assert found == described
    assert not network.training


def test_a_network_without_settings_of_prediction_is_refused(tmp_path: Path) -> None:
    save_bundle(tmp_path, build_model(tiny.unet(), 1, 1), tiny.description())
    with pytest.raises(UserError, match=r"model\.yaml: describes a network alone.*models/segmenter"):
        load_segmenter(tmp_path)


def test_a_gpu_that_is_not_there_names_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"machine\.accelerator"):
        choose_device("gpu")
    with pytest.raises(UserError, match=r"^--accelerator gpu: no GPU"):
        choose_device("gpu", "--accelerator")
    assert choose_device("auto") == choose_device("cpu") == CPU


def test_a_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [choose_device(name).type for name in ("gpu", "auto", "cpu")] == ["cuda", "cuda", "cpu"]
