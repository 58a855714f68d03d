import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from medseg.data.patches import Border, blending_weight, cut, origins, pad_to, padded_size

SIDES = st.integers(1, 60)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """Height, width, patch and stride; the stride leaves no gaps."""
    patch = draw(st.integers(1, 24))
    return draw(SIDES), draw(SIDES), patch, draw(st.integers(1, patch))


def numbered(height: int, width: int) -> NDArray[np.float32]:
    return np.arange(height * width, dtype=np.float32).reshape(height, width)


@pytest.mark.parametrize(("border", "count", "last"), [("drop", 400, 380), ("pad", 441, 400)])
def test_the_older_tissue_project_s_patches(border: Border, count: int, last: int) -> None:
    image = np.arange(512 * 512, dtype=np.int64).reshape(512, 512)
    corners = origins(512, 512, 128, 20, border)
    patches = cut(image, 128, 20, border)
    assert len(corners) == len(patches) == count
    assert corners[0] == (0, 0)
    assert corners[1] == (0, 20)
    assert corners[-1] == (last, last)
    assert padded_size(512, 128, 20) == 528
    for (top, left), patch in zip(corners, patches, strict=True):
        assert patch[0, 0] == image[top, left]


def test_patches_by_hand() -> None:
    image = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    assert cut(image, 2, 2, "drop").tolist() == [[[1, 2], [4, 5]]]
    assert cut(image, 2, 2, "pad").tolist() == [[[1, 2], [4, 5]], [[3, 3], [6, 6]], [[7, 8], [7, 8]], [[9, 9], [9, 9]]]


def test_an_image_smaller_than_the_patch_is_lost_or_mirrored() -> None:
    image = np.array([[1, 2, 3]])
    assert origins(1, 3, 4, 2, "drop") == []
    assert cut(image, 4, 2, "drop").shape == (0, 4, 4)
    assert cut(image.astype(np.uint8), 4, 2, "drop").dtype == np.uint8
    assert cut(image[..., None], 4, 2, "drop").shape == (0, 4, 4, 1)
    assert origins(1, 3, 4, 2, "pad") == [(0, 0)]
    assert cut(image, 4, 2, "pad").tolist() == [[[1, 2, 3, 3]] * 4]


def test_an_image_can_be_mirrored_more_than_once() -> None:
    assert pad_to(np.array([[1, 2]]), 2, 7).tolist() == [[1, 2, 2, 1, 1, 2, 2]] * 2


@given(side=SIDES, layout=layouts())
def test_the_padded_size_is_the_least_that_patches_cover(side: int, layout: tuple[int, int, int, int]) -> None:
    _, _, patch, stride = layout
    padded = padded_size(side, patch, stride)
    assert padded >= max(side, patch)
    assert (padded - patch) % stride == 0
    assert padded - stride < side or padded == patch


@given(layout=layouts(), border=st.sampled_from(["drop", "pad"]), channels=st.sampled_from([None, 1, 3]))
def test_patches_stand_in_the_order_of_their_origins(
    layout: tuple[int, int, int, int], border: Border, channels: int | None
) -> None:
    height, width, patch, stride = layout
    image = numbered(height, width)
    if channels:
        image = np.stack([image + 10_000 * channel for channel in range(channels)], axis=2)
    padded = pad_to(
        image, max(height, padded_size(height, patch, stride)), max(width, padded_size(width, patch, stride))
    )
    expected = [padded[top : top + patch, left : left + patch] for top, left in origins(*layout, border)]
    patches = cut(image, patch, stride, border)
    assert len(patches) == len(expected)
    assert patches.shape[1:] == (patch, patch, *image.shape[2:])
    assert all(np.array_equal(found, wanted) for found, wanted in zip(patches, expected, strict=True))


@given(layout=layouts())
def test_padded_patches_cover_every_pixel_and_dropping_keeps_the_inside(layout: tuple[int, int, int, int]) -> None:
    height, width, patch, stride = layout
    covered = np.zeros((height, width), bool)
    for top, left in origins(*layout, "pad"):
        covered[top : top + patch, left : left + patch] = True
    assert covered.all()
    for top, left in origins(*layout, "drop"):
        assert top + patch <= height
        assert left + patch <= width
    if min(height, width) >= patch:
        top, left = origins(*layout, "drop")[-1]
        assert height - (top + patch) < stride
        assert width - (left + patch) < stride


@given(patch=st.integers(1, 300))
@settings(max_examples=30)
def test_the_blending_weight_is_a_positive_symmetric_bell(patch: int) -> None:
    weight = blending_weight(patch)
    assert weight.shape == (patch, patch)
    assert weight.dtype == np.float32
    np.testing.assert_allclose(weight, weight[::-1, ::-1], rtol=1e-6)
    np.testing.assert_allclose(weight, weight.T, rtol=1e-6)
    assert weight.min() > 0
    assert weight[patch // 2, patch // 2] == weight.max()
    eighth = patch // 2 + patch // 8
    if patch % 8 == 1 and patch > 1:  # an odd side has a central pixel: one deviation off it lies exp(-1/2)
        assert weight[patch // 2, eighth] == pytest.approx(np.exp(-0.5 * (patch // 8 / (patch / 8)) ** 2))
