"""One image's row: every score by the rules that stand in model.yaml."""

import math

import numpy as np
import pytest
import tiny
from scored import THREE, blocks

from medseg.data.image_io import Pixels
from medseg.evaluation.per_image import columns, score_image
from medseg.inference.settings import Counting, Scoring
from medseg.metrics.counting import CountingParams
from medseg.metrics.surface import Tolerance

PLAIN = CountingParams(smallest=0, split=False, depth=1.0)
COARSE = CountingParams(smallest=20, split=False, depth=1.0)
TRUTH = blocks((1, 2, 10, 2, 10), (1, 2, 5, 20, 23))


def scores(codes: Pixels, truth: Pixels = TRUTH, prediction: CountingParams = PLAIN) -> dict[str, float | int | str]:
    rules = Scoring(
        tolerance=Tolerance(pixels=1.0, diagonal=0.5),
        counting=Counting(truth=PLAIN, prediction=prediction),
        uncertainty="none",
    )
    return score_image(codes, truth, np.uint8(1), tiny.BINARY, rules)


def test_a_perfect_prediction_has_the_best_of_every_score() -> None:
    found = scores(TRUTH)
    best = {"dice": 1, "iou": 1, "precision": 1, "recall": 1, "specificity": 1, "accuracy": 1, "area_error": 0}
    best |= {"hd95": 0, "assd": 0, "nsd": 1, "nsd_relative": 1, "objects_f1": 1, "objects_iou": 1, "objects_error": 0}
    assert {name: found[name] for name in best} == pytest.approx(best)
    assert found["predicted_label"] == "foreground"


def test_the_row_has_the_documented_columns_in_order() -> None:
    around = {"file", "label", "group", "size", "uncertainty", "class_dice", "class_iou"}
    assert list(scores(TRUTH)) == [name for name in columns() if name not in around]


def test_counts_of_the_prediction_have_a_rule_of_their_own() -> None:
    assert [scores(TRUTH)[f"counted_{whose}"] for whose in ("truth", "predicted")] == [2, 2]
    dropped = scores(TRUTH, prediction=COARSE)
    assert [dropped[f"counted_{whose}"] for whose in ("truth", "predicted")] == [2, 1]
    assert (dropped["counted_absolute_error"], dropped["counted_relative_error"]) == (1, 0.5)


def test_both_tolerances_are_kept() -> None:
    moved = scores(np.roll(TRUTH, 3, axis=1))
    assert 0 < float(moved["nsd"]) < 1
    assert moved["nsd_relative"] == 1  # half the diagonal is 18 pixels


def test_an_empty_truth_leaves_undefined_what_has_no_meaning() -> None:
    found = scores(TRUTH, np.zeros_like(TRUTH))
    undefined = {name for name, value in found.items() if isinstance(value, float) and math.isnan(value)}
    assert undefined == {
        *("dice", "iou", "precision", "recall", "area_error", "area_error_absolute"),
        *("hd95", "assd", "nsd", "nsd_relative"),
        *("objects_iou", "contours_relative_error", "counted_relative_error"),
    }
    assert (found["objects_false"], found["objects_f1"], found["counted_absolute_error"]) == (2, 0, 2)


def test_with_classes_the_images_own_counts_apart() -> None:
    codes = blocks((1, 2, 10, 2, 10), (2, 2, 5, 20, 23))
    rules = Scoring(
        tolerance=Tolerance(pixels=1.0, diagonal=0.5),
        counting=Counting(truth=PLAIN, prediction=PLAIN),
        uncertainty="none",
    )
    found = score_image(codes, TRUTH, np.uint8(1), THREE, rules)
    assert (found["dice"], found["predicted_label"]) == (1, "benign")
    assert found["class_dice"] == round(2 * 64 / (64 + 73), 6)
