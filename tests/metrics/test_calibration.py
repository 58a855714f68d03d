"""Calibration over pixels, by hand, against scikit-learn, and on labels that are drawn from what is said."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from medseg.metrics.calibration import RULED_OUT, Calibration, CalibrationErrors, not_ruled_out


def add(calibration: Calibration, probabilities: list[float], truth: list[int]) -> None:
    calibration.add(np.array(probabilities, np.float32), np.array(truth, np.uint8))


def errors(probabilities: NDArray[np.float32], truth: NDArray[np.uint8]) -> CalibrationErrors:
    calibration = Calibration(15)
    calibration.add(probabilities, truth)
    return calibration.errors()


def test_the_curve_and_its_error_by_hand() -> None:
    calibration = Calibration(2)
    add(calibration, [0.1, 0.3, 0.7, 0.9, 0.5], [0, 1, 1, 1, 0])
    # Below: 0.1, 0.3, 0.5 with one of three right. Above: 0.7, 0.9, both right.
    assert calibration.curve() == [
        {"confidence": pytest.approx(0.3), "observed": pytest.approx(1 / 3), "pixels": 3},
        {"confidence": pytest.approx(0.8), "observed": 1, "pixels": 2},
    ]
    assert calibration.errors().ece == pytest.approx(3 / 5 * (1 / 3 - 0.3) + 2 / 5 * 0.2)
    assert calibration.errors().brier == pytest.approx((0.01 + 0.49 + 0.09 + 0.01 + 0.25) / 5)
    assert calibration.errors().constant_brier == pytest.approx(3 / 5 * 2 / 5)


def test_curve_and_brier_score_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.beta(0.4, 0.8, 4000).astype(np.float32)
    truth = (rng.random(4000) < probabilities**2).astype(np.uint8)
    calibration = Calibration(15)
    calibration.add(probabilities, truth)
    above = probabilities > np.float32(RULED_OUT)
    observed, confidence = calibration_curve(truth[above], probabilities[above], n_bins=15)
    curve, found = calibration.curve(), calibration.errors()
    np.testing.assert_allclose([row["observed"] for row in curve], observed)
    np.testing.assert_allclose([row["confidence"] for row in curve], confidence, rtol=1e-6)
    sizes = np.histogram(probabilities[above], bins=15, range=(0, 1))[0]
    assert [row["pixels"] for row in curve] == sizes.tolist()
    assert found.ece == pytest.approx((sizes * abs(observed - confidence)).sum() / above.sum())
    assert found.brier == pytest.approx(brier_score_loss(truth, probabilities))
    assert found.constant_brier == pytest.approx(brier_score_loss(truth, np.full(4000, truth.mean())))
    assert (found.counted, found.ruled_out) == (above.sum(), 4000 - above.sum())
    assert found.ruled_out_probability == pytest.approx(probabilities[~above].mean())
    assert found.ruled_out_observed == pytest.approx(truth[~above].mean())


@pytest.mark.parametrize("bins", [1, 15])
def test_a_probability_on_an_edge_belongs_to_the_bin_below(bins: int) -> None:
    calibration = Calibration(bins)
    edges = np.array([0, RULED_OUT, *np.linspace(0, 1, bins + 1)[1:]], np.float32)
    add(calibration, edges.tolist(), [0] * len(edges))
    assert calibration.pixels.tolist() == [2] + [1] * bins
    assert not_ruled_out(edges).tolist() == [False, False] + [True] * bins


def test_images_pool_as_if_they_were_one() -> None:
    rng = np.random.default_rng(1)
    probabilities, truth = rng.random((2, 30, 40), dtype=np.float32), rng.integers(0, 2, (2, 30, 40)).astype(np.uint8)
    apart, together = Calibration(15), Calibration(15)
    for part in zip(probabilities, truth, strict=True):
        apart.add(*part)
    together.add(probabilities.reshape(60, 40), truth.reshape(60, 40))
    assert vars(apart.errors()) == pytest.approx(vars(together.errors()))
    assert [row["pixels"] for row in apart.curve()] == [row["pixels"] for row in together.curve()]


def test_a_network_that_is_right_as_often_as_it_says_has_no_error() -> None:
    calibration = Calibration(4)
    add(calibration, [0.25] * 4 + [0.75] * 4, [1, 0, 0, 0, 1, 1, 1, 0])
    assert calibration.errors().ece == 0


def test_sure_and_wrong_is_an_error_of_1_and_what_is_missed_without_a_doubt_stands_apart() -> None:
    calibration = Calibration(15)
    add(calibration, [0, 0, 1], [1, 1, 0])
    found = calibration.errors()
    assert (found.ece, found.brier, found.counted, found.ruled_out) == (1, 1, 1, 2)
    assert (found.ruled_out_probability, found.ruled_out_observed) == (0, 1)


def test_without_pixels_there_is_neither_curve_nor_error() -> None:
    calibration = Calibration(15)
    add(calibration, [RULED_OUT], [1])
    assert calibration.curve() == []
    assert math.isnan(calibration.errors().ece)
    assert math.isnan(Calibration(15).errors().brier)


def said(seed: int, side: int = 256) -> NDArray[np.float64]:
    """Logits of foreground (H, W) with a few blobs of it in much background."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(side, side)), side / 24)
    return np.asarray(5 * field / field.std() - 6)


def probability(logits: NDArray[np.float64]) -> NDArray[np.float32]:
    return (1 / (1 + np.exp(-logits))).astype(np.float32)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_labels_drawn_from_the_probabilities_leave_no_error_and_logits_that_are_stretched_a_clear_one(
    seed: int,
) -> None:
    logits = said(seed)
    truth = (np.random.default_rng(seed).random(logits.shape) < probability(logits)).astype(np.uint8)
    right, overconfident, timid = (errors(probability(factor * logits), truth) for factor in (1, 3, 1 / 3))
    assert right.ece < 0.03
    assert min(overconfident.ece, timid.ece) > max(0.06, 4 * right.ece)
    assert right.brier < min(overconfident.brier, timid.brier, right.constant_brier)
    # In what is ruled out, foreground is as rare as it was said to be; the overconfident network misses more.
    assert abs(right.ruled_out_observed - right.ruled_out_probability) < 0.002
    assert overconfident.ruled_out_observed > 4 * overconfident.ruled_out_probability


def test_plain_background_around_the_same_objects_changes_no_error() -> None:
    logits = said(0)
    truth = (np.random.default_rng(0).random(logits.shape) < probability(logits)).astype(np.uint8)
    wide = errors(np.pad(probability(2 * logits), 500), np.pad(truth, 500))
    assert wide.ece == errors(probability(2 * logits), truth).ece > 0.03
