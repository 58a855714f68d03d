"""One image as a source of data describes it."""

from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "val", "test"]
Value = TypeVar("Value", bound=np.generic)


@dataclass(frozen=True)
class Region:
    """A window of an image in pixels; `bottom` and `right` are exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    def __str__(self) -> str:
        """As the manifest holds it: `top:left:bottom:right`."""
        return f"{self.top}:{self.left}:{self.bottom}:{self.right}"

    @classmethod
    def parse(cls, text: str) -> "Region":
        """The inverse of `str`."""
        return cls(*(int(part) for part in text.split(":")))

    @classmethod
    def around(cls, mask: NDArray[Any]) -> "Region | None":
        """The bounding box of the pixels of (H, W) that are not zero; None where there are none."""
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        if not rows.size:
            return None
        return cls(top=int(rows[0]), left=int(columns[0]), bottom=int(rows[-1]) + 1, right=int(columns[-1]) + 1)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.bottom - self.top, self.right - self.left

    @property
    def slices(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def crop(self, pixels: NDArray[Value]) -> NDArray[Value]:
        """The part of (H, W, ...) inside the region, without a copy."""
        return pixels[self.slices]


@dataclass(frozen=True)
class Record:
    """One image with its masks, as a source's `scan` found it.

    Paths are relative to the folder that was scanned, with `/` between their parts. An image for which no mask
    was found has an empty `masks`: the manifest reports it with all other faults. `region` is the part of the image
    that is annotated: a window, the bounding box of the mask's foreground, or None for the whole image.
    """

    file: str
    masks: tuple[str, ...]
    label: str
    patient: str | None = None  # None: not known. Images of one patient get the same group
    official: Split | None = None  # in the publisher's own split
    region: Region | Literal["foreground"] | None = None
