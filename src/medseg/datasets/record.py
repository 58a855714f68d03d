"""What a data source says of one picture."""

from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Region:
    """A window of a picture in pixels; `bottom` and `right` are exclusive."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True)
class Record:
    """One picture with its masks, as a source's `scan` found it.

    Paths are relative to the folder that was scanned, with `/` between their parts. A picture for which no mask
    was found has an empty `masks`: the manifest reports it with all other faults.
    """

    file: str
    masks: tuple[str, ...]
    label: str
    patient: str | None = None  # pictures of one patient never part
    official: Split | None = None  # where the publisher put it
    region: Region | None = None  # where it is annotated; None: everywhere
