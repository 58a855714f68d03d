"""Which values of an image file become 0..255: a property of the device, decided once and recorded with the model."""

from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from medseg.core.params import Section

Bits = Literal[8, 16]


class Full(Section):
    """All that the file's type can hold: 0..255 as it is, 0..65535 to the nearest of 0..255."""

    name: Literal["full"]


class Window(Section):
    """`low` and what lies below become 0, `high` and what lies above 255: a device's range, or a part of it."""

    name: Literal["window"]
    bits: Bits  # of the files' values; other files are refused, since the range is none of theirs
    low: int = Field(ge=0, le=65_534)
    high: int = Field(ge=1, le=65_535)

    @model_validator(mode="after")
    def _lies_in_the_type(self) -> Self:
        if not self.low < self.high < 1 << self.bits:
            raise ValueError(f"low {self.low} must be below high {self.high}, and high below {1 << self.bits}")
        return self


class Percentiles(Section):
    """The window between two percentiles of all pixels of the training images, found by the stage prepare."""

    name: Literal["percentiles"]
    low: float = Field(ge=0, lt=100)
    high: float = Field(gt=0, le=100)

    @model_validator(mode="after")
    def _are_in_order(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self


Range = Annotated[Full | Window, Field(discriminator="name")]  # what is applied and recorded
IntensityParams = Annotated[Full | Window | Percentiles, Field(discriminator="name")]  # the section `intensity`

FULL = Full(name="full")


def to_8_bits(values: NDArray[Any], intensity: Range) -> NDArray[np.uint8]:
    """Map values of any shape, uint8 or uint16, to the nearest of 0..255; 8 bits at full range stay as they are.

    The caller checks that a window is of the values' type.
    """
    if isinstance(intensity, Full):
        if values.dtype == np.uint8:
            return values
        low, high = 0, 65535
    else:
        low, high = intensity.low, intensity.high
    inputs = np.clip(np.arange(np.iinfo(values.dtype).max + 1, dtype=np.int64), low, high)
    table = ((510 * (inputs - low) + high - low) // (2 * (high - low))).astype(np.uint8)
    mapped: NDArray[np.uint8] = table[values]
    return mapped


def in_words(intensity: Range) -> str:
    """In words, for a reader of the model."""
    if isinstance(intensity, Full):
        return "the full range of a file's type, 0..255 or 0..65535, becomes 0..255"
    return (
        f"{intensity.low}..{intensity.high} of {intensity.bits}-bit files becomes 0..255, what lies beyond is cut off"
    )
