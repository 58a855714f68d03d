"""How an image of any size becomes arrays of the network's size: resized whole, scaled, or cut into patches."""

from typing import Annotated, Any, Literal, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from medseg.core.params import Section
from medseg.data.image_io import Pixels, to_channels
from medseg.data.patches import Border, cut, origins

Side = Annotated[int, Field(ge=8, le=8192)]  # pixels
Channels = Literal[1, 3]  # 1: grey, 3: RGB

_HALF = 0.5 - 1e-5  # averages in float32 leave some exact halves a hair below


class Resize(Section):
    """Every image to one size."""

    name: Literal["resize"]
    channels: Channels
    height: Side
    width: Side
    aspect: Literal["keep", "squash"]


class Scale(Section):
    """Every image by one factor; smaller ones are padded to the largest."""

    name: Literal["scale"]
    channels: Channels
    factor: float = Field(gt=0, le=8)


class Patchify(Section):
    """Pieces of one size at the image's own resolution."""

    name: Literal["patchify"]
    channels: Channels
    patch: Side
    stride: int = Field(ge=1, le=8192)
    border: Border

    @model_validator(mode="after")
    def _leave_no_gaps(self) -> Self:
        if self.stride > self.patch:
            raise ValueError(f"stride {self.stride} must be at most patch {self.patch}, or pixels between are lost")
        return self


Geometry = Annotated[Resize | Scale | Patchify, Field(discriminator="name")]


def sample_count(height: int, width: int, geometry: Geometry) -> int:
    """How many samples a (height, width) image gives."""
    if isinstance(geometry, Patchify):
        return len(origins(height, width, geometry.patch, geometry.stride, geometry.border))
    return 1


def fitted_size(height: int, width: int, geometry: Resize | Scale) -> tuple[int, int]:
    """The height and width in pixels that an image's content takes after resizing, without padding."""
    if isinstance(geometry, Scale):
        return _at_least_one(height * geometry.factor), _at_least_one(width * geometry.factor)
    if geometry.aspect == "squash":
        return geometry.height, geometry.width
    factor = min(geometry.height / height, geometry.width / width)
    return _at_least_one(height * factor), _at_least_one(width * factor)


def fit(image: Pixels, geometry: Resize | Scale) -> Pixels:
    """Resize (H, W, 1 or 3) uint8 to the network's size and channels; with `keep`, padded with 0 below and right."""
    size = fitted_size(image.shape[0], image.shape[1], geometry)
    resized = _resize(to_channels(image, geometry.channels), size)
    return _pad_to_frame(resized.reshape(*size, geometry.channels), geometry)


def fit_mask(mask: Pixels, geometry: Resize | Scale) -> Pixels:
    """Resize a (H, W) mask of 0 and 1 as `fit` resizes its image; a pixel is 1 where at least half of it was."""
    share = _resize(mask.astype(np.float32), fitted_size(mask.shape[0], mask.shape[1], geometry))
    return _pad_to_frame((share >= _HALF).astype(np.uint8), geometry)


def unfit(probabilities: NDArray[np.float32], height: int, width: int, geometry: Resize | Scale) -> NDArray[np.float32]:
    """The inverse of `fit` for (C, h, w) probabilities: padding cut off, resized to (C, height, width)."""
    inner_height, inner_width = fitted_size(height, width, geometry)
    planes = probabilities[:, :inner_height, :inner_width]
    return np.stack([cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) for plane in planes])


def to_samples(image: Pixels, mask: Pixels, geometry: Geometry) -> tuple[Pixels, Pixels]:
    """One image and mask to (N, h, w, C) and (N, h, w), uint8; patches stand in the order of `patches.origins`."""
    if not isinstance(geometry, Patchify):
        return fit(image, geometry)[None], fit_mask(mask, geometry)[None]
    arguments = (geometry.patch, geometry.stride, geometry.border)
    return cut(to_channels(image, geometry.channels), *arguments), cut(mask, *arguments)


def _resize(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    # Averaging over areas keeps fine structure from aliasing when an image shrinks.
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _pad_to_frame(image: Pixels, geometry: Resize | Scale) -> Pixels:
    if isinstance(geometry, Scale):
        return image
    frame = np.zeros((geometry.height, geometry.width, *image.shape[2:]), np.uint8)
    frame[: image.shape[0], : image.shape[1]] = image
    return frame


def _at_least_one(length: float) -> int:
    return max(1, round(length))
