"""Class codes to GeoJSON: the outlines of objects as polygons along pixel edges."""

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from medseg.data.image_io import Pixels
from medseg.data.task import TaskParams

Ring = list[list[int]]  # closed: points (x, y) in pixels, the last equals the first
Flags = NDArray[np.bool_]

_PART, _OBJECT = 4, 8  # connectivity


class _Corners(NamedTuple):
    """Vertices of outlines, arrays (N,). A point where two rings touch is listed twice."""

    row: NDArray[np.int64]
    column: NDArray[np.int64]
    part: NDArray[np.int32]  # number of the 4-connected part that the outline encloses
    goes_right: Flags  # direction of the horizontal edge at this vertex; else left
    goes_down: Flags  # direction of the vertical edge; else up


def feature_collection(codes: Pixels, task: TaskParams) -> dict[str, Any]:
    """The GeoJSON FeatureCollection of the objects in class codes (H, W), by class, then from top to bottom.

    An object is an 8-connected set of pixels of one class. Coordinates are those of pixel corners, x to the right and
    y down: the image spans (0, 0) to (W, H), and the area of a polygon is its number of pixels. Properties: class,
    code, area (pixels). An object whose parts share corners alone is a MultiPolygon.

    Rings are valid by OGC simple features: closed, without self-contact; holes touch other rings in single points at
    most. Outer rings have a positive signed area in these coordinates, holes a negative one (RFC 7946, section 3.1.6).
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
        x, y = polygon[0][0]  # the top left corner of a pixel of the object
        found.setdefault(int(objects[y, x]), []).append(polygon)
    return [(int(areas[number]), polygons) for number, polygons in found.items()]


def _polygons(mask: Pixels) -> list[list[Ring]]:
    """The polygon of each 4-connected part: its outer ring, starting at its topmost left vertex, then its holes."""
    _, parts = cv2.connectedComponents(mask, connectivity=_PART)
    corners = _corners(np.pad(parts.astype(np.int32), 1))
    polygons: dict[int, list[Ring]] = {}
    for ring in _rings(corners):
        first = ring[0]
        row, column, part = int(corners.row[first]), int(corners.column[first]), int(corners.part[first])
        points = [[int(corners.column[index]), int(corners.row[index])] for index in ring]
        closed = [*points, points[0]]
        is_outer = row < mask.shape[0] and column < mask.shape[1] and parts[row, column] == part
        # Rings come from top to bottom, so an outer ring precedes its holes.
        polygons.setdefault(part, []).append(closed if is_outer else closed[::-1])
    return list(polygons.values())


def _corners(parts: NDArray[np.int32]) -> _Corners:
    """The vertices of all outlines, row by row; `parts` (H + 2, W + 2) has a margin of 0."""
    windows = parts[:-1, :-1], parts[:-1, 1:], parts[1:, :-1], parts[1:, 1:]
    up_left, up_right, down_left, down_right = (window > 0 for window in windows)
    up, down = up_left != up_right, down_left != down_right
    simple = np.nonzero(up != down)
    touching = np.nonzero(up & down & (up_left != down_left))
    right = up_right[simple] != down_right[simple]
    part = np.max([window[simple] for window in windows], axis=0)
    groups = (
        _Corners(simple[0], simple[1], part, right, down[simple]),
        *_diagonal_corners(touching, [window[touching] for window in windows]),
    )
    joined: list[NDArray[Any]] = [np.concatenate(list(fields)) for fields in zip(*groups, strict=True)]
    order = np.lexsort((joined[1], joined[0]))
    return _Corners(*(field[order] for field in joined))


def _diagonal_corners(
    places: tuple[NDArray[np.int64], ...], around: list[NDArray[np.int32]]
) -> tuple[_Corners, _Corners]:
    """The left and the right vertex at points where only two diagonal pixels of the 2x2 around are foreground.

    Pixels of two parts are each enclosed. Where both belong to one part, its outline would touch itself here, so the
    two background pixels are enclosed instead, one of which lies in a hole.
    """
    up_left, up_right, down_left, down_right = around
    falling = up_left > 0  # the diagonal \ is set
    left, right = np.where(falling, up_left, down_left), np.where(falling, down_right, up_right)
    left_goes_down = falling == (left == right)
    yes = np.ones(len(left), np.bool_)
    row, column = places
    return _Corners(row, column, left, ~yes, left_goes_down), _Corners(row, column, right, yes, ~left_goes_down)


def _rings(corners: _Corners) -> list[list[int]]:
    """The vertices of each ring in order, from its topmost left one to the right."""
    across = _partners((corners.goes_right, corners.column, corners.row))
    along = _partners((corners.goes_down, corners.row, corners.column))
    is_done = [False] * len(across)
    rings = []
    for first in range(len(across)):
        ring: list[int] = []
        corner = first
        while not is_done[corner]:
            for vertex in (corner, across[corner]):
                is_done[vertex] = True
                ring.append(vertex)
            corner = along[ring[-1]]
        if ring:
            rings.append(ring)
    return rings


def _partners(keys: tuple[NDArray[Any], ...]) -> list[int]:
    """The vertex at the other end of each vertex's edge in one direction.

    Along a row or column, edges join the first vertex to the second, the third to the fourth, and so on; of two
    vertices at one point, the one that ends an edge precedes the one that starts one.
    """
    order = np.lexsort(keys)
    partners = np.empty(len(order), np.int64)
    partners[order[0::2]], partners[order[1::2]] = order[1::2], order[0::2]
    return [int(partner) for partner in partners]
