"""The mean of predictions of an image flipped and rotated in several ways."""

import tracemalloc

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from medseg.data.geometry import Geometry, Scale
from medseg.data.image_io import Pixels
from medseg.evaluation.tuning import AUGMENTATIONS
from medseg.inference.postprocess import Probabilities
from medseg.inference.settings import Augmentation
from medseg.inference.sliding_window import Forward, predict_image
from medseg.inference.tta import (
    AugmentedPrediction,
    Orientation,
    average,
    orient,
    orientations,
    predict_augmented,
    undo_orientation,
)


def logits(pixels: Pixels) -> Probabilities:
    """The first channel, less 128 and divided by 32, (N, 1, H, W)."""
    values: Probabilities = (pixels[:, None, ..., 0].astype(np.float32) - np.float32(128)) / np.float32(32)
    return values


def sigmoid(pixels: Pixels) -> Probabilities:
    """What is bright is probable."""
    return (1 / (1 + np.exp(-logits(pixels)))).astype(np.float32)


def ramp(pixels: Pixels) -> Probabilities:
    """As `sigmoid`, but logits rise by 1 from left to right and by 2 from top to bottom: wherever things lie counts."""
    height, width = pixels.shape[1:3]
    rise = np.linspace(0, 1, width)[None] + 2 * np.linspace(0, 1, height)[:, None]
    probabilities: Probabilities = (1 / (1 + np.exp(-logits(pixels) - rise))).astype(np.float32)
    return probabilities


def columns(*pixels: tuple[float, ...]) -> Probabilities:
    """(K, 1, W) from the probabilities of each pixel."""
    return np.array(pixels, np.float32).T[:, None]


SQUARE = tiny.frame(24, 24, "squash")
EVERY_GEOMETRY = pytest.mark.parametrize(
    "geometry",
    [
        tiny.patches(),
        SQUARE,
        tiny.frame(24, 24, "keep"),
        tiny.frame(24, 48, "keep"),
        Scale(name="scale", channels=1, factor=0.5, small_objects="drop"),
    ],
    ids=["tiles", "squashed", "kept", "oblong", "scaled"],
)


def augmented(forward: Forward, image: Pixels, geometry: Geometry, augmentation: Augmentation) -> AugmentedPrediction:
    return predict_augmented(forward, image, geometry, 0.5, 4, augmentation)


@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from(orientations("flips_and_turns", SQUARE)))
def test_every_orientation_can_be_undone(height: int, width: int, orientation: Orientation) -> None:
    image = tiny.noise(height, width, 3)
    planes = orient(image, orientation).transpose(2, 0, 1).astype(np.float32)
    np.testing.assert_array_equal(undo_orientation(planes, orientation), image.transpose(2, 0, 1))


def test_the_orientations_are_the_four_flips_and_the_eight_symmetries_of_a_square() -> None:
    image = np.array([[1, 2], [3, 4]], np.uint8)[..., None]
    held = [orient(image, orientation)[..., 0].tolist() for orientation in orientations("flips_and_turns", SQUARE)]
    flips = [[[1, 2], [3, 4]], [[2, 1], [4, 3]], [[3, 4], [1, 2]], [[4, 3], [2, 1]]]
    turns = [[[2, 4], [1, 3]], [[3, 1], [4, 2]], [[1, 3], [2, 4]], [[4, 2], [3, 1]]]
    assert held[0] == flips[0]
    assert sorted(held[:4]) == sorted(flips)
    assert sorted(held[4:]) == sorted(turns)
    assert orientations("flips", SQUARE) == orientations("flips_and_turns", SQUARE)[:4]
    assert orientations("mirror", SQUARE) == orientations("flips", SQUARE)[:2]
    assert orient(image, orientations("mirror", SQUARE)[1])[..., 0].tolist() == [[2, 1], [4, 3]]
    assert orientations("none", SQUARE) == orientations("flips", SQUARE)[:1]


def test_images_are_not_turned_where_the_network_sees_a_frame_that_is_not_square() -> None:
    counts = [
        len(orientations("flips_and_turns", frame)) for frame in (tiny.frame(24, 48, "keep"), SQUARE, tiny.patches())
    ]
    assert counts == [4, 8, 8]


@EVERY_GEOMETRY
def test_without_augmentation_it_is_the_plain_prediction(geometry: Geometry) -> None:
    image = tiny.noise(30, 20)
    found = augmented(ramp, image, geometry, "none")
    np.testing.assert_array_equal(found.probabilities, predict_image(ramp, image, geometry, 0.5, 4))
    assert found.deviation.shape == (30, 20)
    assert found.deviation.dtype == np.float32
    assert not found.deviation.any()


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_a_network_that_turns_with_its_image_gains_nothing_and_is_certain(augmentation: Augmentation) -> None:
    image = tiny.noise(24, 24)
    found = augmented(sigmoid, image, SQUARE, augmentation)
    np.testing.assert_array_equal(found.probabilities, predict_image(sigmoid, image, SQUARE, 0.5, 4))
    assert not found.deviation.any()


@EVERY_GEOMETRY
@pytest.mark.parametrize("augmentation", ["flips", "flips_and_turns"])
def test_the_mean_and_the_deviation_are_those_over_all_orientations(
    geometry: Geometry, augmentation: Augmentation
) -> None:
    image = tiny.noise(30, 20)
    found = augmented(ramp, image, geometry, augmentation)
    each = np.stack(
        [
            undo_orientation(predict_image(ramp, orient(image, orientation), geometry, 0.5, 4), orientation)
            for orientation in orientations(augmentation, geometry)
        ]
    ).astype(np.float64)
    np.testing.assert_allclose(found.probabilities, each.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.deviation, each[:, 0].std(axis=0), atol=1e-7)
    assert found.deviation.max() > 0.05


def test_the_deviation_of_several_classes_is_that_of_their_foreground() -> None:
    shares = iter([columns((0.9, 0.1, 0.0), (0.5, 0.0, 0.5)), columns((0.3, 0.3, 0.4), (0.0, 0.5, 0.5))])
    found = average(lambda _: next(shares), tiny.noise(1, 2), [Orientation(0, False), Orientation(0, False)])
    np.testing.assert_allclose(found.probabilities, columns((0.6, 0.2, 0.2), (0.25, 0.25, 0.5)), rtol=1e-6)
    np.testing.assert_allclose(found.deviation, [[0.3, 0.25]], rtol=1e-6)


def test_the_orientation_is_undone_before_averaging() -> None:
    image = np.zeros((3, 2, 1), np.uint8)
    image[0, 0] = 255

    def top_left(held: Pixels) -> Probabilities:
        annotated: Probabilities = (held[None, ..., 0] > 0).astype(np.float32)
        return annotated

    found = average(top_left, image, orientations("flips_and_turns", SQUARE))
    assert found.probabilities[0].tolist() == [[1, 0], [0, 0], [0, 0]]


def test_one_orientation_takes_no_memory_beside_the_prediction_and_its_deviation() -> None:
    image, predicted = tiny.noise(200, 300), np.zeros((3, 200, 300), np.float32)
    tracemalloc.start()
    try:
        found = average(lambda _: predicted, image, orientations("none", SQUARE))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.shares_memory(found.probabilities, predicted)
    assert peak < 200 * 300 * 4 + 10_000
