"""Image and mask files to arrays, and arrays to files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps, TiffImagePlugin

from medseg.core.errors import UserError
from medseg.core.files import atomic_file
from medseg.data.intensity import FULL, Range, Window, to_8_bits

Pixels = NDArray[np.uint8]

# Others that Pillow knows start programs (EPS) or accept truncated files (JPEG 2000).
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM")
SUFFIXES = frozenset(  # of their files, in lower case
    [".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm"]
)
MAX_PIXELS = 1 << 26  # 8192x8192; prediction takes some 30 bytes per pixel, so 2 GB

_GREY_MODES = {"1", "L", "LA"}
_DEEP_MODES = {"I;16", "I;16L", "I;16B", "I"}
_BITS, _PHOTOMETRIC, _PLANES, _SAMPLE_FORMAT = 258, 262, 284, 339  # tags of TIFF 6.0
_WHITE_IS_ZERO, _SEPARATE_PLANES, _SIGNED = 0, 2, 2  # their values


def read_image(path: Path, intensity: Range = FULL) -> Pixels:
    """Read an image as (H, W, 1) grey or (H, W, 3) RGB, uint8, rotated as its EXIF data say.

    `intensity` is the range of the file's values that becomes 0..255. Alpha is ignored; of 16-bit colours the higher 8
    bits are kept. Raises `UserError` as `read_values`, and where the file's values have not the type that `intensity`
    is for, or at full range 8 bits would keep next to nothing of them.
    """
    values = read_values(path)
    if isinstance(intensity, Window):
        check_type(path, intensity)
    elif values.dtype == np.uint16 and values.min() < (most := values.max()) < 256:
        raise UserError(
            f"{path}: no value of 65535 exceeds {most}, so 8 bits would keep next to nothing; save it in 8, or say "
            "which values the device gives: -S intensity=window"
        )
    return to_8_bits(values, intensity)


def read_to_show(path: Path) -> Pixels:
    """As `read_image`, but more than 8 bits are stretched between the image's own least and greatest value."""
    values = read_values(path)
    if values.dtype == np.uint8 or values.min() == values.max():
        return to_8_bits(values, FULL)
    own = Window(name="window", bits=16, low=int(values.min()), high=int(values.max()))
    return to_8_bits(values, own)


def read_values(path: Path) -> NDArray[Any]:
    """The values of an image, (H, W, 1) grey or (H, W, 3) RGB, uint8 or, of 16-bit grey, uint16.

    Raises `UserError` that names the file where it is no image of one of the `FORMATS`, is cut off, has more than
    `MAX_PIXELS`, holds several images, or values that are negative, floating-point or wider than 16 bits.
    """
    values = pixel_values(open_image(path), path)
    return values[..., None] if values.ndim == 2 else values


def holds_16_bits(path: Path) -> bool:
    """Whether the values of an image file, grey or colours, have more than 8 bits. Raises `UserError` as `open_image`.

    Like the two functions below, it reads the file's header alone.
    """
    with _header(path) as image:
        return image.mode in _DEEP_MODES or _is_deep_colour(image)


def is_turned(path: Path) -> bool:
    """Whether EXIF data turn or mirror the image of a file. Raises `UserError` as `open_image`."""
    with _header(path) as image:
        return bool(image.getexif().get(ExifTags.Base.Orientation, 1) != 1)


def check_type(path: Path, intensity: Range) -> None:
    """Raise `UserError` where a file's values have not the type that `intensity` is for."""
    if not isinstance(intensity, Window):
        return
    with _header(path) as image:
        bits, has_deep_colours = 16 if image.mode in _DEEP_MODES else 8, _is_deep_colour(image)
    if has_deep_colours:
        raise UserError(f"{path}: 16-bit colours are read at full range alone; convert it to 8 bits, or to grey")
    if bits != intensity.bits:
        raise UserError(
            f"{path}: holds {bits}-bit values, and the range of intensities, {intensity.low} to {intensity.high}, is "
            f"of {intensity.bits}-bit files; give images of one device, or take intensity=full"
        )


@contextmanager
def _header(path: Path) -> Iterator[ImageFile.ImageFile]:
    try:
        with Image.open(path, formats=FORMATS) as image:
            yield image
    except Exception as error:  # as in `open_image`
        raise UserError(f"{path}: not readable as an image: {error}") from None


def to_channels(image: Pixels, channels: int) -> Pixels:
    """Turn (H, W, 1 or 3) into (H, W, channels): RGB to grey by ITU-R BT.601 weights, grey to RGB by repetition."""
    if image.shape[2] == channels:
        return image
    if channels == 1:
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None].astype(np.uint8)
    return np.repeat(image, channels, axis=2)


def write_png(path: Path, image: Pixels) -> None:
    """Write (H, W) grey, (H, W, 1) grey or (H, W, 3) RGB uint8 as PNG; the bytes depend on the pixels alone."""
    with atomic_file(path) as partial:
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 and image.ndim == 3 else image).save(
            partial, format="PNG"
        )


def open_image(path: Path, is_mask: bool = False) -> Image.Image:
    """Open and check an image or mask file, and apply its EXIF rotation. Raises `UserError` that names the file."""
    if not path.is_file():  # a pipe might never end
        raise UserError(f"{path}: {'no plain file' if path.exists() else 'no such file'}")
    try:
        with Image.open(path, formats=FORMATS) as image:
            _refuse_size(image, path)
            frames = getattr(image, "n_frames", 1)
            fault = _misread(image, is_mask)
            negative = image.mode in _DEEP_MODES and _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO
            image.load()
            upright = ImageOps.exif_transpose(image)
    except UserError:
        raise
    except Exception as error:  # on damaged files Pillow raises nearly anything: SyntaxError, struct.error ...
        raise UserError(f"{path}: not readable as an image: {error}") from None
    if fault or frames > 1:
        raise UserError(f"{path}: {fault or f'holds {frames} images; give one file for each'}")
    if negative:  # Pillow inverts 8-bit images alone
        return Image.fromarray((65535 - np.asarray(upright).astype(np.int32)).astype(np.int32))
    return upright


def _refuse_size(image: Image.Image, path: Path) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise UserError(
            f"{path}: {image.width}x{image.height} pixels, more than {MAX_PIXELS} in all; cut it into several"
        )


def _tag(image: Image.Image, number: int) -> Any:
    """The value of a TIFF tag, the first of several; None where there is none or the file is no TIFF."""
    value = image.tag_v2.get(number) if isinstance(image, TiffImagePlugin.TiffImageFile) else None
    return value[0] if isinstance(value, tuple) else value


def _misread(image: ImageFile.ImageFile, is_mask: bool) -> str:
    """What Pillow would silently read wrong; empty where it reads the file right."""
    deep = _is_deep_colour(image)
    if deep and is_mask:
        return "16-bit colours or alpha are not read in a mask, small values would vanish; convert it to 8 bits"
    if deep and _tag(image, _PLANES) == _SEPARATE_PLANES:
        return "16-bit colours in separate planes are not read; convert it to 8 bits, or to interleaved colours"
    if image.mode == "L" and _tag(image, _SAMPLE_FORMAT) == _SIGNED:
        return "signed 8-bit values are not read; convert it to unsigned ones"
    return ""


def _is_deep_colour(image: ImageFile.ImageFile) -> bool:
    """Whether an image that is not loaded yet has more than 8 bits per colour, of which Pillow keeps the higher 8."""
    if image.mode in _DEEP_MODES or image.mode == "F":
        return False
    if image.format == "PPM":  # where this is the largest value, not the depth
        return any(isinstance(part.args, tuple) and part.args[-1] > 255 for part in image.tile)
    return (_tag(image, _BITS) or 0) > 8 or any(";16" in str(part.args) for part in image.tile)


def pixel_values(image: Image.Image, path: Path) -> NDArray[np.integer[Any]]:
    """(H, W) grey or (H, W, 3) RGB; uint16 where the file holds integers of more than 8 bits, else uint8."""
    if image.mode == "F":
        raise UserError(f"{path}: floating-point images are not read; convert it to 8 or 16 bits")
    if image.mode in _DEEP_MODES:
        return _as_16_bit(np.asarray(image), path)
    # A copy: libraries behind (the CRF) refuse Pillow's own memory, which is read-only.
    values: Pixels = np.array(image.convert("L" if image.mode in _GREY_MODES else "RGB"))
    return values


def _as_16_bit(values: NDArray[np.integer[Any]], path: Path) -> NDArray[np.uint16]:
    if values.min() < 0 or values.max() > 65535:
        raise UserError(f"{path}: values outside 0..65535; convert it to 8 or 16 bits")
    return values.astype(np.uint16)


def size_text(pixels: Pixels) -> str:
    """Width and height of (H, W, ...), as messages give them: `640x480`."""
    return f"{pixels.shape[1]}x{pixels.shape[0]}"
