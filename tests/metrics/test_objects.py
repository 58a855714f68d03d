"""Objects of masks, held against scikit-image, against the best assignment of objects, and against counts by hand."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from skimage.measure import label, regionprops

from medseg.data.image_io import Pixels
from medseg.evaluation.strata import size_limits, size_strata
from medseg.metrics.objects import match_objects, object_scores

SIDES = st.integers(1, 10)
SHAPES = st.shared(st.tuples(SIDES, SIDES), key="shape")
MASKS = arrays(np.uint8, SHAPES, elements=st.integers(0, 1))
# Few changed pixels, so that many objects match and some hardly do.
CHANGES = arrays(np.uint8, SHAPES, elements=st.sampled_from([0] * 9 + [1]))
SHARES = arrays(np.float64, st.integers(0, 30), elements=st.floats(0, 1))


def mask(*rows: str) -> Pixels:
    return np.array([[int(pixel) for pixel in line] for line in rows], np.uint8)


def picked(scores: dict[str, float], *names: str) -> tuple[float, ...]:
    return tuple(scores[f"objects_{name}"] for name in names)


def pixel_sets(image: Pixels) -> list[set[tuple[int, int]]]:
    regions = regionprops(label(image, connectivity=2))  # type: ignore[no-untyped-call]
    return [set(map(tuple, region.coords.tolist())) for region in regions]


def best_assignment(prediction: Pixels, truth: Pixels) -> list[float]:
    """The IoU of the pairs above one half in the one-to-one assignment that has most of them."""
    found, true = pixel_sets(prediction), pixel_sets(truth)
    overlaps = np.array([[len(one & other) / len(one | other) for other in true] for one in found])
    overlaps = overlaps.reshape(len(found), len(true))
    chosen = overlaps[linear_sum_assignment(overlaps > 0.5, maximize=True)]
    return sorted(chosen[chosen > 0.5].tolist())


def check(prediction: Pixels, truth: Pixels) -> None:
    scores, matched = object_scores(prediction, truth), best_assignment(prediction, truth)
    true, found = len(pixel_sets(truth)), len(pixel_sets(prediction))
    assert (scores["objects"], scores["objects_found"], scores["objects_detected"]) == (true, found, len(matched))
    assert (scores["objects_missed"], scores["objects_false"]) == (true - len(matched), found - len(matched))
    assert scores["objects_error"] == found - true
    if matched:
        assert scores["objects_iou"] == pytest.approx(sum(matched) / len(matched))
    else:
        assert math.isnan(scores["objects_iou"])


@given(MASKS, CHANGES)
def test_objects_and_matches_agree_with_scikit_image_and_the_best_assignment(truth: Pixels, changes: Pixels) -> None:
    check(truth ^ changes, truth)


@given(MASKS, MASKS)
@example(np.ones((4, 6), np.uint8), np.ones((4, 6), np.uint8))
@example(mask("111", "101", "111"), mask("000", "010", "000"))
@example(mask("1001", "0000", "1001"), mask("1100", "0000", "0011"))
def test_they_agree_for_unrelated_masks(prediction: Pixels, truth: Pixels) -> None:
    check(prediction, truth)


def test_scores_by_hand() -> None:
    truth = mask("1100011", "1100011", "0000000", "1110001")
    found = mask("1100010", "1000000", "0000000", "1111000")
    # The first object matches at 3/4, the second not at 1/4, the third at 3/4, the fourth has none.
    assert object_scores(found, truth) == {
        "objects": 4,
        "objects_found": 3,
        "objects_detected": 2,
        "objects_missed": 2,
        "objects_false": 1,
        "objects_f1": 4 / 7,
        "objects_iou": 0.75,
        "objects_error": -1,
    }


def test_half_an_overlap_is_no_match() -> None:
    scores = object_scores(mask("1000"), mask("1100"))
    assert (scores["objects_detected"], scores["objects_missed"], scores["objects_false"], scores["objects_f1"]) == (
        0,
        1,
        1,
        0,
    )


def test_pixels_that_share_a_corner_are_one_object() -> None:
    assert object_scores(mask("100", "010", "101"), mask("101", "000", "101"))["objects_found"] == 1


def test_objects_merged_into_one_are_missed_unless_one_of_them_prevails() -> None:
    halves, whole = mask("110110"), mask("111110")
    assert object_scores(whole, halves)["objects_detected"] == 0
    assert object_scores(mask("111111"), mask("111101"))["objects_detected"] == 1


def test_maps_of_objects_keep_touching_ones_apart() -> None:
    numbered = np.array([[1, 1, 2, 2, 2]], np.int32)
    scores = match_objects(np.array([[2, 2, 1, 1, 0]], np.int32), numbered)
    assert (scores["objects"], scores["objects_detected"]) == (2, 2)
    assert scores["objects_iou"] == pytest.approx((1 + 2 / 3) / 2)


def test_without_any_object_only_counts_are_defined() -> None:
    nothing = np.zeros((3, 4), np.uint8)
    scores = object_scores(nothing, nothing)
    assert [name for name, value in scores.items() if math.isnan(value)] == ["objects_f1", "objects_iou"]
    assert all(value == 0 for value in scores.values() if not math.isnan(value))


def test_missed_and_invented_objects_score_0() -> None:
    nothing, something = np.zeros((3, 4), np.uint8), mask("1000", "0000", "0011")
    missed, invented = object_scores(nothing, something), object_scores(something, nothing)
    assert picked(missed, "missed", "false", "f1", "error") == (2, 0, 0, -2)
    assert picked(invented, "missed", "false", "f1", "error") == (0, 2, 0, 2)
    assert math.isnan(missed["objects_iou"])
    assert math.isnan(invented["objects_iou"])


@given(MASKS)
def test_all_that_is_not_0_is_foreground(image: Pixels) -> None:
    coded = np.where(image, np.arange(image.size).reshape(image.shape) % 255 + 1, 0).astype(np.uint8)
    assert object_scores(coded, image.astype(bool)) == pytest.approx(object_scores(image, image), nan_ok=True)


def test_strata_by_hand() -> None:
    shares = np.array([0.5, 0, 0.1, 0.2, 0.05, 0.3, 0.4])
    assert size_limits(shares) == (0.1, 0.3)
    assert size_strata(shares, size_limits(shares)) == [
        "large",
        "empty",
        "small",
        "medium",
        "small",
        "medium",
        "large",
    ]


@given(st.sets(st.floats(0.001, 1), max_size=40))
def test_strata_of_unequal_shares_are_thirds(shares: set[float]) -> None:
    values = np.array(list(shares), np.float64)
    strata = size_strata(values, size_limits(values))
    sizes = [strata.count(name) for name in ("small", "medium", "large")]
    assert sum(sizes) == len(shares)
    assert max(sizes) - min(sizes) <= 1


@given(SHARES)
def test_greater_shares_are_never_in_smaller_strata(shares: NDArray[np.float64]) -> None:
    order = ["empty", "small", "medium", "large"]
    ranks = [order.index(name) for name in size_strata(shares, size_limits(shares))]
    assert [ranks[index] for index in np.argsort(shares)] == sorted(ranks)
    assert [rank == 0 for rank in ranks] == [share == 0 for share in shares]


def test_images_of_one_size_are_one_stratum() -> None:
    shares = np.full(7, 0.2)
    assert size_strata(shares, size_limits(shares)) == ["small"] * 7


def test_limits_are_undefined_where_nothing_is_annotated() -> None:
    limits = size_limits(np.zeros(3))
    assert all(math.isnan(limit) for limit in limits)
    assert size_strata(np.zeros(3), limits) == ["empty"] * 3
