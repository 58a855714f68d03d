"""What is drawn while training moves and lights whole batches as the words of the section say."""

from typing import Any

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from medseg.core.params import validate
from medseg.data.augment import Transforms
from medseg.training.batch_augment import COLUMNS, Numbers, augment_batch, random_numbers

SIDE = 32


def batch(count: int = 4, height: int = SIDE, width: int = SIDE, channels: int = 3) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=rng)
    return pixels, torch.randint(0, 3, (count, 1, height, width), dtype=torch.uint8, generator=rng)


def smooth(count: int = 1) -> Tensor:
    """(count, 1, 48, 48): an image that interpolation hardly changes."""
    rows, columns = np.mgrid[:48, :48]
    image = 128 + 60 * np.sin(rows / 7) * np.cos(columns / 9) + columns - 0.5 * rows
    return torch.from_numpy(image).float().expand(count, 1, 48, 48)


def draws(count: int = 4, **numbers: float) -> Numbers:
    """Nothing acts but what is named: 0 acts at any probability, 1 at none."""
    table = {name: np.ones(count) for name in COLUMNS}
    return table | {name: np.full(count, number) for name, number in numbers.items()}


def varied(pixels: Tensor, truth: Tensor, numbers: Numbers, **transforms: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    params = validate(tiny.STILL | transforms, Transforms, "online")
    images, codes = augment_batch(pixels, truth, params, numbers)
    return images.numpy(), codes.numpy()


def test_nothing_acts_where_nothing_is_drawn() -> None:
    pixels, truth = batch()
    everything = tiny.online(*tiny.STILL, p=0.99)
    images, codes = augment_batch(pixels, truth, everything, draws())
    assert_allclose(images, pixels.float(), atol=0.01)
    assert_array_equal(codes, truth)
    assert codes.dtype == torch.uint8


@pytest.mark.parametrize(("name", "axis"), [("horizontal_flip", 3), ("vertical_flip", 2)])
def test_flips_reverse_one_axis(name: str, axis: int) -> None:
    pixels, truth = batch(2, 17, 30)
    images, codes = varied(pixels, truth, draws(2, **{name: 0}), **{name: 0.5})
    assert_allclose(images, pixels.numpy()[(slice(None),) * axis + (slice(None, None, -1),)], atol=0.01)
    assert_array_equal(codes, np.flip(truth.numpy(), axis))


@pytest.mark.parametrize(("turns", "side"), [(0, 32), (1, 32), (2, 33), (3, 33)])
def test_quarter_turns_land_on_pixels(turns: int, side: int) -> None:
    pixels, truth = batch(2, side, side)
    numbers = draws(2, quarter_turns=0, turns=turns / 4 + 0.1)
    images, codes = varied(pixels, truth, numbers, quarter_turns=1.0)
    assert_allclose(images, np.rot90(pixels.numpy(), turns, (2, 3)), atol=0.02)
    assert_array_equal(codes, np.rot90(truth.numpy(), turns, (2, 3)))


def about_centre(image: NDArray[Any], matrix: NDArray[Any]) -> NDArray[Any]:
    """SciPy's image: pixel p of the result shows pixel matrix (p - centre) + centre; rows before columns."""
    centre = (np.array(image.shape) - 1) / 2
    shown: NDArray[Any] = ndimage.affine_transform(image, matrix, centre - matrix @ centre, order=1, mode="reflect")
    return shown


@pytest.mark.parametrize(("number", "degrees"), [(0.0, -40), (0.75, 20)])
def test_a_rotation_is_scipys(number: float, degrees: float) -> None:
    image, truth = smooth(), torch.zeros(1, 1, 48, 48, dtype=torch.uint8)
    numbers = draws(1, rotate=0, angle=number)
    images, _ = varied(image, truth, numbers, rotate={"p": 1.0, "degrees": 40})
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    assert_allclose(images[0, 0], about_centre(image[0, 0].numpy(), np.array([[c, s], [-s, c]])), atol=0.01)


@pytest.mark.parametrize(("number", "factor"), [(0.0, 0.6), (1.0, 1.4)])
def test_a_scale_above_one_shows_less_of_the_sample(number: float, factor: float) -> None:
    image, truth = smooth(), torch.zeros(1, 1, 48, 48, dtype=torch.uint8)
    images, _ = varied(image, truth, draws(1, scale=0, zoom=number), scale={"p": 1.0, "share": 0.4})
    assert_allclose(images[0, 0], about_centre(image[0, 0].numpy(), np.eye(2) / factor), atol=0.01)


def test_truth_moves_with_the_pixels() -> None:
    shape = (smooth() > 140).to(torch.uint8)
    numbers = random_numbers(3, 0, 0, 1) | {name: np.zeros(1) for name in ("rotate", "scale", "elastic")}
    moving = {"rotate": {"p": 1.0, "degrees": 30}, "scale": {"p": 1.0, "share": 0.2}}
    images, codes = varied(shape.float() * 255, shape, numbers, **moving, elastic={"p": 1.0, "alpha": 200, "sigma": 6})
    clear = np.abs(images - 127.5) > 64  # not on the border, where pixels are mixed
    assert_array_equal(codes[clear], (images[clear] > 127.5).astype(np.uint8))
    assert np.mean(codes != shape.numpy()) > 0.05


def test_elastic_deformation_moves_pixels_by_its_documented_amount() -> None:
    ramp = torch.arange(256.0).expand(1, 1, 256, 256).repeat(8, 1, 1, 1)
    truth = torch.zeros(8, 1, 256, 256, dtype=torch.uint8)
    numbers = draws(8) | {"elastic": np.zeros(8), "elastic_seed": np.linspace(0, 0.9, 8)}
    images, _ = varied(ramp, truth, numbers, elastic={"p": 1.0, "alpha": 360, "sigma": 6})
    moved = (images - ramp.numpy())[:, :, 30:-30, 30:-30]
    assert np.sqrt(np.mean(moved**2)) == pytest.approx(360 / (15 * 6), rel=0.1)
    assert not np.allclose(images[0], images[1])


def test_brightness_and_contrast_are_a_line() -> None:
    pixels, truth = batch(2)
    numbers = draws(2, brightness_contrast=0, brightness=0.75, contrast=0.25)
    images, _ = varied(pixels, truth, numbers, brightness_contrast={"p": 1.0, "brightness": 0.2, "contrast": 0.4})
    assert_allclose(images, np.clip(pixels.numpy() * 0.8 + 25.5, 0, 255), atol=1e-3)


def test_gamma_is_a_power() -> None:
    pixels, truth = batch(2)
    images, _ = varied(pixels, truth, draws(2, gamma=0, exponent=1.0), gamma={"p": 1.0, "percent": 30})
    assert_allclose(images, 255 * (pixels.numpy() / 255) ** 1.3, atol=1e-2)


def test_noise_has_the_deviation_drawn_and_stays_within_the_values() -> None:
    grey = torch.full((2, 3, 64, 64), 128, dtype=torch.uint8)
    truth = torch.zeros(2, 1, 64, 64, dtype=torch.uint8)
    numbers = draws(2) | {"gaussian_noise": np.array([0.0, 1.0]), "deviation": np.array([0.5, 0.5])}
    images, _ = varied(grey, truth, numbers, gaussian_noise={"p": 0.5, "deviation": 0.2})
    assert np.std(images[0]) == pytest.approx(25.5, rel=0.03)
    assert abs(np.mean(images[0]) - 128) < 1.5
    assert_array_equal(images[1], grey[1])
    strong, _ = varied(grey, truth, numbers, gaussian_noise={"p": 0.5, "deviation": 1.0})
    assert strong.min() >= 0
    assert strong.max() <= 255


def test_blur_is_scipys_gaussian() -> None:
    pixels, truth = batch(2)
    numbers = draws(2) | {"blur": np.array([0.0, 1.0]), "width": np.array([1.0, 1.0])}
    images, _ = varied(pixels, truth, numbers, blur={"p": 0.5, "sigma": 1.5})
    expected = ndimage.gaussian_filter(pixels[0].double().numpy(), (0, 1.5, 1.5), mode="nearest", truncate=10 / 3)
    assert_allclose(images[0], expected, atol=0.05)
    assert_array_equal(images[1], pixels[1])


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 40))
def test_a_places_numbers_hang_on_seed_epoch_and_place_alone(
    seed: int, epoch: int, first: int, skipped: int, count: int
) -> None:
    whole = random_numbers(seed, epoch, first, skipped + count)
    part = random_numbers(seed, epoch, first + skipped, count)
    for name in COLUMNS:
        assert_array_equal(part[name], whole[name][skipped:])


def test_every_epoch_and_every_column_has_numbers_of_its_own() -> None:
    tables = [np.stack(list(random_numbers(seed, epoch, 0, 500).values())) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    numbers = np.concatenate(tables)
    assert len(np.unique(numbers)) == numbers.size
    correlations = np.corrcoef(numbers) - np.eye(len(numbers))
    assert np.abs(correlations).max() < 0.25
    assert numbers.min() >= 0
    assert numbers.max() < 1


def test_a_batch_is_its_samples_varied_one_by_one() -> None:
    pixels, truth = batch(6)
    everything = tiny.online(*tiny.STILL, p=0.7)
    images, codes = augment_batch(pixels, truth, everything, random_numbers(5, 2, 10, 6))
    for place in range(6):
        alone = augment_batch(
            pixels[place : place + 1], truth[place : place + 1], everything, random_numbers(5, 2, 10 + place, 1)
        )
        assert_allclose(images[place], alone[0][0], atol=1e-3)
        assert_array_equal(codes[place], alone[1][0])
