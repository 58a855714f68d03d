"""Which values become 0..255: known answers, and what is kept of images of 10 to 16 bits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from medseg.core.errors import UserError
from medseg.core.params import validate
from medseg.data.image import Image as DataImage
from medseg.data.image_io import read_image
from medseg.data.intensity import FULL, IntensityParams, Percentiles, Window, to_8_bits
from medseg.data.percentiles import resolve_intensity, window_between


def window(low: int, high: int, bits: Any = 16) -> Window:
    return Window(name="window", bits=bits, low=low, high=high)


def percentiles(low: float, high: float) -> Percentiles:
    return Percentiles(name="percentiles", low=low, high=high)


def save(path: Path, values: NDArray[Any]) -> Path:
    Image.fromarray(values).save(path)
    return path


def test_values_by_hand() -> None:
    values = np.array([0, 100, 101, 355, 4195, 65535], np.uint16)
    assert to_8_bits(values, window(100, 4180)).tolist() == [0, 0, 0, 16, 255, 255]  # 16 values a step
    assert to_8_bits(values, FULL).tolist() == [0, 0, 0, 1, 16, 255]
    assert to_8_bits(np.array([9, 10, 11, 12, 200], np.uint8), window(10, 12, 8)).tolist() == [0, 0, 128, 255, 255]


@given(values=arrays(np.uint8, (3, 4, 1)))
def test_8_bits_at_full_range_stay_as_they_are(values: NDArray[np.uint8]) -> None:
    assert np.array_equal(to_8_bits(values, FULL), values)
    assert np.array_equal(to_8_bits(values, window(0, 255, 8)), values)


@given(ends=st.lists(st.integers(0, 65535), min_size=2, max_size=2, unique=True))
def test_a_window_rises_from_0_to_255_to_the_nearest(ends: list[int]) -> None:
    low, high = sorted(ends)
    values = np.arange(65536, dtype=np.uint16)
    exact = 255 * (np.clip(values.astype(np.float64), low, high) - low) / (high - low)
    assert np.abs(to_8_bits(values, window(low, high)) - exact).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(("bits", "kept"), [(10, 256), (12, 256), (14, 256)])
def test_a_declared_range_keeps_the_grey_levels_of_10_to_14_bits(tmp_path: Path, bits: int, kept: int) -> None:
    path = save(tmp_path / "a.png", np.arange(1 << bits, dtype=np.uint16).reshape(32, -1))
    assert len(np.unique(read_image(path, window(0, (1 << bits) - 1)))) == kept
    assert len(np.unique(read_image(path))) == 1 + ((1 << bits) - 1 + 128) // 257  # at full range


def test_a_window_is_of_one_type_of_file(tmp_path: Path) -> None:
    shallow = save(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    deep = save(tmp_path / "b.png", np.full((4, 4), 700, np.uint16))
    with pytest.raises(UserError, match=r"a\.png: holds 8-bit values, .* 0 to 4095, is of 16-bit files"):
        read_image(shallow, window(0, 4095))
    with pytest.raises(UserError, match=r"b\.png: holds 16-bit values, .* 0 to 200, is of 8-bit files"):
        read_image(deep, window(0, 200, 8))


def test_8_bits_in_16_are_refused_until_the_range_is_said(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.arange(256, dtype=np.uint16).reshape(16, 16))
    with pytest.raises(UserError, match=r"a\.png: no value of 65535 exceeds 255.*intensity=window"):
        read_image(path)
    assert np.array_equal(read_image(path, window(0, 255))[..., 0].ravel(), np.arange(256))


@pytest.mark.parametrize(
    ("section", "wrong"),
    [
        ({"name": "window", "bits": 8, "low": 0, "high": 256}, "high below 256"),
        ({"name": "window", "bits": 16, "low": 9, "high": 9}, "low 9 must be below high 9"),
        ({"name": "percentiles", "low": 50.0, "high": 50.0}, "low 50.0 must be below high 50.0"),
    ],
)
def test_ranges_that_hold_nothing_are_refused(section: dict[str, Any], wrong: str) -> None:
    with pytest.raises(UserError, match=wrong):
        validate(section, IntensityParams, "intensity")


def test_percentiles_by_hand() -> None:
    counts = np.zeros(65536, np.int64)
    counts[[10, 20, 30, 5000]] = [1, 49, 49, 1]
    assert window_between(counts, percentiles(0, 100)) == window(0, 5000)
    assert window_between(counts, percentiles(1, 99)) == window(10, 30)
    assert window_between(counts, percentiles(1.5, 50)) == window(20, 21)  # never empty
    assert window_between(counts[:256] + (np.arange(256) == 255), percentiles(99.5, 100)) == window(254, 255, 8)


def test_percentiles_are_of_all_images_and_of_any_number_of_workers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, values = [], []
    for number in range(40):
        pixels = rng.integers(0, 100 * (number + 1), (5, 7), np.uint16)
        images.append(tiny.image(tmp_path, f"{number}.png", tiny.noise(5, 7), np.zeros((5, 7), np.uint8)))
        save(tmp_path / f"{number}.png", pixels)
        values.append(pixels)
    found = [resolve(images, workers) for workers in (1, 2)]
    low, high = np.percentile(np.stack(values), [1, 99], method="inverted_cdf")
    assert found == [window(int(low), int(high))] * 2


def resolve(images: list[DataImage], workers: int) -> Any:
    return resolve_intensity(images, percentiles(1, 99), tiny.CPU.model_copy(update={"workers": workers}))


def test_percentiles_of_mixed_files_are_refused(tmp_path: Path) -> None:
    images = [tiny.image(tmp_path, f"{name}.png", tiny.noise(5, 7), np.zeros((5, 7), np.uint8)) for name in "ab"]
    save(tmp_path / "b.png", np.zeros((5, 7), np.uint16))
    with pytest.raises(UserError, match="files of 8 and of 16 bits"):
        resolve(images, 1)
