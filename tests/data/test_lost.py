"""What is lost between images and samples is counted, told, and kept where that is wanted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from medseg.core.errors import UserError
from medseg.data.geometry import Geometry, Patchify, Resize, Scale
from medseg.data.image import Image as DataImage
from medseg.data.image_io import Pixels
from medseg.data.intensity import Window
from medseg.data.packed import open_packed
from medseg.data.prepare import count_objects_lost, prepare
from medseg.data.task import UNANNOTATED
from medseg.data.truth import fit_truth
from medseg.datasets.record import Region

EIGHT = np.ones((3, 3))  # neighbours


def resize(height: int, width: int, aspect: str = "squash", small_objects: str = "drop") -> Resize:
    return tiny.frame(height, width, aspect).model_copy(update={"small_objects": small_objects})


def scale(factor: float, small_objects: Any = "drop") -> Scale:
    return Scale(name="scale", channels=1, factor=factor, small_objects=small_objects)


def patches(patch: int, border: Any, stride: int | None = None) -> Patchify:
    return Patchify(name="patchify", channels=1, patch=patch, stride=stride or patch, border=border)


def specks(height: int, width: int, *places: tuple[int, int]) -> Pixels:
    """A mask with objects of 2 x 2 pixels."""
    mask = np.zeros((height, width), np.uint8)
    for top, left in places:
        mask[top : top + 2, left : left + 2] = 1
    return mask


def test_objects_by_hand() -> None:
    mask = specks(80, 80, (3, 3), (50, 61))
    mask[20:44, 16:40] = 1
    whole = Region(0, 0, 80, 80)
    assert count_objects_lost(mask, whole, resize(80, 80)) == (3, 0)
    assert count_objects_lost(mask, whole, resize(10, 10)) == (3, 2)
    assert count_objects_lost(mask, whole, resize(10, 10, small_objects="keep")) == (3, 0)
    assert count_objects_lost(mask, whole, resize(16, 10, "keep")) == (3, 2)
    assert count_objects_lost(mask, whole, scale(0.1)) == (3, 2)
    assert count_objects_lost(mask, whole, patches(32, "pad")) == (3, 0)
    assert count_objects_lost(mask, whole, patches(45, "drop")) == (3, 1)  # patches end at row and column 45
    assert count_objects_lost(mask, whole, patches(96, "drop")) == (3, 3)
    assert count_objects_lost(mask, Region(40, 40, 80, 80), scale(0.1)) == (1, 1)


def test_a_kept_object_is_the_pixel_in_which_most_of_it_lies() -> None:
    mask = specks(40, 40, (7, 8), (31, 30))
    kept = fit_truth(mask, Region(0, 0, 40, 40), resize(10, 10, small_objects="keep"))
    assert np.argwhere(kept).tolist() == [[1, 2], [7, 7]]  # of two equal parts the upper one
    assert not fit_truth(mask, Region(0, 0, 40, 40), resize(10, 10)).any()


@st.composite
def cases(draw: st.DrawFn) -> tuple[Pixels, Region, Resize | Scale]:
    height, width = draw(st.integers(4, 60)), draw(st.integers(4, 60))
    share = draw(st.sampled_from([0.01, 0.1, 0.5]))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    mask = (rng.random((height, width)) < share).astype(np.uint8)
    region = Region(draw(st.integers(0, 2)), draw(st.integers(0, 2)), height, width - draw(st.integers(0, 1)))
    if draw(st.booleans()):
        return mask, region, scale(draw(st.floats(0.05, 2)))
    aspect = draw(st.sampled_from(["keep", "squash"]))
    return mask, region, resize(draw(st.integers(8, 64)), draw(st.integers(8, 64)), aspect)


@settings(deadline=None, max_examples=100)
@given(case=cases())
def test_keeping_loses_no_object_and_adds_one_pixel_for_each_that_was_lost(
    case: tuple[Pixels, Region, Resize | Scale],
) -> None:
    mask, region, dropping = case
    keeping = dropping.model_copy(update={"small_objects": "keep"})
    inside = np.zeros_like(mask)
    region.crop(inside)[...] = region.crop(mask)
    objects, lost = count_objects_lost(mask, region, dropping)
    assert objects == ndimage.label(inside, EIGHT)[1]
    assert count_objects_lost(mask, region, keeping) == (objects, 0)
    dropped, kept = (fit_truth(mask, region, geometry) for geometry in (dropping, keeping))
    changed = dropped != kept
    assert changed.sum() <= lost
    assert (kept[changed] == 1).all()
    assert changed.any() == (lost > 0)


def images(folder: Path, *masks: Pixels) -> list[DataImage]:
    return [tiny.image(folder, f"{number}.png", tiny.noise(*mask.shape), mask) for number, mask in enumerate(masks)]


@pytest.mark.parametrize(
    ("geometry", "advice"),
    [
        (resize(10, 10), "larger prepare.height and prepare.width"),
        (resize(10, 12, "keep"), "prepare.small_objects = keep"),
        (scale(0.125), "a larger prepare.factor or prepare = patchify"),
        (patches(60, "drop"), "prepare.border = pad keeps them"),
    ],
)
def test_lost_objects_and_images_that_count_as_empty_are_told(geometry: Geometry, advice: str, tmp_path: Path) -> None:
    large = specks(80, 80, (70, 70))
    large[8:40, 8:40] = 1
    pictures = images(tmp_path, large, specks(80, 80, (66, 66), (70, 10)), np.zeros((80, 80), np.uint8))
    (told,) = prepare(pictures, geometry, tiny.CPU, tmp_path / "train")
    assert told.startswith(
        "train: 3 of 4 annotated objects leave no pixel in the samples, in 2 of 2 annotated images, of which 1 count "
        "as empty (1.png); "
    )
    assert advice in told
    assert open_packed(tmp_path / "train").warnings == (told,)


def test_nothing_is_told_where_nothing_is_lost(tmp_path: Path) -> None:
    pictures = images(tmp_path, specks(40, 40, (3, 3)), np.zeros((40, 40), np.uint8))
    for geometry in (resize(10, 10, small_objects="keep"), resize(40, 40), patches(32, "pad")):
        assert prepare(pictures, geometry, tiny.CPU, tmp_path / "train") == ()


def test_images_smaller_than_a_patch_are_told_and_a_split_without_any_is_named(tmp_path: Path) -> None:
    pictures = images(tmp_path, specks(40, 40, (3, 3)), specks(20, 60, (3, 3)))
    (told,) = prepare(pictures, patches(32, "drop"), tiny.CPU, tmp_path / "train")
    assert told.startswith("train: 1 of 2 images smaller than a patch and left out (1.png); ")
    with pytest.raises(UserError, match=r"prepare\.patch = 32: no image of val is as large as a patch"):
        prepare(pictures[1:], patches(32, "drop"), tiny.CPU, tmp_path / "val")


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_grey_levels_that_are_lost_are_told(bits: int, tmp_path: Path) -> None:
    (picture,) = images(tmp_path, specks(64, 64, (3, 3)))
    values = np.arange(64 * 64) * ((1 << bits) // (64 * 64) or 1) % (1 << bits)
    Image.fromarray(values.astype(np.uint16).reshape(64, 64)).save(tmp_path / "0.png")
    told = prepare([picture], patches(64, "pad"), tiny.CPU, tmp_path / "train")
    levels = {10: 5, 12: 17}.get(bits)
    if levels is None:
        assert told == ()
        return
    assert told[0].startswith(
        f"train: of the grey levels of 1 of 1 images of more than 8 bits only {levels} to {levels}"
    )
    declared = Window(name="window", bits=16, low=0, high=(1 << bits) - 1)
    told = prepare([picture.reading(declared)], patches(64, "pad"), tiny.CPU, tmp_path / "again")
    assert told == ()
    store = open_packed(tmp_path / "again")
    assert store.intensity == declared
    assert len(np.unique(store.images)) == 256
    assert (store.masks != UNANNOTATED).all()
