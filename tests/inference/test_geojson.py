"""Objects as polygons along the edges of their pixels."""

from itertools import pairwise

import cv2
import numpy as np
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from medseg.data.image_io import Pixels
from medseg.inference.geojson import Ring, feature_collection

MASKS = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 1))


def codes(*rows: str) -> Pixels:
    return np.array([[int(letter) for letter in row] for row in rows], np.uint8)


def polygons(mask: Pixels) -> list[list[list[Ring]]]:
    """Of each object, its polygons."""
    geometries = [feature["geometry"] for feature in feature_collection(mask, tiny.BINARY)["features"]]
    return [[shape["coordinates"]] if shape["type"] == "Polygon" else shape["coordinates"] for shape in geometries]


def signed_area(ring: Ring) -> float:
    return sum(x * below - right * y for (x, y), (right, below) in pairwise(ring)) / 2


def filled(mask: Pixels) -> Pixels:
    """The polygons drawn again: a pixel is inside where a ray to its left crosses rings an odd number of times."""
    drawn = np.zeros(mask.shape, np.uint8)
    for ring in (ring for shape in polygons(mask) for polygon in shape for ring in polygon):
        for (x, y), (right, below) in pairwise(ring):
            if x == right:
                drawn[min(y, below) : max(y, below), x:] ^= 1
    return drawn


def test_a_pixel_is_a_square_of_its_corners() -> None:
    found = feature_collection(codes("000", "010"), tiny.BINARY)
    assert found == {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [[[1, 1], [2, 1], [2, 2], [1, 2], [1, 1]]]},
                "properties": {"class": "foreground", "code": 1, "area": 1},
            }
        ],
    }


def test_nothing_found_is_an_empty_collection() -> None:
    assert feature_collection(codes("00"), tiny.BINARY) == {"type": "FeatureCollection", "features": []}


def test_a_hole_is_a_ring_the_other_way_round() -> None:
    [[[outer, hole]]] = polygons(codes("1111", "1001", "1111"))
    assert outer == [[0, 0], [4, 0], [4, 3], [0, 3], [0, 0]]
    assert sorted(map(tuple, hole)) == sorted([(1, 1), (3, 1), (3, 2), (1, 2), (1, 1)])
    assert [signed_area(ring) for ring in (outer, hole)] == [12, -2]


def test_an_object_in_the_hole_of_another_is_its_own() -> None:
    shapes = polygons(codes("11111", "10001", "10101", "10001", "11111"))
    assert [[len(polygon) for polygon in shape] for shape in shapes] == [[2], [1]]


def test_pixels_that_share_a_corner_are_one_object_of_two_polygons() -> None:
    [feature] = feature_collection(codes("10", "01"), tiny.BINARY)["features"]
    assert feature["geometry"]["type"] == "MultiPolygon"
    assert len(feature["geometry"]["coordinates"]) == 2
    assert feature["properties"]["area"] == 2


def test_a_hole_that_opens_at_a_corner_stays_a_hole() -> None:
    [[rings]] = polygons(codes("110", "101", "111"))
    assert [signed_area(ring) for ring in rings] == [8, -1]


def test_each_class_has_objects_of_its_own() -> None:
    found = feature_collection(codes("1122", "1100"), tiny.LESIONS)["features"]
    assert [feature["properties"] for feature in found] == [
        {"class": "benign", "code": 1, "area": 4},
        {"class": "malignant", "code": 2, "area": 2},
    ]


@settings(max_examples=200)
@given(MASKS)
def test_the_polygons_cover_the_mask_and_nothing_else(mask: Pixels) -> None:
    np.testing.assert_array_equal(filled(mask), mask)


@settings(max_examples=200)
@given(MASKS)
def test_rings_are_closed_and_never_touch_themselves(mask: Pixels) -> None:
    for ring in (ring for shape in polygons(mask) for polygon in shape for ring in polygon):
        passed = [
            (int(x), int(y))
            for start, end in pairwise(ring)
            for x, y in np.linspace(start, end, length(start, end) + 1)[:-1]
        ]
        assert ring[0] == ring[-1]
        assert len(set(passed)) == len(passed)
        assert all((x == right) != (y == below) for (x, y), (right, below) in pairwise(ring))


@settings(max_examples=200)
@given(MASKS)
def test_areas_and_objects_are_those_of_the_mask(mask: Pixels) -> None:
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    features = feature_collection(mask, tiny.BINARY)["features"]
    areas = [feature["properties"]["area"] for feature in features]
    assert sorted(areas) == sorted(np.bincount(labels.ravel(), minlength=1)[1:])
    assert len(features) == count
    for shape, area in zip(polygons(mask), areas, strict=True):
        assert sum(signed_area(ring) for polygon in shape for ring in polygon) == area
        assert all(signed_area(ring) > 0 for ring, *_ in shape)
        assert all(signed_area(hole) < 0 for _, *holes in shape for hole in holes)


def test_a_disc_with_holes_gives_its_holes_to_it_alone() -> None:
    mask = tiny.circle(61, 25)
    cv2.circle(mask, (25, 30), 4, (0,), cv2.FILLED)
    cv2.circle(mask, (40, 30), 4, (0,), cv2.FILLED)
    mask[0, :5] = 1
    assert [[len(polygon) for polygon in shape] for shape in polygons(mask)] == [[1], [3]]


def length(start: list[int], end: list[int]) -> int:
    return abs(start[0] - end[0]) + abs(start[1] - end[1])
