"""Picture and mask files to arrays, and arrays to files."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from medseg.errors import UserError
from medseg.outputs import whole_file

Pixels = NDArray[np.uint8]

_GREY_MODES = {"1", "L", "LA"}
_DEEP_MODES = {"I;16", "I;16L", "I;16B", "I"}


def read_image(path: Path) -> Pixels:
    """Read a picture as (H, W, 1) grey or (H, W, 3) RGB, uint8, turned upright as its EXIF data say.

    Alpha is ignored; 16-bit grey is scaled from 0..65535 to 0..255. Raises `UserError` that names the file where
    it is no picture, is cut off, holds several pictures or floating-point values.
    """
    values = _read_values(path)
    pixels = values if values.dtype == np.uint8 else _from_16_bit(values, path)
    return (pixels[..., None] if pixels.ndim == 2 else pixels).astype(np.uint8)


def read_mask(paths: Iterable[Path]) -> Pixels:
    """Read one or more mask files as their union, (H, W) uint8, 0 background and 1 foreground.

    1-bit, grey, palette, RGB and RGBA files are taken; a pixel is foreground where it is not black, alpha is
    ignored. Raises `UserError` where a file is unreadable, holds more than one colour beside black, or differs in
    size.
    """
    union: Pixels | None = None
    for path in paths:
        mask = _read_one_mask(path)
        if union is not None and mask.shape != union.shape:
            raise UserError(f"{path}: the masks of one picture differ in size: {_size(mask)} and {_size(union)}")
        union = mask if union is None else union | mask
    if union is None:
        raise ValueError("no mask path was given")
    return union


def to_channels(image: Pixels, channels: int) -> Pixels:
    """Turn (H, W, 1 or 3) into (H, W, channels): RGB to grey by ITU-R BT.601 weights, grey to RGB by repetition."""
    if image.shape[2] == channels:
        return image
    if channels == 1:
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None].astype(np.uint8)
    return np.repeat(image, channels, axis=2)


def write_png(path: Path, image: Pixels) -> None:
    """Write (H, W) grey, (H, W, 1) grey or (H, W, 3) RGB uint8 as PNG; the bytes depend on the pixels alone."""
    with whole_file(path) as partial:
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 and image.ndim == 3 else image).save(
            partial, format="PNG"
        )


def write_codes(path: Path, codes: Pixels, colours: Sequence[tuple[int, int, int]]) -> None:
    """Write codes (H, W) uint8 as a palette PNG: code 0 shows black, 1, 2, ... the `colours` (RGB) in turn."""
    picture = Image.fromarray(codes)
    picture.putpalette([0, 0, 0, *(value for colour in colours for value in colour)])
    with whole_file(path) as partial:
        picture.save(partial, format="PNG")


def read_codes(path: Path) -> Pixels:
    """Read the class codes (H, W) uint8 of a palette PNG, whatever its colours.

    Raises `UserError` that names the file where it is unreadable or has no palette.
    """
    picture = _open(path)
    if picture.mode != "P":
        raise UserError(f"{path}: has no palette, so its pixels are no class codes")
    codes: Pixels = np.asarray(picture)
    return codes


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            frames = getattr(picture, "n_frames", 1)
            picture.load()
            upright = ImageOps.exif_transpose(picture)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (
        Exception
    ) as error:  # on damaged files Pillow raises nearly anything: SyntaxError, TypeError, struct.error ...
        raise UserError(f"{path}: not readable as a picture: {error}") from None
    if frames > 1:
        raise UserError(f"{path}: holds {frames} pictures; give one file for each")
    return upright


def _read_values(path: Path) -> NDArray[np.integer[Any]]:
    """(H, W) grey or (H, W, 3) RGB; integers of more than 8 bits where the file holds such, else uint8."""
    picture = _open(path)
    if picture.mode == "F":
        raise UserError(f"{path}: floating-point pictures are not read; convert it to 8 or 16 bits")
    if picture.mode in _DEEP_MODES:
        return np.asarray(picture).astype(np.int64)
    values: Pixels = np.asarray(picture.convert("L" if picture.mode in _GREY_MODES else "RGB"))
    return values


def _from_16_bit(values: NDArray[np.integer[Any]], path: Path) -> Pixels:
    if values.min() < 0 or values.max() > 65535:
        raise UserError(f"{path}: values outside 0..65535; convert it to 8 or 16 bits")
    scaled: Pixels = np.round(values / 257).astype(np.uint8)
    return scaled


def _read_one_mask(path: Path) -> Pixels:
    values = _read_values(path)
    if values.ndim == 3:  # one number per colour
        red, green, blue = np.moveaxis(values.astype(np.int32), 2, 0)
        values = (red << 16) + (green << 8) + blue
    mask: Pixels = (values != 0).astype(np.uint8)
    colour = values.ravel()[mask.argmax()]  # of the first foreground pixel
    if not np.array_equal(values, mask * colour):  # np.unique would sort all pixels
        raise UserError(
            f"{path}: {len(np.unique(values))} different values; a mask holds 0 for background and one other "
            "value or colour (a JPEG file does not keep that; neither does resizing with interpolation)"
        )
    return mask


def _size(pixels: Pixels) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"
