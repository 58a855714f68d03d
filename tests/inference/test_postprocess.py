"""Probabilities to class codes: the threshold, holes, small objects, the largest one, in that order."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from medseg.core.errors import UserError
from medseg.core.params import validate
from medseg.data.image_io import Pixels
from medseg.inference.postprocess import (
    Postprocess,
    Probabilities,
    drop_small_objects,
    fill_holes,
    foreground_probability,
    keep_largest_object,
    postprocess,
)

EIGHT = np.ones((3, 3), int)
BARE = {"threshold": 0.5, "fill_holes": False, "smallest_object": 0, "largest_component": False}
WAYS = st.builds(
    Postprocess,
    threshold=st.floats(0.05, 0.95),
    fill_holes=st.booleans(),
    smallest_object=st.integers(0, 12),
    largest_component=st.booleans(),
)
MASKS = arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 1))


def drawn(*rows: str) -> Pixels:
    """Digits are class codes, dots background."""
    return np.array([[0 if letter == "." else int(letter) for letter in row] for row in rows], np.uint8)


def way(**changes: Any) -> Postprocess:
    return Postprocess(**{**BARE, **changes})


def run(codes: Pixels, **changes: Any) -> Pixels:
    """Post-process a mask of 0 and 1 as if the network were sure of it."""
    return postprocess(codes[None].astype(np.float32), way(**changes))


def test_a_hole_is_filled_and_a_bay_is_not() -> None:
    codes = drawn(
        "11111...",
        "1.1.1111",
        "111...1.",
        "1.111111",
        "1.1.....",
    )
    filled = drawn(
        "11111...",
        "11111111",
        "1111111.",
        "1.111111",
        "1.1.....",
    )
    np.testing.assert_array_equal(fill_holes(codes), filled)


def test_a_hole_does_not_leak_between_pixels_that_touch_at_a_corner() -> None:
    ring = drawn(
        "..1..",
        ".1.1.",
        "1...1",
        ".1.1.",
        "..1..",
    )
    np.testing.assert_array_equal(
        fill_holes(ring),
        drawn(
            "..1..",
            ".111.",
            "11111",
            ".111.",
            "..1..",
        ),
    )


def test_a_hole_gets_the_class_that_most_of_its_outline_has_and_of_equal_ones_the_lowest() -> None:
    codes = drawn(
        "22223333",
        "2..33.33",
        "23333223",
        "22223333",
    )
    # The left hole has three edges of class 2 and three of 3: 2. The right one has three of 3 and one of 2.
    np.testing.assert_array_equal(
        fill_holes(codes),
        drawn(
            "22223333",
            "22233333",
            "23333223",
            "22223333",
        ),
    )


@given(MASKS)
def test_filling_holes_agrees_with_scipy(mask: Pixels) -> None:
    np.testing.assert_array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))


def test_objects_of_fewer_pixels_are_dropped_and_those_of_as_many_stay() -> None:
    codes = drawn(
        "1..11..",
        ".1.....",
        "..1...1",
    )  # three pixels that touch at corners, two, and one
    assert run(codes, smallest_object=1).sum() == 6
    np.testing.assert_array_equal(run(codes, smallest_object=2), drawn("1..11..", ".1.....", "..1...."))
    np.testing.assert_array_equal(run(codes, smallest_object=3), drawn("1......", ".1.....", "..1...."))
    assert not run(codes, smallest_object=4).any()


@given(MASKS, st.integers(0, 20))
def test_dropping_small_objects_agrees_with_scipy(mask: Pixels, smallest: int) -> None:
    objects, count = ndimage.label(mask, EIGHT)
    kept = [number for number in range(1, count + 1) if (objects == number).sum() >= smallest]
    np.testing.assert_array_equal(drop_small_objects(mask, smallest), np.isin(objects, kept))


def test_neighbours_of_several_classes_are_one_object_and_keep_their_classes() -> None:
    codes = drawn(
        "12.3.",
        "12.3.",
        "....2",
    )
    np.testing.assert_array_equal(drop_small_objects(codes, 4), drawn("12...", "12...", "....."))
    np.testing.assert_array_equal(keep_largest_object(codes), drawn("12...", "12...", "....."))


def test_of_equally_large_objects_the_first_row_by_row_is_kept() -> None:
    # OpenCV gives the lower left one the lower number.
    codes = drawn(
        "...1",
        "1..1",
        "1...",
    )
    np.testing.assert_array_equal(keep_largest_object(codes), drawn("...1", "...1", "...."))


@given(MASKS)
def test_the_largest_object_agrees_with_scipy(mask: Pixels) -> None:
    objects, count = ndimage.label(mask, EIGHT)
    areas = ndimage.sum_labels(mask, objects, range(1, count + 1))
    largest = objects == 1 + int(np.argmax(areas)) if count else np.zeros_like(mask)
    np.testing.assert_array_equal(keep_largest_object(mask), largest)


def test_holes_are_filled_before_objects_are_measured() -> None:
    codes = drawn(
        "111......",
        "1.1.11111",
        "111......",
    )  # 8 pixels around a hole, then 5 more
    assert run(codes, fill_holes=True, smallest_object=9).sum() == 9
    assert not run(codes, fill_holes=False, smallest_object=9).any()


def test_the_largest_object_is_dropped_too_where_it_is_too_small() -> None:
    assert not run(drawn("11.1"), smallest_object=3, largest_component=True).any()
    assert run(drawn("11.1"), smallest_object=2, largest_component=True).tolist() == [[1, 1, 0, 0]]


def test_an_empty_and_a_full_image_stay_as_they_are() -> None:
    for codes in (np.zeros((3, 4), np.uint8), np.ones((3, 4), np.uint8)):
        done = run(codes, fill_holes=True, smallest_object=2, largest_component=True)
        np.testing.assert_array_equal(done, codes)
        assert done.dtype == np.uint8


@settings(max_examples=50)
@given(arrays(np.float32, (4, 7, 9), elements=st.floats(0, 1, width=32)), WAYS)
def test_foreground_is_that_of_one_class_with_the_same_probability(shares: Probabilities, choices: Postprocess) -> None:
    shares = shares / np.maximum(shares.sum(axis=0), 1)
    together = foreground_probability(shares)[None]
    np.testing.assert_array_equal(postprocess(shares, choices) > 0, postprocess(together, choices) > 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 1.0}, r"postprocess\.threshold = 1\.0"),
        ({"smallest_object": -1}, r"postprocess\.smallest_object = -1"),
        ({"smallest_object": 2.5}, r"postprocess\.smallest_object = 2\.5"),
        ({"fill_holes": "val"}, r"postprocess\.fill_holes = 'val'"),
        ({"largest": True}, r"postprocess\.largest is no known key"),
    ],
)
def test_wrong_values_are_refused_by_their_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(BARE | change, Postprocess, "model.yaml: postprocess")
