from pathlib import Path

import numpy as np
import pytest
import tiny

from medseg.core.errors import UserError
from medseg.datasets.record import Region


def test_a_region_is_cropped_without_a_copy_and_reads_back_from_its_text() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    region = Region(1, 2, 3, 5)
    window = region.crop(pixels)
    assert window.tolist() == [[8, 9, 10], [14, 15, 16]]
    assert window.base is not None
    assert region.size == window.shape
    assert Region.parse(str(region)) == region


def test_an_image_reads_itself_whole_and_cropped(tmp_path: Path) -> None:
    pixels, mask = tiny.square(0, 20, 30)
    image = tiny.image(tmp_path, "a.png", pixels, mask, region=Region(2, 3, 12, 25))
    for read, expected in zip(image.read(), (pixels, mask), strict=True):
        np.testing.assert_array_equal(read, expected)
    for read, expected in zip(image.read_region(), (pixels, mask), strict=True):
        np.testing.assert_array_equal(read, expected[2:12, 3:25])


def test_an_image_of_another_size_than_the_manifest_says_is_refused(tmp_path: Path) -> None:
    image = tiny.image(tmp_path, "a.png", *tiny.square(0, 20, 30), height=21)
    with pytest.raises(UserError, match=r"a\.png: it or its mask differs in size from the manifest"):
        image.read()
