from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.core.errors import UserError
from medseg.core.params import validate
from medseg.data.geometry import (
    Geometry,
    Resize,
    Scale,
    fit,
    fit_mask,
    fitted_size,
    unfit,
)
from medseg.data.image_io import Pixels

SIDES = st.integers(1, 300)


def resize(height: int, width: int, aspect: Any = "squash", channels: Any = 1) -> Resize:
    return Resize(name="resize", channels=channels, height=height, width=width, aspect=aspect, small_objects="drop")


def scale(factor: float, channels: Any = 1) -> Scale:
    return Scale(name="scale", channels=channels, factor=factor, small_objects="drop")


@st.composite
def whole_geometries(draw: st.DrawFn) -> Resize | Scale:
    channels = draw(st.sampled_from([1, 3]))
    if draw(st.booleans()):
        return scale(draw(st.floats(0.05, 2)), channels)
    return resize(
        draw(st.integers(8, 128)), draw(st.integers(8, 128)), draw(st.sampled_from(["keep", "squash"])), channels
    )


def smooth(height: int, width: int) -> Pixels:
    """An image without fine structure, (H, W, 1)."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = np.sin(2 * np.pi * rows / height) + np.cos(2 * np.pi * columns / width)
    grey: Pixels = (127 + 60 * waves).astype(np.uint8)
    return grey[..., None]


def test_sizes_by_hand() -> None:
    assert fitted_size(100, 200, resize(64, 64)) == (64, 64)
    assert fitted_size(100, 200, resize(64, 64, "keep")) == (32, 64)
    assert fitted_size(200, 100, resize(64, 128, "keep")) == (64, 32)
    assert fitted_size(512, 510, scale(0.5)) == (256, 255)
    assert fitted_size(1, 1000, resize(64, 64, "keep")) == (1, 64)


def test_an_image_that_would_be_scaled_beyond_all_memory_is_refused() -> None:
    with pytest.raises(UserError, match=r"prepare\.factor = 8\.0: makes 16000x8000 pixels of an image of 2000x1000"):
        fit(np.zeros((1000, 2000, 1), np.uint8), scale(8.0))
    assert fit(np.zeros((3, 5, 1), np.uint8), scale(1e-9)).shape == (1, 1, 1)


@given(height=SIDES, width=SIDES, geometry=whole_geometries(), channels=st.sampled_from([1, 3]))
@settings(max_examples=25)
def test_fitted_images_and_masks_have_the_size_that_was_asked_for(
    height: int, width: int, geometry: Resize | Scale, channels: int
) -> None:
    image = np.full((height, width, channels), 200, np.uint8)
    fitted, mask = fit(image, geometry), fit_mask(np.ones((height, width), np.uint8), geometry)
    inner = fitted_size(height, width, geometry)
    frame = inner if isinstance(geometry, Scale) else (geometry.height, geometry.width)
    assert fitted.shape == (*frame, geometry.channels)
    assert fitted.dtype == np.uint8
    assert mask.shape == frame
    assert mask.dtype == np.uint8
    assert (fitted[: inner[0], : inner[1]] == 200).all()
    assert mask[: inner[0], : inner[1]].all()
    assert fitted.sum(dtype=np.int64) == 200 * inner[0] * inner[1] * geometry.channels
    assert mask.sum() == inner[0] * inner[1]


@given(height=st.integers(40, 200), width=st.integers(40, 200), geometry=whole_geometries())
@settings(max_examples=25)
def test_unfitting_brings_an_image_back_to_its_size(height: int, width: int, geometry: Resize | Scale) -> None:
    planes = np.stack([np.full(fitted_size(height, width, geometry), value, np.float32) for value in (0.25, 0.75)])
    padded = np.pad(planes, [(0, 0), (0, 9), (0, 9)], constant_values=9)  # padding must not leak in
    back = unfit(padded, height, width, geometry)
    assert back.shape == (2, height, width)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back[0], 0.25, rtol=1e-6)
    np.testing.assert_allclose(back[1], 0.75, rtol=1e-6)


@pytest.mark.parametrize("geometry", [resize(96, 96), resize(96, 96, "keep"), resize(200, 160), scale(0.5), scale(1.7)])
def test_a_smooth_image_survives_fit_and_unfit(geometry: Resize | Scale) -> None:
    image = smooth(151, 200)
    fitted = fit(image, geometry)[..., 0].astype(np.float32)[None]
    back = unfit(fitted, 151, 200, geometry)[0]
    assert np.abs(back - image[..., 0]).mean() < 1.5


def test_a_pixel_of_a_shrunken_mask_is_one_where_at_least_half_was() -> None:
    mask = np.array([[1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]], np.uint8)
    assert fit_mask(mask, scale(0.5)).tolist() == [[1, 0], [1, 1]]  # shares 2/4, 1/4; 4/4, 3/4


@settings(max_examples=25)
@given(height=st.integers(1, 40), width=st.integers(1, 40), factor=st.integers(2, 9), seed=st.integers(0, 99))
def test_the_share_rule_holds_for_any_whole_factor(height: int, width: int, factor: int, seed: int) -> None:
    mask = np.random.default_rng(seed).integers(0, 2, (height * factor, width * factor), dtype=np.uint8)
    counts = mask.reshape(height, factor, width, factor).sum(axis=(1, 3))
    expected = 2 * counts >= factor * factor
    np.testing.assert_array_equal(fit_mask(mask, scale(1 / factor)), expected)


def test_an_exact_half_counts_whatever_the_rounding_of_its_average() -> None:
    """36 columns to 11: output column 5 spans 16 4/11 to 19 7/11, so columns 18 and 19 hold 1 + 7/11 of 3 3/11."""
    mask = np.zeros((36, 36), np.uint8)
    mask[:, [18, 19]] = 1
    assert fit_mask(mask, resize(11, 11))[:, 4:7].tolist() == [[0, 1, 0]] * 11


def test_a_mask_keeps_its_place_and_area_in_the_image() -> None:
    image = np.zeros((300, 200, 1), np.uint8)
    image[60:180, 40:120] = 255
    mask = (image[..., 0] > 0).astype(np.uint8)
    for geometry in (resize(128, 128), resize(128, 128, "keep"), scale(0.4)):
        fitted, fitted_mask = fit(image, geometry)[..., 0], fit_mask(mask, geometry)
        assert ((fitted >= 128) == fitted_mask).mean() > 0.995
        inner = fitted_size(300, 200, geometry)
        assert fitted_mask.sum() / (inner[0] * inner[1]) == pytest.approx(mask.mean(), rel=0.05)


def test_colour_turns_grey_and_grey_turns_to_colour() -> None:
    red = np.zeros((40, 40, 3), np.uint8)
    red[..., 0] = 255
    assert np.unique(fit(red, resize(16, 16))).tolist() == [76]
    assert fit(np.full((40, 40, 1), 9, np.uint8), resize(16, 16, channels=3)).tolist() == [[[9] * 3] * 16] * 16


def test_a_stride_that_would_leave_gaps_is_refused() -> None:
    value = {"name": "patchify", "channels": 1, "patch": 16, "stride": 17, "border": "pad"}
    with pytest.raises(UserError, match=r"^prepare = 'patchify': stride 17 must be at most patch 16"):
        validate(value, Geometry, "prepare")
    assert validate({**value, "stride": 16}, Geometry, "prepare").stride == 16
