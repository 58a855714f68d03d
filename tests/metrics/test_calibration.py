"""Calibration over pixels, by hand and against scikit-learn; the surroundings of objects against plain distances."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.calibration import calibration_curve

from medseg.metrics.calibration import Calibration, object_surroundings

MASKS = arrays(
    np.uint8,
    st.shared(st.tuples(st.integers(1, 9), st.integers(1, 9)), key="shape"),
    elements=st.just(0) | st.integers(0, 1),
)


def add(
    calibration: Calibration, probabilities: list[float], truth: list[int], region: list[int] | None = None
) -> None:
    inside = np.array(region or [1] * len(truth), np.uint8)
    calibration.add(np.array(probabilities, np.float32), np.array(truth, np.uint8), inside)


def test_the_curve_and_its_error_by_hand() -> None:
    calibration = Calibration(2)
    add(calibration, [0.1, 0.3, 0.7, 0.9, 0.5], [0, 1, 1, 1, 0])
    # Below: 0.1, 0.3, 0.5 with one of three right. Above: 0.7, 0.9, both right.
    assert calibration.curve() == [
        {"confidence": pytest.approx(0.3), "observed": pytest.approx(1 / 3), "pixels": 3},
        {"confidence": pytest.approx(0.8), "observed": 1, "pixels": 2},
    ]
    assert calibration.ece() == pytest.approx(3 / 5 * (1 / 3 - 0.3) + 2 / 5 * 0.2)


def test_the_curve_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.beta(0.4, 0.8, 4000).astype(np.float32)
    truth = (rng.random(4000) < probabilities**2).astype(np.uint8)
    calibration = Calibration(15)
    calibration.add(probabilities, truth, np.ones(4000, np.uint8))
    observed, confidence = calibration_curve(truth, probabilities, n_bins=15)
    curve = calibration.curve()
    np.testing.assert_allclose([row["observed"] for row in curve], observed)
    np.testing.assert_allclose([row["confidence"] for row in curve], confidence, rtol=1e-6)
    sizes = np.histogram(probabilities, bins=15, range=(0, 1))[0]
    assert [row["pixels"] for row in curve] == sizes.tolist()
    assert calibration.ece() == pytest.approx((sizes * abs(observed - confidence)).sum() / 4000)


@pytest.mark.parametrize("bins", [1, 15])
def test_a_probability_on_an_edge_belongs_to_the_bin_below(bins: int) -> None:
    calibration = Calibration(bins)
    edges = np.linspace(0, 1, bins + 1).astype(np.float32)
    add(calibration, edges.tolist(), [0] * len(edges))
    assert calibration.pixels.tolist() == [2] + [1] * (bins - 1)


def test_images_pool_as_if_they_were_one() -> None:
    rng = np.random.default_rng(1)
    probabilities, truth = rng.random((2, 30, 40), dtype=np.float32), rng.integers(0, 2, (2, 30, 40))
    region = rng.integers(0, 2, (2, 30, 40)).astype(np.uint8)
    apart, together = Calibration(15), Calibration(15)
    for part in zip(probabilities, truth.astype(np.uint8), region, strict=True):
        apart.add(*part)
    together.add(probabilities.reshape(60, 40), truth.reshape(60, 40).astype(np.uint8), region.reshape(60, 40))
    assert apart.ece() == pytest.approx(together.ece())
    assert [row["pixels"] for row in apart.curve()] == [row["pixels"] for row in together.curve()]


def test_pixels_outside_the_region_do_not_count() -> None:
    calibration = Calibration(15)
    add(calibration, [0.5, 0.99, 0.01], [1, 0, 1], region=[1, 0, 0])
    assert calibration.curve() == [{"confidence": 0.5, "observed": 1, "pixels": 1}]


def test_a_network_that_is_right_as_often_as_it_says_has_no_error() -> None:
    calibration = Calibration(4)
    add(calibration, [0.25] * 4 + [0.75] * 4, [1, 0, 0, 0, 1, 1, 1, 0])
    assert calibration.ece() == 0


def test_sure_and_wrong_is_an_error_of_1() -> None:
    calibration = Calibration(15)
    add(calibration, [0, 0, 1], [1, 1, 0])
    assert calibration.ece() == 1


def test_without_pixels_there_is_neither_curve_nor_error() -> None:
    calibration = Calibration(15)
    add(calibration, [0.5], [1], region=[0])
    assert calibration.curve() == []
    assert math.isnan(calibration.ece())


@given(MASKS, MASKS)
def test_the_surroundings_of_objects_are_what_lies_near_a_annotated_or_found_pixel(
    predicted: "np.ndarray[tuple[int, int], np.dtype[np.uint8]]",
    truth: "np.ndarray[tuple[int, int], np.dtype[np.uint8]]",
) -> None:
    annotated = np.argwhere(predicted | truth)
    # Images of at most 9 pixels a side: the least distance, 1 pixel, is larger than 2 % of their diagonal.
    near = [
        [any(math.dist(pixel, other) <= 1 for other in annotated) for pixel in row]
        for row in np.moveaxis(np.indices(truth.shape), 0, -1)
    ]
    assert object_surroundings(predicted, truth).tolist() == near


def test_the_surroundings_reach_2_percent_of_the_diagonal() -> None:
    truth = np.zeros((300, 400), np.uint8)  # diagonal 500, reach 10
    truth[150, 200] = 1
    near = object_surroundings(np.zeros_like(truth), truth)
    rows, columns = np.indices(truth.shape)
    assert (near == ((rows - 150) ** 2 + (columns - 200) ** 2 <= 100)).all()


def test_plain_background_does_not_hide_an_error_at_the_object() -> None:
    truth = np.zeros((200, 200), np.uint8)
    truth[80:120, 80:120] = 1
    probabilities = np.where(np.roll(truth, 10, axis=0), 0.99, 0.01).astype(np.float32)
    predicted = probabilities > 0.5
    near, everywhere = Calibration(15), Calibration(15)
    near.add(probabilities, truth, object_surroundings(predicted, truth))
    everywhere.add(probabilities, truth, np.ones_like(truth))
    assert near.ece() > 8 * everywhere.ece()
