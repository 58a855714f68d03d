"""Masks to numbers, held against scikit-learn and against counts made by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as reference

from medseg.data.image_io import Pixels
from medseg.metrics.overlap import Counts, count_classes, count_pixels, overlap_scores, prevailing_class
from medseg.metrics.precision_recall import PrecisionRecall

MASKS = arrays(
    np.uint8, st.shared(st.tuples(st.integers(1, 6), st.integers(1, 6)), key="shape"), elements=st.integers(0, 1)
)


def mask(*rows: str) -> Pixels:
    return np.array([[int(pixel) for pixel in line] for line in rows], np.uint8)


def test_counts_by_hand() -> None:
    assert count_pixels(mask("1100", "0010"), mask("1010", "0011")) == Counts(2, 1, 2, 3)


def test_counts_pool_kind_by_kind() -> None:
    assert Counts(1, 2, 3, 4) + Counts(10, 200, 3000, 40000) == Counts(11, 202, 3003, 40004)


def test_scores_by_hand() -> None:
    assert overlap_scores(Counts(2, 1, 2, 3)) == {
        "dice": 4 / 7,
        "iou": 2 / 5,
        "precision": 2 / 3,
        "recall": 2 / 4,
        "specificity": 3 / 4,
        "accuracy": 5 / 8,
        "area_error": (3 - 4) / 4,
    }


@given(MASKS, MASKS)
def test_scores_agree_with_scikit_learn(prediction: Pixels, truth: Pixels) -> None:
    scores = overlap_scores(count_pixels(prediction, truth))
    flat = truth.ravel(), prediction.ravel()
    assert scores["accuracy"] == pytest.approx(reference.accuracy_score(*flat))
    if not truth.all():
        assert scores["specificity"] == pytest.approx(reference.recall_score(*flat, pos_label=0))
    if truth.any():
        assert scores["dice"] == pytest.approx(reference.f1_score(*flat, zero_division=0))
        assert scores["iou"] == pytest.approx(reference.jaccard_score(*flat, zero_division=0))
        assert scores["precision"] == pytest.approx(reference.precision_score(*flat, zero_division=0))
        assert scores["recall"] == pytest.approx(reference.recall_score(*flat))


@given(MASKS, MASKS)
def test_the_area_error_is_that_of_the_masks_areas(prediction: Pixels, truth: Pixels) -> None:
    if truth.any():
        area = int(truth.sum())
        expected = (int(prediction.sum()) - area) / area
        assert overlap_scores(count_pixels(prediction, truth))["area_error"] == pytest.approx(expected)


@given(MASKS)
def test_an_empty_truth_leaves_only_what_background_tells(prediction: Pixels) -> None:
    scores = overlap_scores(count_pixels(prediction, np.zeros_like(prediction)))
    assert scores.pop("accuracy") == pytest.approx(1 - prediction.mean())
    assert scores.pop("specificity") == pytest.approx(1 - prediction.mean())
    assert all(math.isnan(value) for value in scores.values())


@given(MASKS)
def test_a_truth_without_background_leaves_specificity_undefined(prediction: Pixels) -> None:
    scores = overlap_scores(count_pixels(prediction, np.ones_like(prediction)))
    assert math.isnan(scores.pop("specificity"))
    assert not any(math.isnan(value) for value in scores.values())


@pytest.mark.parametrize("truth", [mask("000"), mask("010"), mask("111")])
def test_the_scores_have_the_same_names_in_the_same_order_for_every_truth(truth: Pixels) -> None:
    names = ["dice", "iou", "precision", "recall", "specificity", "accuracy", "area_error"]
    assert list(overlap_scores(count_pixels(mask("011"), truth))) == names


@pytest.mark.parametrize(("prediction", "area_error"), [(mask("000"), -1), (mask("011"), 1)])
def test_a_missed_object_scores_0_and_is_not_dropped(prediction: Pixels, area_error: float) -> None:
    scores = overlap_scores(count_pixels(prediction, mask("100")))
    assert [scores[name] for name in ("dice", "iou", "precision", "recall")] == [0, 0, 0, 0]
    assert scores["area_error"] == area_error


@given(MASKS, MASKS)
def test_pooled_counts_are_those_of_the_masks_side_by_side(first: Pixels, second: Pixels) -> None:
    together = count_pixels(np.hstack([first, second]), np.hstack([second, second]))
    assert count_pixels(first, second) + count_pixels(second, second) == together


CODES = arrays(
    np.uint8, st.shared(st.tuples(st.integers(1, 6), st.integers(1, 6)), key="shape"), elements=st.integers(0, 3)
)


def test_counts_by_class_by_hand() -> None:
    # Class 1 is right once and found once where class 2 is; class 2 is right once and missed once.
    assert count_classes(mask("1120", "0000"), mask("1222", "0000"), 2) == [Counts(1, 1, 0, 6), Counts(1, 0, 2, 5)]


@given(CODES, CODES)
def test_counts_by_class_agree_with_scikit_learns_confusion_matrix(prediction: Pixels, truth: Pixels) -> None:
    matrix = reference.confusion_matrix(truth.ravel(), prediction.ravel(), labels=[0, 1, 2, 3])
    for code, counts in enumerate(count_classes(prediction, truth, 3), start=1):
        hits, found, true = matrix[code, code], matrix[:, code].sum(), matrix[code].sum()
        assert counts == Counts(hits, found - hits, true - hits, truth.size - found - true + hits)


def test_the_prevailing_class_is_the_most_frequent_beside_background() -> None:
    assert prevailing_class(mask("00000", "00121")) == 1
    assert prevailing_class(mask("00000", "02212")) == 2
    assert prevailing_class(mask("00000", "00000")) == 0


def test_of_equally_frequent_classes_the_first_prevails() -> None:
    assert prevailing_class(mask("3322", "2300")) == 2
    assert prevailing_class(mask("2211")) == 1


def brute_force(
    probabilities: np.ndarray[tuple[int], np.dtype[np.float32]], truth: Pixels, steps: int
) -> list[list[float]]:
    rows = []
    for step in range(steps + 1):
        counts = count_pixels((probabilities >= np.float32(step / steps)).astype(np.uint8), truth)
        predicted = counts.true_positives + counts.false_positives
        precision = counts.true_positives / predicted if predicted else 1.0
        rows.append(
            [step / steps, precision, counts.true_positives / max(1, counts.true_positives + counts.false_negatives)]
        )
    return rows


@given(st.data(), st.integers(1, 40), st.sampled_from([1, 4, 10, 100]))
def test_the_curve_is_what_every_threshold_gives(data: st.DataObject, size: int, steps: int) -> None:
    # Numbers on the thresholds themselves are the hard ones.
    values = st.floats(0, 1, width=32) | st.integers(0, steps).map(lambda step: float(np.float32(step / steps)))
    probabilities = data.draw(arrays(np.float32, size, elements=values))
    truth = data.draw(arrays(np.uint8, size, elements=st.integers(0, 1)))
    pooled = PrecisionRecall(steps)
    half = size // 2
    pooled.add(probabilities[:half], truth[:half])
    pooled.add(probabilities[half:], truth[half:])
    rows = [[row["threshold"], row["precision"], row["recall"]] for row in pooled.curve()]
    np.testing.assert_allclose(rows, brute_force(probabilities, truth, steps))


def test_the_curve_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 500).astype(np.uint8)
    steps = 20
    grid = np.linspace(0, 1, steps + 1).astype(np.float32)
    probabilities = rng.choice(grid, 500)
    pooled = PrecisionRecall(steps)
    pooled.add(probabilities, truth)
    precision, recall, thresholds = reference.precision_recall_curve(truth, probabilities)
    assert len(thresholds) == steps + 1
    np.testing.assert_allclose([row["precision"] for row in pooled.curve()], precision[:-1])
    np.testing.assert_allclose([row["recall"] for row in pooled.curve()], recall[:-1])


def test_recall_is_0_without_any_truth() -> None:
    pooled = PrecisionRecall(2)
    pooled.add(np.array([0.1, 0.9], np.float32), np.array([0, 0], np.uint8))
    assert [(row["precision"], row["recall"]) for row in pooled.curve()] == [(0, 0), (0, 0), (1, 0)]
