"""Reading and writing mask files."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from medseg.core.errors import UserError
from medseg.core.files import atomic_file
from medseg.data.image_io import Pixels, open_image, pixel_values, size_text

_JPEG = b"\xff\xd8"  # its first bytes, whatever its name


def read_mask(paths: Iterable[Path]) -> Pixels:
    """Read one or more mask files as their union, (H, W) uint8, 0 background and 1 foreground.

    1-bit, grey, palette, RGB and RGBA files are read; a pixel is foreground where its colour is not black, alpha is
    ignored. Raises `UserError` where a file is unreadable, holds more than one colour beside black, differs in size,
    or where its alpha channel or palette indices show another mask than its colours.
    """
    union: Pixels | None = None
    for path in paths:
        mask = _read_one_mask(path)
        if union is not None and mask.shape != union.shape:
            raise UserError(f"{path}: the masks of one image differ in size: {size_text(mask)} and {size_text(union)}")
        union = mask if union is None else union | mask
    if union is None:
        raise ValueError("no mask path was given")
    return union


def write_codes(path: Path, codes: Pixels, colours: Sequence[tuple[int, int, int]]) -> None:
    """Write codes (H, W) uint8 as a palette PNG: code 0 shows black, 1, 2, ... the `colours` (RGB) in turn."""
    image = Image.fromarray(codes)
    image.putpalette([0, 0, 0, *(value for colour in colours for value in colour)])
    with atomic_file(path) as partial:
        image.save(partial, format="PNG")


def read_codes(path: Path) -> Pixels:
    """Read the class codes (H, W) uint8 of a palette PNG, whatever its colours.

    Raises `UserError` that names the file where it is unreadable or has no palette.
    """
    image = open_image(path)
    if image.mode != "P":
        raise UserError(f"{path}: has no palette, so its pixels are no class codes")
    codes: Pixels = np.asarray(image)
    return codes


def _read_one_mask(path: Path) -> Pixels:
    image = open_image(path, is_mask=True)
    values = pixel_values(image, path)
    if values.ndim == 3:  # one number per colour
        red, green, blue = (values[..., channel].astype(np.int32) for channel in range(3))
        values = (red << 16) + (green << 8) + blue
    mask: Pixels = (values != 0).astype(np.uint8)
    colour = values.ravel()[mask.argmax()]  # of the first foreground pixel
    if not np.array_equal(values, mask * colour):  # np.unique would sort all pixels
        raise UserError(
            f"{path}: {len(np.unique(values))} different values; a mask holds 0 for background and one other "
            f"value or colour ({_reason(path)})"
        )
    if other := _other_mask(image, mask):
        raise UserError(f"{path}: {other} than the colours do; save it without")
    return mask


def _reason(path: Path) -> str:
    """Why a file may hold several values: JPEG alone loses them."""
    with path.open("rb") as file:
        if file.read(len(_JPEG)) == _JPEG:
            return "a JPEG file does not keep that: save masks as PNG"
    return "is it a label map of several classes or objects, or was it resized with interpolation?"


def _other_mask(image: Image.Image, mask: Pixels) -> str:
    """What in the file shows another mask than its colours; empty where nothing does."""
    if image.mode == "P" and _parts_more(np.asarray(image), mask):
        return "its palette indices separate the pixels in another way"
    if "A" in image.getbands() and _parts_more(np.asarray(image.getchannel("A")), mask):
        return "its alpha channel shows another mask"
    return ""


def _parts_more(plane: Pixels, mask: Pixels) -> bool:
    """Whether the values of a plane (H, W) differ inside the mask's background or inside its foreground."""
    sides = (plane[mask == side] for side in (0, 1))
    return any(side.size > 0 and bool((side != side[0]).any()) for side in sides)
