import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy import ndimage
from skimage import morphology, segmentation

from medseg.data.image_io import Pixels
from medseg.data.mask_io import read_mask
from medseg.metrics.counting import (
    CountingGrid,
    CountingParams,
    count_contours,
    count_objects,
    count_scores,
    counting_errors,
    separate_objects,
)
from medseg.metrics.overlap import Mask

EIGHT = np.ones((3, 3))
# scikit-image's own annotations leave these untyped.
Filter = Callable[..., NDArray[Any]]
reconstruction: Filter = morphology.reconstruction
local_maxima: Filter = morphology.local_maxima
h_maxima: Filter = morphology.h_maxima
watershed: Filter = segmentation.watershed
WHOLE = CountingParams(smallest=0, split=False, depth=1.0)
SPLIT = CountingParams(smallest=0, split=True, depth=1.0)


def discs(size: tuple[int, int], *circles: tuple[int, int, int]) -> Pixels:
    """Filled circles (row, column, radius) in an image of `size`; what lies outside of it is cut off."""
    rows, columns = np.ogrid[: size[0], : size[1]]
    inside = [(rows - row) ** 2 + (columns - column) ** 2 <= radius**2 for row, column, radius in circles]
    mask: Pixels = np.any(inside, axis=0).astype(np.uint8)
    return mask


def chain(number: int) -> Pixels:
    """Discs of radius 10 in a row, each 16 from the next: necks of half-width 6 between peaks of about 10."""
    return discs((40, 16 * number + 20), *((20, 18 + 16 * place, 10) for place in range(number)))


def splitting(depth: float, smallest: int = 0) -> CountingParams:
    return CountingParams(smallest=smallest, split=True, depth=depth)


def extended_maxima(mask: Pixels, depth: float) -> Pixels:
    """Regional maxima of the h-maxima transform of the distance map, by reconstruction, in double precision."""
    distance = ndimage.distance_transform_edt(mask)
    flattened = reconstruction(distance - depth, distance, footprint=EIGHT)
    found: Pixels = (local_maxima(flattened, connectivity=2) & (mask > 0)).astype(np.uint8)
    return found


def real_mask(samples: Path, name: str) -> Pixels:
    return read_mask([samples / "cryonuseg" / "mask binary" / f"Human_Tissue{name}.png"])


masks = st.tuples(st.integers(1, 24), st.integers(1, 24)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 1]))
)


@pytest.mark.parametrize("number", [1, 3])
def test_touching_discs_are_counted_one_by_one_when_split_and_as_one_when_not(number: int) -> None:
    assert count_objects(chain(number), SPLIT) == number
    assert count_objects(chain(number), WHOLE) == 1
    assert count_contours(chain(number)) == 1


def test_a_neck_splits_where_it_is_deeper_than_depth() -> None:
    pair = chain(2)
    distance = ndimage.distance_transform_edt(pair)
    drop = distance.max() - distance[:, 18 + 8].max()  # peaks of both discs, by symmetry, less the middle of the neck
    assert count_objects(pair, splitting(drop - 0.01)) == 2
    assert count_objects(pair, splitting(drop + 0.01)) == 1


def test_the_cut_between_two_equal_discs_runs_through_the_middle_of_their_neck() -> None:
    labels = separate_objects(chain(2), SPLIT)
    assert set(np.unique(labels[:, : 18 + 8])) == {0, 1}
    assert set(np.unique(labels[:, 18 + 8 + 1 :])) == {0, 2}


def test_the_hole_of_a_ring_is_a_contour_and_no_object() -> None:
    ring = discs((60, 60), (30, 30, 25)) - discs((60, 60), (30, 30, 15))
    assert count_contours(ring) == 2
    assert count_objects(ring, WHOLE) == count_objects(ring, SPLIT) == 1


def test_an_island_in_a_hole_is_an_object() -> None:
    ring = discs((60, 60), (30, 30, 25)) - discs((60, 60), (30, 30, 15)) + discs((60, 60), (30, 30, 5))
    assert count_contours(ring) == 3
    assert count_objects(ring, WHOLE) == count_objects(ring, SPLIT) == 2


def test_a_small_hole_in_a_nucleus_does_not_split_it() -> None:
    rows, columns = np.ogrid[:40, :60]
    nucleus = (((rows - 20) / 9) ** 2 + ((columns - 30) / 24) ** 2 <= 1).astype(np.uint8)
    nucleus[19:22, 29:32] = 0
    assert count_objects(nucleus, splitting(1.0, smallest=9)) == 2  # a hole of 9 pixels is not below 9
    assert count_objects(nucleus, splitting(1.0, smallest=10)) == 1
    labels = separate_objects(nucleus, splitting(1.0, smallest=10))
    np.testing.assert_array_equal(labels, nucleus)  # the hole stays background


def test_a_slit_from_the_edge_of_the_image_is_no_hole_to_fill() -> None:
    mask = np.ones((30, 30), np.uint8)
    mask[:13, 14:16] = mask[17:, 14:16] = 0  # two slits of 26 pixels each leave a bridge 4 wide between two halves
    assert count_objects(mask, splitting(1.0, smallest=27)) == 2


def test_objects_cut_by_the_edge_are_split_as_whole_ones_are() -> None:
    assert count_objects(chain(3)[20:], SPLIT) == 3
    assert count_objects(chain(3)[:, 18:], SPLIT) == 3


def test_objects_that_share_but_a_corner_touch() -> None:
    assert count_objects(np.eye(4, dtype=np.uint8), WHOLE) == 1
    corners = np.kron(np.eye(2, dtype=np.uint8), np.ones((9, 9), np.uint8))
    assert (count_contours(corners), count_objects(corners, WHOLE), count_objects(corners, SPLIT)) == (1, 1, 2)


@pytest.mark.parametrize("split", [False, True])
def test_objects_below_the_least_size_are_dropped(split: bool) -> None:
    mask = np.zeros((20, 40), np.uint8)
    mask[2:4, 2:5] = 1  # 6 pixels
    mask[8:18, 20:30] = 1  # 100 pixels
    counts = [count_objects(mask, CountingParams(smallest=s, split=split, depth=1.0)) for s in (0, 6, 7, 100, 101)]
    assert counts == [2, 2, 1, 1, 0]
    assert separate_objects(mask, CountingParams(smallest=7, split=split, depth=1.0))[2:4, 2:5].max() == 0


def test_a_piece_below_the_least_size_stays_with_its_neighbour() -> None:
    pair = discs((40, 60), (20, 20, 12), (20, 36, 5))
    areas = np.bincount(separate_objects(pair, splitting(1.0)).ravel())[1:]
    assert len(areas) == 2
    assert count_objects(pair, splitting(1.0, smallest=int(areas.min()))) == 2
    merged = separate_objects(pair, splitting(1.0, smallest=int(areas.min()) + 1))
    np.testing.assert_array_equal(merged, pair)


def test_a_thin_object_is_counted_however_deep_a_neck_must_be() -> None:
    line = np.zeros((9, 30), np.uint8)
    line[4, 3:27] = 1
    assert count_objects(line, splitting(100.0)) == 1


@pytest.mark.parametrize("params", [WHOLE, SPLIT, splitting(0.5, smallest=20)])
def test_an_empty_mask_holds_nothing_and_a_full_one_a_single_object(params: CountingParams) -> None:
    empty, full = np.zeros((32, 48), np.uint8), np.ones((32, 48), np.uint8)
    assert (count_contours(empty), count_objects(empty, params)) == (0, 0)
    assert (count_contours(full), count_objects(full, params)) == (1, 1)
    np.testing.assert_array_equal(separate_objects(full, params), full)


def test_any_value_but_0_is_foreground() -> None:
    mask = chain(2)
    others: list[Mask] = [mask.astype(bool), mask * np.uint8(255), np.asfortranarray(mask)]
    for same in others:
        assert count_contours(same) == 1
        np.testing.assert_array_equal(separate_objects(same, SPLIT), separate_objects(mask, SPLIT))


@given(
    st.lists(st.tuples(st.integers(3, 9), st.integers(-1, 1), st.integers(-1, 1)), max_size=12),
    st.floats(1.0, 3.0),
)
@settings(max_examples=25)
def test_separated_discs_are_as_many_as_were_drawn(circles: list[tuple[int, int, int]], depth: float) -> None:
    placed = [
        (12 + 24 * (place // 4) + down, 12 + 24 * (place % 4) + right, radius)
        for place, (radius, down, right) in enumerate(circles)
    ]
    mask = discs((72, 96), *placed) if placed else np.zeros((72, 96), np.uint8)
    assert count_contours(mask) == len(circles)
    assert count_objects(mask, WHOLE) == len(circles)
    assert count_objects(mask, splitting(depth)) == len(circles)


@given(masks, st.sampled_from([0.3, 0.75, 1.3]), st.integers(0, 12))
@settings(max_examples=25)
def test_labels_are_numbered_without_a_gap_and_cover_what_is_kept(mask: Pixels, depth: float, smallest: int) -> None:
    unsplit = CountingParams(smallest=smallest, split=False, depth=depth)
    labels, whole = (separate_objects(mask, params) for params in (splitting(depth, smallest), unsplit))
    components = ndimage.label(mask, EIGHT)[0]
    large = np.bincount(components.ravel()) >= smallest
    np.testing.assert_array_equal(whole > 0, (components > 0) & large[components])
    np.testing.assert_array_equal(labels > 0, whole > 0)
    for numbered in (labels, whole):
        assert set(numbered.ravel().tolist()) | {0} == set(range(numbered.max() + 1))
        assert (np.bincount(numbered.ravel())[1:] >= smallest).all()
    for part in range(1, labels.max() + 1):
        assert len(np.unique(whole[labels == part])) == 1  # no object joins two components


@given(masks, st.sampled_from([0.3, 0.75, 1.3]))
@settings(max_examples=25)
def test_a_count_does_not_depend_on_how_the_image_lies(mask: Pixels, depth: float) -> None:
    counts = {count_objects(turned, splitting(depth)) for turned in (mask, mask[::-1], mask[:, ::-1], mask.T)}
    assert len(counts) == 1


@given(masks, st.floats(0.1, 2.0), st.floats(0.0, 2.0))
@settings(max_examples=25)
def test_a_greater_depth_never_splits_more(mask: Pixels, depth: float, more: float) -> None:
    counts = [count_objects(mask, params) for params in (splitting(depth), splitting(depth + more), WHOLE)]
    assert counts == sorted(counts, reverse=True)


@given(
    st.lists(st.tuples(st.integers(0, 79), st.integers(0, 79), st.integers(5, 12)), min_size=1, max_size=15),
    st.sampled_from([0.3, 0.75, 1.3, 2.3]),
)
@settings(max_examples=25)
def test_as_many_objects_as_a_annotated_watershed_has_regions(
    circles: list[tuple[int, int, int]], depth: float
) -> None:
    mask = discs((80, 80), *circles)
    if mask.all():
        return  # without background the reference has no distances
    markers = ndimage.label(extended_maxima(mask, depth), EIGHT)[0]
    regions = watershed(-ndimage.distance_transform_edt(mask), markers, connectivity=EIGHT, mask=mask)
    unmarked = (mask > 0) & (regions == 0)  # components shallower than `depth` have no marker, and are objects
    expected = len(np.unique(regions[regions > 0])) + ndimage.label(unmarked, EIGHT)[1]
    assert count_objects(mask, splitting(depth)) == expected


@pytest.mark.parametrize("depth", [0.6, 1.6])
@pytest.mark.parametrize("number", [2, 4])
def test_chains_of_discs_count_as_with_h_maxima(number: int, depth: float) -> None:
    # Radii differ and centres are whole pixels: h_maxima marks equal peaks twice, even where nothing lies between.
    mask = discs((50, 100), *((25, 16 + 16 * place, 9 + place) for place in range(number)))
    distance = ndimage.distance_transform_edt(mask)
    markers = ndimage.label(h_maxima(distance, depth), EIGHT)[0]
    regions = watershed(-distance, markers, connectivity=EIGHT, mask=mask)
    assert count_objects(mask, splitting(depth)) == regions.max() == number


def test_the_regions_are_nearly_those_of_a_flooding_watershed() -> None:
    mask = discs((80, 90), (25, 25, 14), (30, 48, 13), (52, 35, 15), (55, 62, 12))
    labels = separate_objects(mask, SPLIT)
    markers = ndimage.label(extended_maxima(mask, 1.0), EIGHT)[0]
    regions = watershed(-ndimage.distance_transform_edt(mask), markers, connectivity=EIGHT, mask=mask)
    assert labels.max() == 4
    shared = sum(np.bincount(regions[labels == part]).max() for part in range(1, 5))
    assert shared / mask.sum() > 0.98


@pytest.mark.parametrize(
    ("name", "contours", "outer", "split"),
    [
        ("0_01", 105, 96, 114),
        ("7_03", 231, 209, 242),
    ],
)
def test_counts_of_real_nuclei(samples: Path, name: str, contours: int, outer: int, split: int) -> None:
    mask = real_mask(samples, name)
    counts = count_contours(mask), count_objects(mask, WHOLE), count_objects(mask, splitting(1.0, smallest=10))
    assert counts == (contours, outer, split)


@pytest.mark.parametrize("name", ["2_01", "6_02"])
def test_real_nuclei_have_the_peaks_of_the_h_maxima_transform(samples: Path, name: str) -> None:
    mask = real_mask(samples, name)
    peaks, _ = ndimage.label(extended_maxima(mask, 0.75), EIGHT)
    components, number = ndimage.label(mask, EIGHT)
    without = number - len(np.unique(components[peaks > 0]))
    assert count_objects(mask, splitting(0.75)) == peaks.max() + without


@pytest.mark.parametrize("params", [WHOLE, splitting(0.5)])
def test_one_mask_has_one_result_on_any_number_of_threads(samples: Path, params: CountingParams) -> None:
    mask = real_mask(samples, "2_01")
    before = cv2.getNumThreads()
    try:
        found = []
        for threads in (1, 4):
            cv2.setNumThreads(threads)
            found.append(separate_objects(mask, params))
    finally:
        cv2.setNumThreads(before)
    np.testing.assert_array_equal(found[0], found[1])
    assert found[0].dtype == np.int32


def test_a_count_is_off_by_its_distance_to_the_true_one_under_each_rule() -> None:
    # Whole 1 and split 4 of a chain of four; 2 are said to be there.
    assert counting_errors(chain(4), 2, [WHOLE, splitting(1.0), splitting(1.0, smallest=30)]) == [1, 2, 2]


def test_the_grid_holds_each_size_without_a_split_once_and_with_each_depth_the_simplest_first() -> None:
    found = CountingGrid(smallest=(10, 0), depths=(0.5, 1.0)).candidates()
    assert [(params.smallest, params.split, params.depth) for params in found] == [
        (0, False, 1.0),
        (10, False, 1.0),
        (0, True, 1.0),
        (0, True, 0.5),
        (10, True, 1.0),
        (10, True, 0.5),
    ]


def test_a_row_holds_counts_and_their_errors() -> None:
    ring = discs((60, 60), (30, 30, 25)) - discs((60, 60), (30, 30, 15))
    truth = discs((60, 60), (15, 15, 8), (15, 45, 8), (45, 30, 8))
    assert count_scores(ring, truth, SPLIT, SPLIT) == {
        "contours_predicted": 2,
        "contours_truth": 3,
        "contours_absolute_error": 1,
        "contours_relative_error": 1 / 3,
        "counted_predicted": 1,
        "counted_truth": 3,
        "counted_absolute_error": 2,
        "counted_relative_error": 2 / 3,
    }


def test_the_relative_error_is_undefined_where_the_truth_is_empty() -> None:
    row = count_scores(chain(2), np.zeros_like(chain(2)), SPLIT, SPLIT)
    assert (row["counted_truth"], row["counted_absolute_error"]) == (0, 2)
    assert math.isnan(row["counted_relative_error"])
    assert math.isnan(row["contours_relative_error"])


def test_the_truth_can_be_counted_by_a_rule_of_its_own() -> None:
    row = count_scores(chain(2), chain(3), WHOLE, SPLIT)
    assert (row["counted_predicted"], row["counted_truth"]) == (1, 3)


@pytest.mark.parametrize(
    "wrong", [{"smallest": -1}, {"depth": 0.0}, {"depth": 101.0}, {"split": 1}, {"smallest": 1.5}, {"more": 1}]
)
def test_values_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    right: dict[str, object] = {"smallest": 10, "split": True, "depth": 1.0}
    CountingParams.model_validate(right)
    with pytest.raises(ValidationError):
        CountingParams.model_validate(right | wrong)


@pytest.mark.parametrize("wrong", [{"smallest": ()}, {"depths": ()}, {"depths": (0.0,)}, {"smallest": (-1,)}])
def test_an_empty_or_impossible_grid_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CountingGrid.model_validate({"smallest": (0,), "depths": (1.0,)} | wrong)
