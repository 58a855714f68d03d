from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.color import deltaE_ciede2000, rgb2lab

from medseg.data.colours import CLASSES, TRUTH, Colour
from medseg.data.image_io import Pixels
from medseg.data.packed import evenly_spaced
from medseg.previews.drawing import contact_sheet, outlined, sample_sheet, titled, within


def plain(height: int, width: int, value: int = 0) -> Pixels:
    return np.full((height, width, 3), value, np.uint8)


def test_outlines_run_along_the_inner_border_of_objects_and_around_holes() -> None:
    mask = np.zeros((12, 12), np.uint8)
    mask[2:10, 2:10] = 1
    mask[5:7, 5:7] = 0
    image = np.full((12, 12, 1), 9, np.uint8)
    drawn = (outlined(image, mask, TRUTH) == TRUTH).all(axis=2)
    border = np.zeros((12, 12), bool)
    border[2:10, 2:10] = True
    border[3:9, 3:9] = False
    assert drawn[border].all()
    assert drawn[4, 5:7].all()
    assert not drawn[5:7, 5:7].any()
    assert not drawn[~mask.astype(bool)].any()
    assert (image == 9).all()


def test_an_empty_mask_draws_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    drawn = outlined(image, np.zeros((8, 9), np.uint8), TRUTH)
    np.testing.assert_array_equal(drawn, image)
    assert drawn is not image


def test_a_contact_sheet_lays_tiles_out_in_rows_on_white() -> None:
    sheet = contact_sheet([plain(10, 10, value) for value in (0, 50, 100)], columns=2, side=10)
    assert sheet.shape == (2 * 14 + 4, 2 * 14 + 4, 3)
    assert (sheet[4:14, 4:14] == 0).all()
    assert (sheet[4:14, 18:28] == 50).all()
    assert (sheet[18:28, 4:14] == 100).all()
    assert (sheet[18:28, 18:28] == 255).all()
    assert (sheet[:4] == 255).all()


def test_a_sheet_of_samples_shows_grey_images_with_their_masks_filled() -> None:
    images = np.full((3, 16, 16, 1), 40, np.uint8)
    masks = np.zeros((3, 16, 16), np.uint8)
    masks[1, 4:12, 4:12] = 1
    sheet = sample_sheet(images, masks, columns=3, side=16)
    assert sheet.shape == (24, 64, 3)
    green = (sheet == TRUTH).all(axis=2)
    assert green[:, 24:40].sum() == 28  # the edge of 8 x 8
    tinted = (sheet == np.rint(0.6 * 40 + 0.4 * np.array(TRUTH))).all(axis=2)
    assert tinted.sum() == 36  # what it surrounds: of an inverted mask, all the rest
    assert green.sum() == 28


@pytest.mark.parametrize(
    ("shape", "expected"), [((100, 50), (32, 16)), ((50, 100), (16, 32)), ((8, 8), (32, 32)), ((1, 900), (1, 32))]
)
def test_the_longer_side_fits(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    small = within(plain(*shape, 7), 32)
    assert small.shape == (*expected, 3)
    assert small.dtype == np.uint8
    assert (small == 7).all()


@given(count=st.integers(0, 500), wanted=st.integers(1, 60))
def test_evenly_spaced_indices_are_as_many_as_wanted_and_reach_both_ends(count: int, wanted: int) -> None:
    found = evenly_spaced(count, wanted)
    assert len(found) == min(count, wanted)
    assert len(set(found.tolist())) == len(found)
    if count:
        assert found[0] == 0
    if min(count, wanted) > 1:
        assert found[-1] == count - 1
        assert np.ptp(np.diff(found)) <= 1


def test_a_title_stands_in_the_upper_left_corner() -> None:
    image = titled(plain(200, 200, 90), "Dice 0.5", 100)
    assert image.shape == (100, 100, 3)
    assert image[:20].max() > 200
    assert (image[30:] == 90).all()


# What eyes without one kind of cone see of linear RGB: Machado, Oliveira & Fernandes, "A physiologically-based model
# for simulation of color vision deficiency", IEEE TVCG 2009, at severity 1.0.
SIGHTS = {
    "normal": np.eye(3),
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritan": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def seen(colour: Colour, sight: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIELAB of a colour as an eye sees it."""
    share = np.array(colour) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    turned = np.clip(sight @ linear, 0, 1)
    encoded = np.where(turned <= 0.0031308, turned * 12.92, 1.055 * turned ** (1 / 2.4) - 0.055)
    lab: NDArray[np.float64] = rgb2lab(encoded)
    return lab


@pytest.mark.parametrize(("count", "least"), [(2, 20), (4, 12), (6, 10)])
def test_truth_and_classes_are_told_apart_whatever_the_eye(count: int, least: float) -> None:
    for name, sight in SIGHTS.items():
        colours = [seen(colour, sight) for colour in (TRUTH, *CLASSES[:count])]
        first, second = (np.array(lab) for lab in zip(*combinations(colours, 2), strict=True))
        assert deltaE_ciede2000(first, second).min() >= least, name  # type: ignore[no-untyped-call]
