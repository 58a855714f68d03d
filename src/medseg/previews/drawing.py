"""Contours and contact sheets, drawn with OpenCV so that no plotting library is loaded."""

from collections.abc import Sequence

import cv2
import numpy as np

from medseg.data.colours import TRUTH, Colour
from medseg.data.image_io import Pixels, to_channels

_LINE = 1  # pixels


def outlined(image: Pixels, mask: Pixels, colour: Colour) -> Pixels:
    """A copy of (H, W, 1 or 3) as RGB with the outlines of the mask's (H, W) objects and holes drawn on it."""
    canvas = np.ascontiguousarray(to_channels(image, 3)).copy()
    contours, _ = cv2.findContours(np.ascontiguousarray(mask), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, contours, -1, colour, _LINE)
    return canvas


def filled(image: Pixels, mask: Pixels, colour: Colour, opacity: float = 0.4) -> Pixels:
    """A copy of (H, W, 1 or 3) as RGB, tinted where the mask (H, W) is not 0: outlines would not show which side is."""
    canvas = to_channels(image, 3)
    tinted = np.rint(canvas * (1 - opacity) + np.array(colour) * opacity).astype(np.uint8)
    return np.where(mask[..., None] > 0, tinted, canvas)


def contact_sheet(tiles: Sequence[Pixels], columns: int, side: int) -> Pixels:
    """Arrange RGB images of any size in rows of `columns`, each within `side` x `side` pixels, on white."""
    gap = 4
    rows = -(-len(tiles) // columns)
    sheet = np.full((rows * (side + gap) + gap, columns * (side + gap) + gap, 3), 255, np.uint8)
    for number, tile in enumerate(tiles):
        small = within(tile, side)
        top = gap + number // columns * (side + gap)
        left = gap + number % columns * (side + gap)
        sheet[top : top + small.shape[0], left : left + small.shape[1]] = small
    return sheet


def sample_sheet(images: Pixels, masks: Pixels, columns: int, side: int) -> Pixels:
    """A contact sheet of samples (N, H, W, C) with their masks (N, H, W) filled, so that inverted ones are seen."""
    annotated = (masks == 1).astype(np.uint8)
    tiles = [outlined(filled(image, mask, TRUTH), mask, TRUTH) for image, mask in zip(images, annotated, strict=True)]
    return contact_sheet(tiles, columns, side)


def within(image: Pixels, side: int) -> Pixels:
    """Resize an image so that its longer side measures `side` pixels."""
    factor = side / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR).astype(np.uint8)


def titled(image: Pixels, title: str, side: int) -> Pixels:
    """The image within `side` pixels, with a short title in its upper left corner."""
    small = np.ascontiguousarray(within(image, side))
    font, scale, thickness = cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1
    (width, height), _ = cv2.getTextSize(title, font, scale, thickness)
    cv2.rectangle(small, (0, 0), (width + 6, height + 8), (0, 0, 0), cv2.FILLED)
    cv2.putText(small, title, (3, height + 4), font, scale, (255, 255, 255), thickness, cv2.LINE_AA)
    return small
