"""What a data source says of one image."""

from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Region:
    """A window of an image in pixels; `bottom` and `right` are exclusive."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True)
class Record:
    """One image with its masks, as a source's `scan` found it.

    Paths are relative to the folder that was scanned, with `/` between their parts. An image for which no mask
    was found has an empty `masks`: the manifest reports it with all other faults.
    """

    file: str
    masks: tuple[str, ...]
    label: str
    patient: str | None = None  # images of one patient never part
    official: Split | None = None  # where the publisher put it
    region: Region | None = None  # where it is annotated; None: everywhere
