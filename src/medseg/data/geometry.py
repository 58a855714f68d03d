"""Fitting an image of any size to the network and back: resized to one size, scaled, or cut into patches."""

from typing import Annotated, Any, Literal, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from medseg.core.errors import UserError
from medseg.core.params import Section
from medseg.data.image_io import MAX_PIXELS, Pixels, size_text, to_channels
from medseg.data.patches import Border, origins

Side = Annotated[int, Field(ge=8, le=8192)]  # pixels
Channels = Literal[1, 3]  # 1: grey, 3: RGB

SmallObjects = Literal["drop", "keep"]  # of which no pixel of a sample is half full: gone, or one pixel each

_HALF = 0.5 - 1e-5  # averages in float32 may fall just below an exact half


class Resize(Section):
    """Every image to one size."""

    name: Literal["resize"]
    channels: Channels
    height: Side
    width: Side
    aspect: Literal["keep", "squash"]
    small_objects: SmallObjects


class Scale(Section):
    """Every image by one factor; samples are as large as the largest annotated region then is."""

    name: Literal["scale"]
    channels: Channels
    factor: float = Field(gt=0, le=8)
    small_objects: SmallObjects


class Patchify(Section):
    """Square patches at the image's own resolution."""

    name: Literal["patchify"]
    channels: Channels
    patch: Side
    stride: int = Field(ge=1, le=8192)
    border: Border

    @model_validator(mode="after")
    def _leave_no_gaps(self) -> Self:
        if self.stride > self.patch:
            raise ValueError(
                f"stride {self.stride} must be at most patch {self.patch}, or pixels between patches are lost"
            )
        return self


Geometry = Annotated[Resize | Scale | Patchify, Field(discriminator="name")]


def sample_count(height: int, width: int, geometry: Geometry) -> int:
    """The number of samples of a (height, width) image."""
    if isinstance(geometry, Patchify):
        return len(origins(height, width, geometry.patch, geometry.stride, geometry.border))
    return 1


def fitted_size(height: int, width: int, geometry: Resize | Scale) -> tuple[int, int]:
    """The height and width in pixels of an image after resizing, without padding."""
    if isinstance(geometry, Scale):
        return _at_least_one(height * geometry.factor), _at_least_one(width * geometry.factor)
    if geometry.aspect == "squash":
        return geometry.height, geometry.width
    factor = min(geometry.height / height, geometry.width / width)
    return _at_least_one(height * factor), _at_least_one(width * factor)


def fit(image: Pixels, geometry: Geometry) -> Pixels:
    """Turn (H, W, 1 or 3) uint8 into what the network sees, (h, w, channels) uint8.

    The only way from an image to the network: training and validation samples, evaluation and prediction all take it.
    `Resize` and `Scale` change the size; with `keep`, 0 is padded below and right. `Patchify` keeps the size, and
    patches or tiles are then cut from the result. It takes whole images: what is annotated of a new image is not known.
    Raises `UserError` where the result of `Scale` would have more than `MAX_PIXELS`.
    """
    image = to_channels(image, geometry.channels)
    if isinstance(geometry, Patchify):
        return image
    size = fitted_size(image.shape[0], image.shape[1], geometry)
    if isinstance(geometry, Scale) and size[0] * size[1] > MAX_PIXELS:
        raise UserError(
            f"prepare.factor = {geometry.factor}: makes {size[1]}x{size[0]} pixels of an image of {size_text(image)}, "
            f"more than {MAX_PIXELS} in all; lower it, or cut the image into several"
        )
    return _pad_to_frame(_resize(image, size).reshape(*size, geometry.channels), geometry)


def fit_mask(mask: Pixels, geometry: Geometry) -> Pixels:
    """Fit a mask (H, W) of 0 and 1, uint8, as `fit` its image; a pixel is 1 where at least half of it was."""
    if isinstance(geometry, Patchify):
        return mask
    share = _resize(mask.astype(np.float32), fitted_size(mask.shape[0], mask.shape[1], geometry))
    return _pad_to_frame((share >= _HALF).astype(np.uint8), geometry)


def unfit(probabilities: NDArray[np.float32], height: int, width: int, geometry: Geometry) -> NDArray[np.float32]:
    """The inverse of `fit` for probabilities (K, h, w) float32: padding cut off, resized to (K, height, width)."""
    if isinstance(geometry, Patchify):
        return probabilities
    inner_height, inner_width = fitted_size(height, width, geometry)
    planes = probabilities[:, :inner_height, :inner_width]
    return np.stack([cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) for plane in planes])


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
