"""The outlines of predicted objects as polygons along the edges of their pixels, for GeoJSON."""

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from medseg.data.image_io import Pixels
from medseg.data.task import TaskParams

Ring = list[list[int]]  # x, y; pixels; the last is the first again
Flags = NDArray[np.bool_]

_PART, _OBJECT = 4, 8  # connectivity


class _Corners(NamedTuple):
    """Where outlines turn, (N,) each. Where two outlines touch, or one has a hole at its corner, there are two."""

    row: NDArray[np.int64]
    column: NDArray[np.int64]
    part: NDArray[np.int32]  # the pixels that the outline is around
    goes_right: Flags  # else left
    goes_down: Flags  # else up


def feature_collection(codes: Pixels, task: TaskParams) -> dict[str, Any]:
    """A GeoJSON FeatureCollection of the objects in class codes (H, W), by class, then from above.

    An object is an 8-connected set of pixels of one class. Coordinates are pixels, x to the right and y down, of the
    corners of pixels: the image spans (0, 0) to (W, H), and a polygon's area is its count of pixels. Properties:
    class, code, area (pixels). Parts that share no more than corners make a MultiPolygon.

    Rings are valid in the sense of OGC simple features: closed, none touches itself, holes lie inside and touch
    another ring in single points at most. Outer rings have a positive signed area in these coordinates, holes a
    negative one (RFC 7946, section 3.1.6).
    """
    features = []
    for code, name in enumerate(task.class_names, start=1):
        for area, polygons in _objects((codes == code).astype(np.uint8)):
            geometry = (
                {"type": "Polygon", "coordinates": polygons[0]}
                if len(polygons) == 1
                else {"type": "MultiPolygon", "coordinates": polygons}
            )
            properties = {"class": name, "code": code, "area": area}
            features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    return {"type": "FeatureCollection", "features": features}


def _objects(mask: Pixels) -> list[tuple[int, list[list[Ring]]]]:
    """Area and polygons of each object of a mask (H, W) of 0 and 1."""
    _, objects = cv2.connectedComponents(mask, connectivity=_OBJECT)
    areas = np.bincount(objects.ravel())
    found: dict[int, list[list[Ring]]] = {}
    for polygon in _polygons(mask):
        x, y = polygon[0][0]  # the upper left corner of one of its pixels
        found.setdefault(int(objects[y, x]), []).append(polygon)
    return [(int(areas[number]), polygons) for number, polygons in found.items()]


def _polygons(mask: Pixels) -> list[list[Ring]]:
    """A polygon for each 4-connected part: its outer ring, starting at its uppermost left corner, then its holes."""
    _, parts = cv2.connectedComponents(mask, connectivity=_PART)
    corners = _corners(np.pad(parts.astype(np.int32), 1))
    polygons: dict[int, list[Ring]] = {}
    for ring in _rings(corners):
        first = ring[0]
        row, column, part = int(corners.row[first]), int(corners.column[first]), int(corners.part[first])
        points = [[int(corners.column[turn]), int(corners.row[turn])] for turn in ring]
        closed = [*points, points[0]]
        is_outer = row < mask.shape[0] and column < mask.shape[1] and parts[row, column] == part
        # An outer ring comes before the holes in it, which lie below its upper edge.
        polygons.setdefault(part, []).append(closed if is_outer else closed[::-1])
    return list(polygons.values())


def _corners(parts: NDArray[np.int32]) -> _Corners:
    """The turns of all outlines in numbered parts (H + 2, W + 2) with a margin of 0, row by row."""
    windows = parts[:-1, :-1], parts[:-1, 1:], parts[1:, :-1], parts[1:, 1:]
    up_left, up_right, down_left, down_right = (window > 0 for window in windows)
    up, down = up_left != up_right, down_left != down_right
    simple = np.nonzero(up != down)
    touching = np.nonzero(up & down & (up_left != down_left))
    right = up_right[simple] != down_right[simple]
    part = np.max([window[simple] for window in windows], axis=0)
    turns = _Corners(simple[0], simple[1], part, right, down[simple])
    return _by_row(turns, *_touching(touching, [window[touching] for window in windows]))


def _touching(places: tuple[NDArray[np.int64], ...], around: list[NDArray[np.int32]]) -> tuple[_Corners, _Corners]:
    """The two turns where two diagonal pixels are set: that which comes from the left and that from the right.

    Pixels of two parts are gone around each. Where both are of one part, their outline would touch itself here: the
    other two pixels are gone around instead, one of which lies in a hole.
    """
    up_left, up_right, down_left, down_right = around
    falling = up_left > 0  # the diagonal \ is set
    left, right = np.where(falling, up_left, down_left), np.where(falling, down_right, up_right)
    left_goes_down = falling == (left == right)
    yes = np.ones(len(left), np.bool_)
    row, column = places
    return _Corners(row, column, left, ~yes, left_goes_down), _Corners(row, column, right, yes, ~left_goes_down)


def _by_row(*groups: _Corners) -> _Corners:
    joined = [np.concatenate(fields) for fields in zip(*groups, strict=True)]
    order = np.lexsort((joined[1], joined[0]))
    return _Corners(*(field[order] for field in joined))


def _rings(corners: _Corners) -> list[list[int]]:
    """The corners of each ring in turn, from its uppermost left one to the right."""
    across = _partners((corners.goes_right, corners.column, corners.row))
    along = _partners((corners.goes_down, corners.row, corners.column))
    is_done = [False] * len(across)
    rings = []
    for first in range(len(across)):
        ring: list[int] = []
        corner = first
        while not is_done[corner]:
            for turn in (corner, across[corner]):
                is_done[turn] = True
                ring.append(turn)
            corner = along[ring[-1]]
        if ring:
            rings.append(ring)
    return rings


def _partners(keys: tuple[NDArray[Any], ...]) -> list[int]:
    """The corner at the other end of each corner's edge in one direction.

    In a row, or column, edges run from the first corner to the second, from the third to the fourth, and so on; of
    two corners at one place, that which ends an edge comes before that which starts one.
    """
    order = np.lexsort(keys)
    partners = np.empty(len(order), np.int64)
    partners[order[0::2]], partners[order[1::2]] = order[1::2], order[0::2]
    return [int(partner) for partner in partners]
