"""Outlines to distances, held against medpy, DeepMind's surface-distance and values worked out by hand."""

import math

import numpy as np
import pytest
import surface_distance
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from medpy.metric import binary as medpy

from medseg.data.image_io import Pixels
from medseg.metrics.overlap import Mask, count_pixels, overlap_scores
from medseg.metrics.surface import SURFACE_SCORES, Tolerance, surface_scores

SIDES = st.integers(1, 9)
SHAPES = st.shared(st.tuples(SIDES, SIDES), key="shape")
TOLERANCES = st.sampled_from([0.0, 1.0, math.sqrt(2), 2.0, 3.5])


def mask(*rows: str) -> Pixels:
    return np.array([[int(pixel) for pixel in line] for line in rows], np.uint8)


def scores_at(prediction: Mask, truth: Mask, pixels: float) -> dict[str, float]:
    """All scores but that at a tolerance relative to the diagonal."""
    scores = surface_scores(prediction, truth, Tolerance(pixels=pixels, diagonal=0))
    return {name: scores[name] for name in ("hd95", "assd", "nsd")}


@st.composite
def blobs(draw: st.DrawFn) -> Pixels:
    """Rectangles laid over one another, each of which sets or clears: lesions, holes, islands, cut by the edge."""
    height, width = draw(SHAPES)
    image = np.zeros((height, width), np.uint8)
    for value in draw(st.lists(st.integers(0, 1), min_size=1, max_size=4)):
        rows = sorted(draw(st.tuples(st.integers(0, height), st.integers(0, height))))
        columns = sorted(draw(st.tuples(st.integers(0, width), st.integers(0, width))))
        image[slice(*rows), slice(*columns)] = value
    return image


MASKS = arrays(np.uint8, SHAPES, elements=st.integers(0, 1)) | blobs()
ANNOTATED = MASKS.filter(lambda image: bool(image.any()))
OVERLAPPING = st.tuples(MASKS, MASKS).filter(lambda pair: bool((pair[0] & pair[1]).any()))

FULL = np.ones((5, 5), np.uint8)
ONE = mask("00000", "00000", "00100", "00000", "00000")
CORNER = mask("10000", "00000", "00000", "00000", "00000")
HOLE = mask("11111", "11111", "11011", "11111", "11111")


@given(OVERLAPPING)
@example((FULL, FULL))
@example((FULL, ONE))
@example((CORNER, HOLE))
def test_hd95_and_assd_are_those_of_medpy(pair: tuple[Pixels, Pixels]) -> None:
    prediction, truth = pair
    scores = scores_at(prediction, truth, 1)
    assert scores["hd95"] == pytest.approx(medpy.hd95(prediction, truth), abs=1e-12)
    assert scores["assd"] == pytest.approx(medpy.assd(prediction, truth), abs=1e-12)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:surface_distance")
@given(OVERLAPPING, TOLERANCES)
@example((FULL, ONE), 2.0)
@example((CORNER, HOLE), 1.0)
def test_nsd_is_that_of_surface_distance(pair: tuple[Pixels, Pixels], tolerance: float) -> None:
    prediction, truth = pair
    distances = surface_distance.compute_surface_distances(truth.astype(bool), prediction.astype(bool), (1, 1))
    expected = surface_distance.compute_surface_dice_at_tolerance(distances, tolerance)
    assert scores_at(prediction, truth, tolerance)["nsd"] == pytest.approx(expected, abs=1e-12)


def test_a_row_of_pixels_against_its_end_by_hand() -> None:
    first, second = mask("1111"), mask("0001")
    # The outline of the row passes ten corners, that of the pixel four, which are its own too. The ends of the row have
    # slants, as all four corners of the pixel; the others of the row lie 1, 2 and (a slant) 3 from the pixel's.
    slant = math.sqrt(0.5)
    row, pixel = 4 * slant + 6, 4 * slant
    shares = [(near + pixel) / (row + pixel) for near in (2 * slant + 2, 2 * slant + 4, 2 * slant + 6, row)]
    scores = [scores_at(first, second, tolerance) for tolerance in (0, 1, 2, 3)]
    assert [score["nsd"] for score in scores] == pytest.approx(shares)
    # Pixels of the row lie 3, 2, 1 and 0 from the last, that one lies 0 from them.
    assert [score["assd"] for score in scores] == pytest.approx([6 / 5] * 4)


def test_the_distances_of_both_directions_are_pooled() -> None:
    # 21 pixels in a row lie from the first 0, 1, ... 20, that one lies 0 from them. The first way alone would give 19.
    line = np.ones((1, 21), np.uint8)
    end = np.zeros_like(line)
    end[0, 0] = 1
    scores = scores_at(end, line, 1)
    assert scores["hd95"] == pytest.approx(18.95)
    assert scores["assd"] == pytest.approx(210 / 22)


def test_the_edge_of_a_hole_is_outline() -> None:
    # Beside the 16 pixels that both outlines share there are 4 around the hole, each 1 from the frame.
    scores = scores_at(HOLE, FULL, 0)
    assert scores["assd"] == pytest.approx(4 / 36)
    assert scores["hd95"] == 1
    # The hole's outline is that of one pixel, four slants; the frame is 16 long and has four slants at its corners.
    assert scores["nsd"] == pytest.approx(1 - 2 * math.sqrt(2) / (2 * (16 + 2 * math.sqrt(2)) + 2 * math.sqrt(2)))


def test_the_edge_of_the_image_is_outline() -> None:
    frame = 4 * 2 + 8 * math.sqrt(5) + 4 * math.sqrt(8)
    assert scores_at(ONE, FULL, 1)["assd"] == pytest.approx((frame + 2) / 17)


@given(MASKS)
def test_an_empty_truth_leaves_all_undefined(prediction: Pixels) -> None:
    scores = surface_scores(prediction, np.zeros_like(prediction), Tolerance(pixels=1, diagonal=1))
    assert tuple(scores) == SURFACE_SCORES
    assert all(math.isnan(value) for value in scores.values())


@pytest.mark.parametrize("found", [(), (3, 5), (29, 39)], ids=["nothing", "beside it", "far away"])
def test_an_image_of_which_no_annotated_pixel_is_found_takes_the_diagonal(found: tuple[int, ...]) -> None:
    truth = np.zeros((30, 40), np.uint8)
    truth[3, 4] = 1
    prediction = np.zeros_like(truth)
    if found:
        prediction[found] = 1
    scores = surface_scores(prediction, truth, Tolerance(pixels=1000, diagonal=1))
    assert scores == {"hd95": 50, "assd": 50, "nsd": 0, "nsd_relative": 0}


@given(ANNOTATED, ANNOTATED, st.floats(0, 1))
def test_the_relative_tolerance_is_a_share_of_the_diagonal(prediction: Pixels, truth: Pixels, share: float) -> None:
    relative = surface_scores(prediction, truth, Tolerance(pixels=0, diagonal=share))
    assert relative["nsd_relative"] == scores_at(prediction, truth, share * math.hypot(*truth.shape))["nsd"]


@given(MASKS, ANNOTATED)
def test_distances_are_the_diagonal_just_where_recall_is_0(prediction: Pixels, truth: Pixels) -> None:
    scores, diagonal = scores_at(prediction, truth, 1), math.hypot(*truth.shape)
    missed = overlap_scores(count_pixels(prediction, truth))["recall"] == 0
    assert (scores["hd95"] == diagonal) == (scores["assd"] == diagonal) == missed
    assert scores["hd95"] <= diagonal
    assert not missed or scores["nsd"] == 0


@pytest.mark.parametrize("value", [2, 255])
def test_all_that_is_not_0_is_foreground(value: int) -> None:
    assert scores_at(ONE * np.uint8(value), HOLE.astype(bool), 1) == scores_at(ONE, HOLE, 1)
