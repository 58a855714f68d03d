"""Packed arrays: the samples of one split as `images.npy`, `masks.npy`, `index.csv` and `about.yaml`.

images.npy  (N, H, W, C) uint8, C is 1 (grey) or 3 (RGB)
masks.npy   (N, H, W) uint8, 0 background, 1 foreground, 255 (`task.UNANNOTATED`) where nothing is known
index.csv   one row per sample: file, label, group, sha256, phash and patient as in the manifest, top, left (of a patch
            in its region, pixels), variant (0: original)
about.yaml  the geometry that made the samples, the range of intensities, and what preparation lost

One large file per split costs DVC's cache and the loader next to nothing, whatever the number of samples, and with
memory maps every stage works on more than fits in memory.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from medseg.core.errors import UserError
from medseg.core.files import write_text
from medseg.core.params import Section, read_yaml, validate
from medseg.data.geometry import Geometry
from medseg.data.image_io import Pixels
from medseg.data.intensity import FULL, Range

Write = Callable[[int, Pixels, Pixels], None]

_TEXT = ("file", "label", "group", "sha256", "phash", "patient")  # never numbers, though a label may look like one


class About(Section):
    """The content of `about.yaml`."""

    geometry: Geometry
    intensity: Range
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Packed:
    """The opened arrays of one split; `images` and `masks` are memory maps."""

    images: Pixels
    masks: Pixels
    index: pd.DataFrame
    geometry: Geometry
    intensity: Range = FULL
    warnings: tuple[str, ...] = ()  # what was lost on the way from the images, in words


def create_arrays(folder: Path, count: int, height: int, width: int, channels: int) -> tuple[Pixels, Pixels]:
    """Create `images.npy` and `masks.npy` of `count` samples, all 0, in `folder` and map them for writing."""
    folder.mkdir(parents=True, exist_ok=True)
    return (
        _create(folder / "images.npy", (count, height, width, channels)),
        _create(folder / "masks.npy", (count, height, width)),
    )


@contextmanager
def sample_writer(folder: Path) -> Iterator[Write]:
    """Yield `write(first, images, masks)`, which writes (n, h, w, C) and (n, h, w) from sample `first` on.

    `create_arrays` made the files. Threads, processes and machines may write at the same time, each through a writer
    of its own, as long as their samples differ. These are plain writes, because pages of a memory map would stay in
    the process's memory.
    """
    with ExitStack() as stack:
        write_images, write_masks = (_row_writer(folder / f"{name}.npy", stack) for name in ("images", "masks"))

        def write(first: int, images: Pixels, masks: Pixels) -> None:
            write_images(first, images)
            write_masks(first, masks)

        yield write


def describe_arrays(
    folder: Path, index: pd.DataFrame, geometry: Geometry, intensity: Range = FULL, warnings: Sequence[str] = ()
) -> None:
    """Write `index.csv` and `about.yaml` beside the arrays."""
    index.to_csv(folder / "index.csv", index=False, lineterminator="\n")
    about = About(geometry=geometry, intensity=intensity, warnings=tuple(warnings))
    write_text(folder / "about.yaml", yaml.safe_dump(about.model_dump(mode="json"), sort_keys=False))


def open_arrays(folder: Path) -> tuple[Pixels, Pixels]:
    """Map `images.npy` and `masks.npy` for reading. Raises `OSError`, `ValueError` or `EOFError` where that fails."""
    return _mapped(folder / "images.npy"), _mapped(folder / "masks.npy")


def open_packed(folder: Path) -> Packed:
    """Open packed arrays for reading. Raises `UserError` where a part is missing, truncated or does not fit."""
    try:
        images, masks = open_arrays(folder)
        index = pd.read_csv(folder / "index.csv", dtype=dict.fromkeys(_TEXT, str), keep_default_na=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{folder}: no complete packed arrays: {error}") from error
    if images.dtype != np.uint8 or masks.dtype != np.uint8 or images.shape[:-1] != masks.shape or images.ndim != 4:
        shapes = f"{images.dtype} {images.shape} and {masks.dtype} {masks.shape}"
        raise UserError(f"{folder}: images and masks are {shapes}, not uint8 (N, H, W, C) and (N, H, W)")
    if missing := sorted({*_TEXT, "top", "left", "variant"} - set(index)):
        raise UserError(f"{folder / 'index.csv'}: lacks the columns {', '.join(missing)}")
    if not len(images) == len(masks) == len(index):
        raise UserError(f"{folder}: {len(images)} images, {len(masks)} masks and {len(index)} index rows do not match")
    path = folder / "about.yaml"
    about: About = validate(read_yaml(path), About, str(path))
    return Packed(images, masks, index, about.geometry, about.intensity, about.warnings)


def _row_writer(path: Path, stack: ExitStack) -> Callable[[int, Pixels], None]:
    mapped = np.load(path, mmap_mode="r")  # for its header alone
    offset, row_bytes = mapped.offset, mapped.nbytes // max(1, len(mapped))
    file = stack.enter_context(path.open("r+b"))

    def write(first: int, rows: Pixels) -> None:
        file.seek(offset + first * row_bytes)
        file.write(np.ascontiguousarray(rows).data)

    return write


def _mapped(path: Path) -> Pixels:
    # Not `np.load`, which reads other kinds of files, too.
    array: Pixels = open_memmap(path, "r")
    return array


def _create(path: Path, shape: tuple[int, ...]) -> Pixels:
    array: Pixels = open_memmap(path, "w+", np.uint8, shape)
    return array


def evenly_spaced(count: int, wanted: int) -> NDArray[np.int64]:
    """Up to `wanted` distinct indices, evenly spaced over `count` items."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(np.int64))
