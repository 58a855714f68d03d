"""Files bent out of shape, the same bytes each time: images, masks, archives, and what must become of each."""

import bz2
import gzip
import io
import lzma
import pickle
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from medseg.data.image_io import Pixels

HEIGHT, WIDTH = 12, 16  # of every image that has no reason to be larger
RNG = np.random.default_rng(0)
COLOURS: Pixels = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
GREY: Pixels = COLOURS[..., 0]
DEEP = RNG.integers(0, 65536, (HEIGHT, WIDTH, 3), np.uint16)
UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {  # by the value of the EXIF orientation
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda image: np.rot90(image),
}


@dataclass(frozen=True)
class Bent:
    """A file, and either what it shows or what the message that refuses it says."""

    name: str
    content: bytes
    right: NDArray[Any] | None = None
    told: str = ""
    tolerance: int = 0  # of 255, where two decoders of one lossy format may differ


def encoded(image: Image.Image | NDArray[Any], kind: str, **options: Any) -> bytes:
    """`image` as Pillow writes it."""
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind, **options)
    return stream.getvalue()


def tif(values: NDArray[Any], **options: Any) -> bytes:
    """A TIFF file as tifffile writes it, which knows more kinds than Pillow."""
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, metadata=None, **options)
    return stream.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG file from its parts; `rows` are uncompressed, each led by its filter (PNG specification, section 9)."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def chunk(kind: bytes, content: bytes) -> bytes:
    """One chunk of a PNG file with its checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def paletted(indices: NDArray[Any], *colours: tuple[int, int, int]) -> Image.Image:
    """A palette image of indices (H, W)."""
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette([value for colour in colours for value in colour])
    return image


def by_opencv(content: bytes) -> NDArray[Any]:
    """RGB (H, W, 3) as OpenCV reads it, no EXIF data heeded."""
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image: Any = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    return np.asarray(image[..., ::-1])


def eighth(values: NDArray[Any]) -> Pixels:
    """16 bits to the nearest of 8, in floating point as no reader does it."""
    nearest: Pixels = np.floor(values.astype(np.float64) / 257 + 0.5).astype(np.uint8)
    return nearest


def images() -> dict[str, Bent]:
    """Images of every kind, what each shows, and what is none."""
    return _whole() | _turned() | _of_odd_sizes() | _refused()


def _whole() -> dict[str, Bent]:
    quantized = Image.fromarray(COLOURS).quantize(16)
    with_alpha = np.dstack([COLOURS, GREY])
    palette = DEEP.reshape(-1, 3)[:16].T.copy()
    indices = (GREY % 16).astype(np.uint8)
    table = np.zeros((3, 256), np.uint16)
    table[:, :16] = palette
    two_bits = np.array([[0, 85, 170, 255]], np.uint8)
    white_is_0: dict[str, Any] = {"photometric": "miniswhite"}
    rgb: dict[str, Any] = {"photometric": "rgb"}
    planes: dict[str, Any] = {**rgb, "planarconfig": "separate"}
    files: dict[str, tuple[str, bytes, NDArray[Any]]] = {
        "png, grey": ("a.png", encoded(GREY, "PNG"), GREY),
        "png, colours": ("a.png", encoded(COLOURS, "PNG"), COLOURS),
        "png, alpha": ("a.png", encoded(with_alpha, "PNG"), COLOURS),
        "png, grey and alpha": ("a.png", encoded(np.dstack([GREY, GREY]), "PNG"), GREY),
        "png, palette": ("a.png", encoded(quantized, "PNG"), np.asarray(quantized.convert("RGB"))),
        "png, palette with a transparent colour": (
            "a.png",
            encoded(quantized, "PNG", transparency=0),
            np.asarray(quantized.convert("RGB")),
        ),
        "png, 1 bit": ("a.png", encoded(GREY > 127, "PNG"), (GREY > 127) * np.uint8(255)),
        "png, 2 bits": ("a.png", png(4, 1, 2, 0, b"\0" + bytes([0b00011011])), two_bits),
        "png, 4 bits": ("a.png", png(2, 1, 4, 0, b"\0" + bytes([0x3F])), np.array([[51, 255]], np.uint8)),
        "png, 16 bits": ("a.png", encoded(DEEP[..., 0], "PNG"), eighth(DEEP[..., 0])),
        "png, 16-bit colours": ("a.png", _opencv_png(DEEP), DEEP >> 8),
        "png called jpg": ("a.jpg", encoded(COLOURS, "PNG"), COLOURS),
        "png called tif": ("a.tif", encoded(GREY, "PNG"), GREY),
        "tif called png": ("a.png", encoded(COLOURS, "TIFF"), COLOURS),
        "tif, lzw": ("a.tif", encoded(COLOURS, "TIFF", compression="tiff_lzw"), COLOURS),
        "tif, deflate": ("a.tif", encoded(COLOURS, "TIFF", compression="tiff_adobe_deflate"), COLOURS),
        "tif, packbits": ("a.tif", encoded(COLOURS, "TIFF", compression="packbits"), COLOURS),
        "tif, fax": ("a.tif", encoded(GREY > 127, "TIFF", compression="group4"), (GREY > 127) * np.uint8(255)),
        "tif, big endian": ("a.tif", tif(COLOURS, byteorder=">", **rgb), COLOURS),
        "tif, BigTIFF": ("a.tif", tif(COLOURS, bigtiff=True, **rgb), COLOURS),
        "tif, tiles": ("a.tif", tif(COLOURS, tile=(16, 16), **rgb), COLOURS),
        "tif, planes": ("a.tif", tif(COLOURS.transpose(2, 0, 1), **planes), COLOURS),
        "tif, predictor": ("a.tif", tif(COLOURS, compression="zlib", predictor=True, **rgb), COLOURS),
        "tif, 16 bits": ("a.tif", tif(DEEP[..., 0]), eighth(DEEP[..., 0])),
        "tif, 16 bits, big endian": ("a.tif", tif(DEEP[..., 0], byteorder=">"), eighth(DEEP[..., 0])),
        "tif, 16 bits, deflate": ("a.tif", tif(DEEP[..., 0], compression="zlib"), eighth(DEEP[..., 0])),
        "tif, 16-bit colours": ("a.tif", tif(DEEP, **rgb), DEEP >> 8),
        "tif, 32 bits up to 65535": ("a.tif", tif(DEEP[..., 0].astype(np.uint32)), eighth(DEEP[..., 0])),
        "tif, 0 is white": ("a.tif", tif(GREY, **white_is_0), 255 - GREY),
        "tif, 0 is white, 16 bits": ("a.tif", tif(DEEP[..., 0], **white_is_0), eighth(65535 - DEEP[..., 0])),
        "tif, palette": (
            "a.tif",
            tif(indices, photometric="palette", colormap=table),
            (table.T[indices] >> 8).astype(np.uint8),
        ),
        "tif, CMYK": (
            "a.tif",
            encoded(Image.new("RGB", (3, 2), (255, 0, 9)).convert("CMYK"), "TIFF"),
            _flat(255, 0, 9),
        ),
        "bmp": ("a.bmp", encoded(COLOURS, "BMP"), COLOURS),
        "bmp, grey": ("a.bmp", encoded(GREY, "BMP"), GREY),
        "bmp, 1 bit": ("a.bmp", encoded(GREY > 127, "BMP"), (GREY > 127) * np.uint8(255)),
        "webp": ("a.webp", encoded(COLOURS, "WEBP", lossless=True), COLOURS),
        "gif": ("a.gif", encoded(quantized, "GIF"), np.asarray(quantized.convert("RGB"))),
        "pgm": ("a.pgm", encoded(GREY, "PPM"), GREY),
        "pgm, 16 bits": ("a.pgm", b"P5 2 1 65535\n" + struct.pack(">HH", 257, 65535), np.array([[1, 255]], np.uint8)),
        "ppm": ("a.ppm", encoded(COLOURS, "PPM"), COLOURS),
    }
    lossy = {
        "jpg": encoded(COLOURS, "JPEG"),
        "jpg, progressive": encoded(COLOURS, "JPEG", progressive=True),
        "jpg, CMYK": encoded(Image.fromarray(COLOURS).convert("CMYK"), "JPEG"),
        "jpg, one image called many": encoded(COLOURS, "MPO"),
        "webp, lossy": encoded(COLOURS, "WEBP"),
    }
    return {what: Bent(name, content, right) for what, (name, content, right) in files.items()} | {
        what: Bent(f"a.{what.split(',')[0]}", content, by_opencv(content), tolerance=3)
        for what, content in lossy.items()
    }


def _turned() -> dict[str, Bent]:
    """As cameras write them: EXIF data that say how to turn an image."""
    found: dict[str, Bent] = {}
    for value, turn in UPRIGHT.items():
        exif = Image.Exif()
        exif[0x0112] = value
        jpeg = encoded(COLOURS, "JPEG", exif=exif)
        found[f"jpg, orientation {value}"] = Bent("a.jpg", jpeg, turn(by_opencv(jpeg)), tolerance=3)
    in_tif = tif(COLOURS, photometric="rgb", extratags=[(0x0112, "H", 1, 8, True)])
    lossless = encoded(COLOURS, "WEBP", lossless=True, exif=exif)
    return found | {
        "png, orientation 8": Bent("a.png", encoded(COLOURS, "PNG", exif=exif), UPRIGHT[8](COLOURS)),
        "tif, orientation 8": Bent("a.tif", in_tif, UPRIGHT[8](COLOURS)),
        "webp, orientation 8": Bent("a.webp", lossless, UPRIGHT[8](COLOURS)),
    }


def _of_odd_sizes() -> dict[str, Bent]:
    shapes = {"1x1": (1, 1), "1 wide": (2000, 1), "1 high": (1, 20000), "7x3": (3, 7), "100 high": (100, 3)}
    images = {what: np.resize(GREY, shape) for what, shape in shapes.items()}
    return {f"png, {what}": Bent("a.png", encoded(image, "PNG"), image) for what, image in images.items()}


def _refused() -> dict[str, Bent]:
    floats = GREY.astype(np.float32)
    holed = floats.copy()
    holed[0, 0] = np.nan
    broken_text = struct.pack(">I", 4) + b"tEXt" + b"ab\0c" + b"0000"
    text_bomb = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(4 << 20)))
    planes: dict[str, Any] = {"photometric": "rgb", "planarconfig": "separate"}
    no_image = "not readable as an image"
    files: dict[str, tuple[str, bytes, str]] = {
        "no byte": ("a.png", b"", no_image),
        "zeros": ("a.png", bytes(1000), no_image),
        "text": ("a.png", b"not an image", no_image),
        "a web page": ("a.jpg", b"<!DOCTYPE html><html>sign in</html>", no_image),
        "a zip archive": ("a.png", zipped({"a.png": encoded(GREY, "PNG")}), no_image),
        "a pickle": ("a.png", pickle.dumps(GREY), no_image),
        "PostScript, which would start a program": ("a.png", encoded(COLOURS, "EPS"), no_image),
        "PDF": ("a.png", encoded(COLOURS, "PDF"), no_image),
        "JPEG 2000": ("a.png", encoded(COLOURS, "JPEG2000"), no_image),
        "DDS": ("a.png", encoded(COLOURS, "DDS"), no_image),
        "png, no pixel": ("a.png", png(0, 0, 8, 2, b"\0"), no_image),
        "png, says 50000x50000": ("a.png", png(50000, 50000, 8, 2, b"\0"), "exceeds limit"),
        "png, says 9000x9000": ("a.png", png(9000, 9000, 8, 2, b"\0"), "9000x9000 pixels, more than 67108864"),
        "png, says 8000x8000": ("a.png", png(8000, 8000, 8, 2, b"\0"), no_image),
        "png, 9000x9000 of one colour": ("a.png", png(9000, 9000, 8, 0, bytes(9001 * 9000)), "9000x9000 pixels"),
        "png, a wrong checksum": ("a.png", encoded(GREY, "PNG").replace(b"IDAT", b"IDAT\1", 1), no_image),
        "png, a broken text": ("a.png", png(1, 1, 8, 0, b"\0\0", broken_text), no_image),
        "png, a text that unpacks to 4 MB": ("a.png", png(1, 1, 8, 0, b"\0\0", text_bomb), no_image),
        "png, animated": ("a.png", _two(GREY, "PNG"), "holds 2 images"),
        "gif, animated": ("a.gif", _two(GREY, "GIF"), "holds 2 images"),
        "webp, animated": ("a.webp", _two(GREY, "WEBP"), "holds 2 images"),
        "jpg, two images": ("a.jpg", _two(COLOURS, "MPO"), "holds 2 images"),
        "tif, two pages": ("a.tif", _two(GREY, "TIFF"), "holds 2 images"),
        "tif, float": ("a.tif", tif(floats), "floating-point"),
        "tif, NaN": ("a.tif", tif(holed), "floating-point"),
        "tif, float16": ("a.tif", tif(floats.astype(np.float16)), no_image),
        "tif, float64": ("a.tif", tif(floats.astype(np.float64)), no_image),
        "tif, complex": ("a.tif", tif(floats.astype(np.complex64)), no_image),
        "tif, 64 bits": ("a.tif", tif(GREY.astype(np.uint64)), no_image),
        "tif, signed 8 bits": ("a.tif", tif(GREY.astype(np.int8)), "signed 8-bit values"),
        "tif, below 0": ("a.tif", tif(GREY.astype(np.int16) - 300), "values outside 0..65535"),
        "tif, above 65535": ("a.tif", tif(GREY.astype(np.int32) + 65400), "values outside 0..65535"),
        "tif, 8 bits in 16": ("a.tif", tif(GREY.astype(np.uint16)), "so 8 bits would keep next to nothing"),
        "tif, 16-bit planes": ("a.tif", tif(DEEP.transpose(2, 0, 1), **planes), "16-bit colours in separate planes"),
        "tif, two channels": (
            "a.tif",
            tif(COLOURS[..., :2].transpose(2, 0, 1), planarconfig="separate", photometric="minisblack"),
            no_image,
        ),
        "pfm": ("a.ppm", b"Pf 1 1 -1.0\n" + struct.pack("<f", 0.5), "floating-point"),
    }
    return {what: Bent(name, content, told=told) for what, (name, content, told) in files.items()}


def _two(image: Pixels, kind: str) -> bytes:
    """A file that holds two images."""
    return encoded(Image.fromarray(image), kind, save_all=True, append_images=[Image.fromarray(255 - image)])


def _opencv_png(values: NDArray[Any]) -> bytes:
    return cv2.imencode(".png", values[..., ::-1])[1].tobytes()


def _flat(*colour: int) -> Pixels:
    return np.full((2, 3, 3), colour, np.uint8)


def cuttable() -> dict[str, bytes]:
    """Whole images of every format, small enough to be cut at each of their bytes."""
    small, grey = COLOURS[:5, :7], GREY[:5, :7]
    return {
        "png": encoded(small, "PNG"),
        "png, several chunks": _in_chunks(encoded(small, "PNG"), 20),
        "png, palette": encoded(Image.fromarray(small).quantize(4), "PNG"),
        "png, 16 bits": encoded(DEEP[:5, :7, 0], "PNG"),
        "jpg": encoded(small, "JPEG"),
        "jpg, progressive": encoded(grey, "JPEG", progressive=True),
        "jpg, restarts": encoded(np.kron(grey, np.ones((8, 8), np.uint8)), "JPEG", restart_marker_blocks=1),
        "tif": encoded(small, "TIFF"),
        "tif, lzw": encoded(small, "TIFF", compression="tiff_lzw"),
        "tif, deflate": encoded(small, "TIFF", compression="tiff_adobe_deflate"),
        "tif, packbits": encoded(small, "TIFF", compression="packbits"),
        "tif, jpeg": encoded(grey, "TIFF", compression="jpeg"),
        "tif, tiles": tif(small, tile=(16, 16), photometric="rgb", compression="zlib"),
        "bmp": encoded(small, "BMP"),
        "webp": encoded(small, "WEBP", lossless=True),
        "webp, lossy": encoded(small, "WEBP"),
        "gif": encoded(Image.fromarray(small).quantize(4), "GIF"),
        "pgm": encoded(grey, "PPM"),
    }


def _in_chunks(whole: bytes, size: int) -> bytes:
    """The same PNG file with its pixels in several IDAT chunks."""
    place = whole.index(b"IDAT") - 4
    (length,) = struct.unpack(">I", whole[place : place + 4])
    pixels = whole[place + 8 : place + 8 + length]
    parts = [chunk(b"IDAT", pixels[first : first + size]) for first in range(0, length, size)]
    return whole[:place] + b"".join(parts) + whole[place + 12 + length :]


LESION: Pixels = np.zeros((HEIGHT, WIDTH), np.uint8)  # a mask: 5x6 pixels of foreground, not in the middle
LESION[2:7, 4:10] = 1


def masks() -> dict[str, Bent]:
    """Masks of every kind for an image of `HEIGHT` x `WIDTH`: `right` is 0 and 1."""
    return _right_masks() | _refused_masks()


def _right_masks() -> dict[str, Bent]:
    shown = LESION * np.uint8(255)
    alpha = np.full_like(LESION, 255)
    colour = LESION[..., None] * np.array([192, 0, 64], np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = encoded(UPRIGHT[3](shown), "PNG", exif=exif)
    files: dict[str, tuple[str, bytes]] = {
        "0 and 255": ("m.png", encoded(shown, "PNG")),
        "0 and 1": ("m.png", encoded(LESION, "PNG")),
        "0 and 7": ("m.png", encoded(LESION * np.uint8(7), "PNG")),
        "1 bit": ("m.png", encoded(LESION > 0, "PNG")),
        "1 bit, fax": ("m.tif", encoded(LESION > 0, "TIFF", compression="group4")),
        "16 bits, 0 and 1": ("m.png", encoded(LESION.astype(np.uint16), "PNG")),
        "16 bits, 0 and 65535": ("m.tif", tif(LESION.astype(np.uint16) * np.uint16(65535))),
        "32 bits, 0 and 1": ("m.tif", tif(LESION.astype(np.int32))),
        "white, as colours": ("m.png", encoded(np.dstack([shown] * 3), "PNG")),
        "one colour": ("m.png", encoded(colour, "PNG")),
        "the faintest blue": ("m.png", encoded(np.dstack([LESION * np.uint8(0)] * 2 + [LESION]), "PNG")),
        "opaque alpha": ("m.png", encoded(np.dstack([shown] * 3 + [alpha]), "PNG")),
        "transparent alpha": ("m.png", encoded(np.dstack([shown] * 3 + [alpha * 0]), "PNG")),
        "alpha as the mask": ("m.png", encoded(np.dstack([shown] * 3 + [shown]), "PNG")),
        "palette": ("m.png", encoded(paletted(LESION, (0, 0, 0), (128, 64, 0)), "PNG")),
        "palette, foreground first": ("m.png", encoded(paletted(1 - LESION, (255, 255, 255), (0, 0, 0)), "PNG")),
        "gif": ("m.gif", encoded(Image.fromarray(shown), "GIF")),
        "bmp": ("m.bmp", encoded(shown, "BMP")),
        "0 is white": ("m.tif", tif((1 - LESION) * np.uint8(255), photometric="miniswhite")),
        "0 is white, 16 bits": ("m.tif", tif((1 - LESION).astype(np.uint16) * 65535, photometric="miniswhite")),
        "turned by EXIF": ("m.png", turned),
    }
    whole = {
        "all black": Bent("m.png", encoded(LESION * np.uint8(0), "PNG"), LESION * np.uint8(0)),
        "all white": Bent("m.png", encoded(alpha, "PNG"), LESION * np.uint8(0) + np.uint8(1)),
        "inverted": Bent("m.png", encoded(255 - shown, "PNG"), 1 - LESION),
    }
    return {what: Bent(name, content, LESION) for what, (name, content) in files.items()} | whole


def _refused_masks() -> dict[str, Bent]:
    shown = LESION * np.uint8(255)
    two = LESION.copy()
    two[8:10, 2:4] = 2
    colours = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    colours[LESION > 0] = (255, 0, 0)
    colours[8:10, 2:4] = (0, 255, 0)
    black, white = np.zeros_like(LESION), np.full_like(LESION, 255)
    deep = LESION.astype(np.uint16)
    deep_colours = np.dstack([deep] * 3)
    larger = np.zeros((HEIGHT + 1, WIDTH), np.uint8)
    values = "different values; a mask holds 0"
    files: dict[str, tuple[str, bytes, str]] = {
        "0 to N": ("m.png", encoded(two, "PNG"), f"3 {values}"),
        "grades": ("m.png", encoded(GREY, "PNG"), values),
        "two colours": ("m.png", encoded(colours, "PNG"), f"3 {values}"),
        "palette of two classes": (
            "m.png",
            encoded(paletted(two, (0, 0, 0), (9, 0, 0), (0, 9, 0)), "PNG"),
            f"3 {values}",
        ),
        "palette all black": ("m.png", encoded(paletted(LESION, (0, 0, 0), (0, 0, 0)), "PNG"), "its palette indices"),
        "jpg": ("m.jpg", encoded(shown, "JPEG"), values),
        "shrunk with interpolation": ("m.png", encoded(cv2.GaussianBlur(shown, (3, 3), 1), "PNG"), values),
        "black, drawn in alpha": ("m.png", encoded(np.dstack([black] * 3 + [shown]), "PNG"), "its alpha channel shows"),
        "white, drawn in alpha": ("m.png", encoded(np.dstack([white] * 3 + [shown]), "PNG"), "its alpha channel shows"),
        "grey, drawn in alpha": ("m.png", encoded(np.dstack([black, shown]), "PNG"), "its alpha channel shows"),
        "16-bit colours": ("m.png", _opencv_png(deep_colours), "16-bit colours or alpha are not read in a mask"),
        "16-bit colours, tif": ("m.tif", tif(deep_colours, photometric="rgb"), "16-bit colours or alpha"),
        "16-bit colours, ppm": ("m.ppm", b"P6 16 12 65535\n" + deep_colours.astype(">u2").tobytes(), "16-bit colours"),
        "larger": ("m.png", encoded(larger, "PNG"), f"measures {WIDTH}x{HEIGHT + 1}, the image {WIDTH}x{HEIGHT}"),
        "on its side": ("m.png", encoded(shown.T.copy(), "PNG"), f"measures {HEIGHT}x{WIDTH}"),
        "float": ("m.tif", tif(LESION.astype(np.float32)), "floating-point"),
        "two pages": (
            "m.tif",
            _two(shown, "TIFF"),
            "holds 2 images",
        ),
        "cut off": ("m.png", encoded(shown, "PNG")[:60], "not readable as an image"),
        "no byte": ("m.png", b"", "not readable as an image"),
        "text": ("m.png", b"0 0 0 1 1 1", "not readable as an image"),
    }
    return {what: Bent(name, content, told=told) for what, (name, content, told) in files.items()}


MEMBERS = {"Images/a_benign1_ccd.tif": b"image", "Masks/a_benign1.tif": b"mask"}


@dataclass(frozen=True)
class BentArchive:
    """An archive, and either the files that it holds or what the message that refuses it says."""

    content: bytes
    right: dict[str, bytes] | None = None
    told: str = ""


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED, kind: int = 0) -> bytes:
    """A zip archive, always of the same date; `kind` are the file type bits of its members."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (kind | 0o644) << 16
            archive.writestr(info, content, method)
    return stream.getvalue()


def tarred(members: dict[str, bytes], kind: bytes = tarfile.REGTYPE, said: int | None = None) -> bytes:
    """A tar archive; `said` is the size that its headers tell where it is not the content's."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(content), kind, "Images/a_benign1_ccd.tif"
            if said is None:
                archive.addfile(info, io.BytesIO(content) if kind == tarfile.REGTYPE else None)
            else:
                info.size = said
                stream.write(info.tobuf(tarfile.GNU_FORMAT) + content)
    return stream.getvalue()


def archives() -> dict[str, BentArchive]:
    """Archives of every kind; those that are right hold `MEMBERS`."""
    whole = {
        "zip": zipped(MEMBERS),
        "zip, stored": zipped(MEMBERS, zipfile.ZIP_STORED),
        "zip, bzip2": zipped(MEMBERS, zipfile.ZIP_BZIP2),
        "zip, lzma": zipped(MEMBERS, zipfile.ZIP_LZMA),
        "tar": tarred(MEMBERS),
        "tar.gz": gzip.compress(tarred(MEMBERS), mtime=0),
        "tar.bz2": bz2.compress(tarred(MEMBERS)),
        "tar.xz": lzma.compress(tarred(MEMBERS)),
    }
    many = {f"Images/{number}": b"" for number in range(10_000)}
    found = {what: BentArchive(content, MEMBERS) for what, content in whole.items()}
    found["zip, 10000 entries"] = BentArchive(zipped(many, zipfile.ZIP_STORED), many)
    return found | _escaping() | _refused_archives()


def _escaping() -> dict[str, BentArchive]:
    found = {}
    found["tar, ../evil"] = BentArchive(tarred({"../evil": b"x"}), told="outside the destination")
    for name in ("/evil", "../evil", "\\\\evil"):
        found[f"zip, {name}"] = BentArchive(zipped({name: b"x"}), {"evil": b"x"})
    link = "is a link or a device"
    for what, kind in {
        "symbolic link": tarfile.SYMTYPE,
        "device": tarfile.CHRTYPE,
    }.items():
        found[f"tar, {what}"] = BentArchive(tarred({"Images/a": b""}, kind), told=link)
    found["zip, symbolic link"] = BentArchive(zipped({"Images/a": b"/etc/passwd"}, kind=stat.S_IFLNK), told=link)
    return found


def _refused_archives() -> dict[str, BentArchive]:
    damaged = "damaged, or no archive that can be read"
    whole = zipped(MEMBERS)
    table = whole.index(b"PK\x01\x02")
    encrypted, nameless, lost = bytearray(whole), bytearray(whole), bytearray(whole)
    encrypted[6] |= 1
    encrypted[table + 8] |= 1
    nameless[table + 28 : table + 30] = bytes(2)
    lost[table + 32] = 46 + len("Masks/a_benign1.tif")  # the length of the first comment: it takes the second entry in
    wrong_byte = bytearray(gzip.compress(tarred({"a": bytes(range(256))}), 0, mtime=0))
    wrong_byte[600] ^= 1
    twice = io.BytesIO()
    with tarfile.open(fileobj=twice, mode="w") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("a"))
    long_name = tarred({"L": bytes(1 << 20)}, tarfile.GNUTYPE_LONGNAME, said=3 << 30)
    contents = {
        "nothing": (b"", damaged),
        "text": (b"<html>404</html>", damaged),
        "one byte": (b"P", damaged),
        "zip, encrypted": (bytes(encrypted), "encrypted"),
        "zip, a member without a name": (bytes(nameless), damaged),
        "zip, a member lost in its table": (bytes(lost), damaged),
        "zip, a name that is no UTF-8": (_with_flag(zipped({"Images/\xff.tif": b""}, zipfile.ZIP_STORED)), damaged),
        "zip, a name too long": (zipped({"x" * 300: b""}), "not unpacked"),
        "zip, a file where a folder must be": (zipped({"Images": b"x", "Images/a": b"x"}), "not unpacked"),
        "zip, its own folder": (zipped({".": b"x"}), "not unpacked"),
        "tar, one name twice": (twice.getvalue(), "is there already"),
        "tar, says 8 GB": (tarred({"a": b""}, said=8 << 30), "refused: its first 1 members unpack to 8589934592"),
        "tar.gz, a name of 3 GB": (gzip.compress(long_name, mtime=0), damaged),
        "tar.gz, one bit wrong": (bytes(wrong_byte), damaged),
        "gz of text": (gzip.compress(b"text", mtime=0), damaged),
        "zip, a bomb": (zipped({"Images/zeros": bytes(8 << 20)}), "refused: its first 1 members unpack to 8388608"),
        "tar.bz2, a bomb": (bz2.compress(tarred({"zeros": bytes(8 << 20)})), "refused: its first 1 members unpack"),
        "zip, a bomb in parts": (zipped({f"{n}": bytes(1 << 20) for n in range(9)}), "refused: its first"),
    }
    return {what: BentArchive(content, told=told) for what, (content, told) in contents.items()}


def _with_flag(archive: bytes) -> bytes:
    """Says that names are UTF-8 and makes one that is not."""
    return archive.replace("\xff".encode(), b"\xff\xff")


NAMES = [  # of images; the second of two comes beside the first
    "a b.png",
    "a'b\"c.png",
    "a\nb.png",
    "a\rb.png",
    "a\tb.png",
    "äöü ß 你好 🙂.png",
    "e\u0301.png",  # é in two letters
    "a\u00a0b.png",
    "a\u2028b.png",
    "\u202egnp.png",  # right to left
    "x" * 246 + ".png",
    "é" * 123 + ".png",
    "a...png",
    "a..png",
    "-a.png",
    "--help.png",
    "a,b.png",
    "a;b.png",
    "a\\b.png",
    "%s{0}$HOME`x`.png",
    "[1]*?.png",
    " a.png",
    "a .png",
    "CON.png",
    "#a.png",
    "a.b.c.png",
    "a\udcffb.png",  # a byte that is no UTF-8
    "a|b<c>.png",
    "=1+1.png",
    "NaN.png",
    "1e5.png",
]
