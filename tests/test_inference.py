"""A network and a picture of any size to probabilities at the picture's own size."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from medseg.choices import AUGMENTATIONS, Augmentation
from medseg.errors import UserError
from medseg.geometry import Geometry, Patchify, Resize, Scale
from medseg.imaging import Pixels
from medseg.inference import (
    Averaged,
    Orientation,
    Probabilities,
    average,
    choose_device,
    classify,
    foreground_probability,
    orientations,
    oriented,
    predict,
    predict_augmented,
    turned_back,
)

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


class Ramp(nn.Module):
    """`AsLogits`, more by 1 from the left edge to the right and by 2 from top to bottom: wherever things lie counts."""

    def forward(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[2:]
        ramp = torch.linspace(0, 1, width)[None] + 2 * torch.linspace(0, 1, height)[:, None]
        return (pixels[:, :1].float() - 128) / 32 + ramp


def patches(patch: int = 16, channels: int = 1) -> Patchify:
    return Patchify.model_validate(
        {"name": "patchify", "channels": channels, "patch": patch, "stride": 5, "border": "drop"}
    )


def resize(height: int, width: int, aspect: str, channels: int = 1) -> Resize:
    return Resize.model_validate(
        {"name": "resize", "channels": channels, "height": height, "width": width, "aspect": aspect}
    )


def picture(height: int, width: int, channels: int = 1) -> Pixels:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, channels), np.uint8)


def expected(image: Pixels) -> Probabilities:
    probabilities: Probabilities = (1 / (1 + np.exp(-(image[None, :, :, 0] - 128.0) / 32))).astype(np.float32)
    return probabilities


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 50), st.integers(1, 50), st.sampled_from([0.0, 0.3, 0.5, 0.94]), st.integers(1, 7))
def test_tiles_give_every_pixel_its_own_probability(height: int, width: int, overlap: float, batch_size: int) -> None:
    image = picture(height, width)
    found = predict(AsLogits(), image, patches(), overlap, batch_size, CPU)
    assert found.dtype == np.float32
    # Up to 16 x 16 tiles overlap in a pixel, and a sum of so many single-precision numbers may be off by their count.
    np.testing.assert_allclose(found, expected(image), rtol=256 * float(np.finfo(np.float32).eps))


@pytest.mark.parametrize(
    "geometry",
    [patches(), resize(32, 32, "squash"), resize(24, 48, "keep"), Scale(name="scale", channels=1, factor=0.5)],
    ids=["tiles", "squashed", "kept", "scaled"],
)
@pytest.mark.parametrize("size", [(7, 9), (16, 16), (33, 20)])
def test_a_constant_network_gives_a_constant_map(geometry: Geometry, size: tuple[int, int]) -> None:
    found = predict(Constant(), picture(*size), geometry, 0.5, 4, CPU)
    assert found.shape == (1, *size)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-1)), rtol=1e-6)


def test_the_batch_size_bounds_batches_and_changes_nothing() -> None:
    image = picture(40, 30)
    recorder = Recorder()
    found = predict(recorder, image, patches(), 0.5, 3, CPU)
    assert {shape[1:] for shape in recorder.shapes} == {(1, 16, 16)}
    assert max(shape[0] for shape in recorder.shapes) == 3
    np.testing.assert_array_equal(found, predict(AsLogits(), image, patches(), 0.5, 100, CPU))


def test_tiles_overlap_by_the_share_that_is_asked_for() -> None:
    recorder = Recorder()
    predict(recorder, picture(16, 48), patches(), 0.5, 1, CPU)
    assert len(recorder.shapes) == 5  # at 0, 8, 16, 24 and 32
    recorder = Recorder()
    predict(recorder, picture(16, 48), patches(), 0.0, 1, CPU)
    assert len(recorder.shapes) == 3


def test_a_picture_of_the_networks_size_comes_back_as_it_was() -> None:
    image = picture(32, 24)
    found = predict(AsLogits(), image, resize(32, 24, "squash"), 0.5, 4, CPU)
    np.testing.assert_allclose(found, expected(image), atol=1e-6)


@pytest.mark.parametrize("aspect", ["squash", "keep"])
@pytest.mark.parametrize("size", [(96, 64), (20, 90)])
def test_resizing_there_and_back_keeps_objects_in_their_place(size: tuple[int, int], aspect: str) -> None:
    image = np.zeros((*size, 1), np.uint8)
    image[: size[0] // 2, : size[1] // 2] = 255
    found = predict(AsLogits(), image, resize(64, 64, aspect), 0.5, 4, CPU)[0] >= 0.5
    agree = found == (image[..., 0] > 0)
    assert found.shape == size
    assert agree.mean() > 0.95


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("geometry", ["tiles", "resized"])
def test_the_network_sees_the_channels_that_it_was_trained_on(geometry: str, channels: int) -> None:
    wanted: Geometry = patches(16, channels) if geometry == "tiles" else resize(16, 16, "squash", channels)
    for stored in (1, 3):
        recorder = Recorder()
        found = predict(recorder, picture(20, 20, stored), wanted, 0.5, 4, CPU)
        assert found.shape == (1, 20, 20)
        assert all(shape[1] == channels for shape in recorder.shapes)


def test_grey_pictures_stored_as_rgb_give_the_same_map() -> None:
    grey = picture(30, 30)
    np.testing.assert_array_equal(
        predict(AsLogits(), grey, patches(), 0.5, 4, CPU),
        predict(AsLogits(), np.repeat(grey, 3, axis=2), patches(), 0.5, 4, CPU),
    )


@pytest.mark.parametrize(
    "geometry",
    [patches(), resize(30, 20, "squash"), resize(24, 48, "keep"), Scale(name="scale", channels=1, factor=1)],
    ids=["tiles", "squashed", "kept", "scaled"],
)
def test_several_logits_give_shares_that_add_up_to_one(geometry: Geometry) -> None:
    found = predict(ThreeLogits(), picture(30, 20), geometry, 0.5, 4, CPU)
    assert found.shape == (3, 30, 20)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(axis=0), 1, rtol=1e-5)


def test_several_logits_become_their_softmax() -> None:
    image = picture(30, 20)
    bright = (image[..., 0] - 128.0) / 32
    powers = np.exp(np.stack([np.zeros_like(bright), bright, -bright]))
    found = predict(ThreeLogits(), image, resize(30, 20, "squash"), 0.5, 4, CPU)
    np.testing.assert_allclose(found, powers / powers.sum(axis=0), rtol=1e-5)


def columns(*pixels: tuple[float, ...]) -> Probabilities:
    """(K, 1, W) from the probabilities of each pixel."""
    return np.array(pixels, np.float32).T[:, None]


def test_a_pixels_class_is_the_most_probable_lesion_even_where_background_is_more_probable() -> None:
    found = columns((0.9, 0.06, 0.04), (0.4, 0.2, 0.4), (0.45, 0.3, 0.25), (0.5, 0.25, 0.25), (0.51, 0.0, 0.49))
    assert classify(found, 0.5).tolist() == [[0, 2, 1, 1, 0]]
    assert classify(found, 0.05).tolist() == [[1, 2, 1, 1, 2]]


def test_one_probability_is_foreground_where_it_reaches_the_threshold() -> None:
    found = columns((0.29,), (0.3,), (1.0,), (0.0,))
    assert classify(found, 0.3).tolist() == [[0, 1, 1, 0]]
    assert classify(found, 0.3).dtype == np.uint8


@settings(deadline=None)
@given(arrays(np.float32, (4, 3, 5), elements=st.floats(0, 1, width=32)), st.floats(0.01, 0.99))
def test_foreground_is_that_of_one_class_with_the_same_probability(shares: Probabilities, threshold: float) -> None:
    shares = shares / np.maximum(shares.sum(axis=0), 1)
    together = foreground_probability(shares)
    assert together.min() >= 0
    np.testing.assert_array_equal(classify(shares, threshold) > 0, classify(together[None], threshold) > 0)
    np.testing.assert_array_equal(foreground_probability(together[None]), together)


def test_background_a_hair_above_one_is_no_negative_foreground() -> None:
    above = np.nextafter(np.float32(1), np.float32(2))
    assert foreground_probability(np.array([[[above]], [[0]], [[0]]], np.float32)).tolist() == [[0]]


SQUARE = resize(24, 24, "squash")
EVERY_GEOMETRY = pytest.mark.parametrize(
    "geometry",
    [patches(), SQUARE, resize(24, 24, "keep"), resize(24, 48, "keep"), Scale(name="scale", channels=1, factor=0.5)],
    ids=["tiles", "squashed", "kept", "oblong", "scaled"],
)


def augmented(network: nn.Module, image: Pixels, geometry: Geometry, augmentation: Augmentation) -> Averaged:
    return predict_augmented(network, image, geometry, 0.5, 4, CPU, augmentation)


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from(orientations("flips_and_turns", SQUARE)))
def test_turning_back_undoes_every_orientation(height: int, width: int, way: Orientation) -> None:
    image = picture(height, width, 3)
    planes = oriented(image, way).transpose(2, 0, 1).astype(np.float32)
    np.testing.assert_array_equal(turned_back(planes, way), image.transpose(2, 0, 1))


def test_the_orientations_are_the_four_flips_and_the_eight_ways_to_hold_a_square() -> None:
    image = np.array([[1, 2], [3, 4]], np.uint8)[..., None]
    held = [oriented(image, way)[..., 0].tolist() for way in orientations("flips_and_turns", SQUARE)]
    flips = [[[1, 2], [3, 4]], [[2, 1], [4, 3]], [[3, 4], [1, 2]], [[4, 3], [2, 1]]]
    turns = [[[2, 4], [1, 3]], [[3, 1], [4, 2]], [[1, 3], [2, 4]], [[4, 2], [3, 1]]]
    assert held[0] == flips[0]
    assert sorted(held[:4]) == sorted(flips)
    assert sorted(held[4:]) == sorted(turns)
    assert orientations("flips", SQUARE) == orientations("flips_and_turns", SQUARE)[:4]
    assert orientations("none", SQUARE) == orientations("flips", SQUARE)[:1]


def test_pictures_are_not_turned_where_the_network_sees_a_frame_that_is_not_square() -> None:
    counts = [len(orientations("flips_and_turns", frame)) for frame in (resize(24, 48, "keep"), SQUARE, patches())]
    assert counts == [4, 8, 8]


@EVERY_GEOMETRY
def test_without_augmentation_it_is_the_plain_prediction(geometry: Geometry) -> None:
    image = picture(30, 20)
    found = augmented(Ramp(), image, geometry, "none")
    np.testing.assert_array_equal(found.probabilities, predict(Ramp(), image, geometry, 0.5, 4, CPU))
    assert found.deviation.shape == (30, 20)
    assert found.deviation.dtype == np.float32
    assert not found.deviation.any()


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_a_network_that_turns_with_its_picture_gains_nothing_and_is_certain(augmentation: Augmentation) -> None:
    image = picture(24, 24)
    found = augmented(AsLogits(), image, SQUARE, augmentation)
    np.testing.assert_array_equal(found.probabilities, predict(AsLogits(), image, SQUARE, 0.5, 4, CPU))
    assert not found.deviation.any()


@EVERY_GEOMETRY
@pytest.mark.parametrize("augmentation", ["flips", "flips_and_turns"])
def test_the_mean_and_the_deviation_are_those_over_all_orientations(
    geometry: Geometry, augmentation: Augmentation
) -> None:
    image = picture(30, 20)
    found = augmented(Ramp(), image, geometry, augmentation)
    each = np.stack(
        [
            turned_back(predict(Ramp(), oriented(image, way), geometry, 0.5, 4, CPU), way)
            for way in orientations(augmentation, geometry)
        ]
    ).astype(np.float64)
    np.testing.assert_allclose(found.probabilities, each.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.deviation, each[:, 0].std(axis=0), atol=1e-7)
    assert found.deviation.max() > 0.05


def test_the_deviation_of_several_classes_is_that_of_their_foreground() -> None:
    shares = iter([columns((0.9, 0.1, 0.0), (0.5, 0.0, 0.5)), columns((0.3, 0.3, 0.4), (0.0, 0.5, 0.5))])
    found = average(lambda _: next(shares), picture(1, 2), [Orientation(0, False), Orientation(0, False)])
    np.testing.assert_allclose(found.probabilities, columns((0.6, 0.2, 0.2), (0.25, 0.25, 0.5)), rtol=1e-6)
    np.testing.assert_allclose(found.deviation, [[0.3, 0.25]], rtol=1e-6)


def test_a_prediction_is_turned_back_before_it_is_averaged() -> None:
    image = np.zeros((3, 2, 1), np.uint8)
    image[0, 0] = 255

    def top_left(held: Pixels) -> Probabilities:
        marked: Probabilities = (held[None, ..., 0] > 0).astype(np.float32)
        return marked

    found = average(top_left, image, orientations("flips_and_turns", SQUARE))
    assert found.probabilities[0].tolist() == [[1, 0], [0, 0], [0, 0]]


def test_a_gpu_that_is_not_there_names_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"machine\.accelerator"):
        choose_device("gpu")
    assert choose_device("auto") == choose_device("cpu") == CPU


def test_a_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [choose_device(name).type for name in ("gpu", "auto", "cpu")] == ["cuda", "cuda", "cpu"]
