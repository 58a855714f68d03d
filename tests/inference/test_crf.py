"""The dense CRF: probabilities that follow the image."""

import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from extras import needs_crf
from numpy.typing import NDArray

from medseg.core.errors import UserError
from medseg.core.params import validate
from medseg.data.image_io import Pixels, read_image, write_png
from medseg.inference.crf import CrfParams, apply_crf
from medseg.inference.postprocess import Probabilities, foreground_probability

VALUES = {
    "iterations": 5,
    "gaussian_sigma": 2.0,
    "gaussian_weight": 3.0,
    "bilateral_sigma": 20.0,
    "bilateral_colour": 15.0,
    "bilateral_weight": 5.0,
}
SIDE = 40


def params(**changes: Any) -> CrfParams:
    return CrfParams(**{**VALUES, **changes})


def noisy_disc() -> tuple[Pixels, Probabilities, NDArray[np.bool_]]:
    """A dark disc on grey with speckle, probabilities that see it dimly, and the disc itself."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    disc = (rows - SIDE / 2) ** 2 + (columns - SIDE / 2) ** 2 < (SIDE / 4) ** 2
    grey = np.clip(np.where(disc, 90, 150) + random.normal(0, 8, disc.shape), 0, 255)
    dim = np.clip(np.where(disc, 0.65, 0.35) + random.normal(0, 0.25, disc.shape), 0, 1)
    return grey.astype(np.uint8)[..., None], dim.astype(np.float32)[None], disc


def dice(foreground: NDArray[Any], truth: NDArray[np.bool_]) -> float:
    found = foreground >= 0.5
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


def in_classes(foreground: Probabilities) -> Probabilities:
    """Background and two classes that share the foreground 7 to 3."""
    return np.concatenate([1 - foreground, foreground * np.float32(0.7), foreground * np.float32(0.3)])


@needs_crf
def test_a_noisy_disc_becomes_a_disc() -> None:
    image, probabilities, disc = noisy_disc()
    refined = apply_crf(probabilities, image, params())
    assert refined.shape == probabilities.shape
    assert refined.dtype == np.float32
    assert 0 <= refined.min() <= refined.max() <= 1
    assert dice(probabilities[0], disc) < 0.6
    assert dice(refined[0], disc) > 0.95


@needs_crf
@pytest.mark.parametrize("widths", list(product((0.5, 10_000.0), repeat=3)))
@pytest.mark.parametrize("weights", [(0.0, 1000.0), (1000.0, 0.0), (1000.0, 1000.0)])
def test_the_bounds_of_every_value_give_probabilities(
    widths: tuple[float, float, float], weights: tuple[float, float]
) -> None:
    image, probabilities, _ = noisy_disc()
    keys = ("gaussian_sigma", "bilateral_sigma", "bilateral_colour")
    changes = dict(zip(keys, widths, strict=True)) | {"gaussian_weight": weights[0], "bilateral_weight": weights[1]}
    refined = apply_crf(probabilities, image, params(**changes))
    assert np.isfinite(refined).all()
    assert 0 <= refined.min() <= refined.max() <= 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, value) for key in ("gaussian_sigma", "bilateral_sigma", "bilateral_colour") for value in (1e-9, 1e39)),
        *((key, value) for key in ("gaussian_weight", "bilateral_weight") for value in (-1.0, 1e39)),
    ],
)
def test_what_would_end_the_process_or_give_no_numbers_is_refused(key: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"crf\.{key} = .*should be (greater|less)"):
        validate(VALUES | {key: value}, CrfParams, "crf")


@needs_crf
@pytest.mark.parametrize(
    ("shape", "changes", "told"),
    [
        ((1, 40_000), {}, "gaussian_sigma = 2.0: too narrow for an image of 40000x1 pixels"),
        ((40_000, 1), {}, "gaussian_sigma"),
        ((1, 8000), {"bilateral_sigma": 0.5}, "bilateral_sigma"),
    ],
)
def test_an_image_too_long_for_the_kernels_is_refused(
    shape: tuple[int, int], changes: dict[str, float], told: str
) -> None:
    flat = np.full((1, *shape), 0.5, np.float32)
    with pytest.raises(UserError, match=told):
        apply_crf(flat, np.zeros((*shape, 1), np.uint8), params(**changes))
    whole = flat[:, :8000, :8000]
    apply_crf(whole, np.zeros((*whole.shape[1:], 1), np.uint8), params(iterations=1))


@needs_crf
def test_an_image_as_it_is_read_from_a_file_is_taken(tmp_path: Path) -> None:
    grey, probabilities, _ = noisy_disc()
    for name, pixels in (("grey", grey), ("colour", np.repeat(grey, 3, axis=2))):
        write_png(tmp_path / f"{name}.png", pixels)
        image = read_image(tmp_path / f"{name}.png")
        assert np.array_equal(
            apply_crf(probabilities, image, params()), apply_crf(probabilities, pixels.copy(), params())
        )


def test_one_probability_is_that_of_two_labels() -> None:
    image, probabilities, _ = noisy_disc()
    two = apply_crf(np.concatenate([1 - probabilities, probabilities]), image, params())
    np.testing.assert_array_equal(apply_crf(probabilities, image, params()), two[1:])


@needs_crf
def test_several_classes_stay_shares_of_one() -> None:
    image, probabilities, disc = noisy_disc()
    refined = apply_crf(in_classes(probabilities), image, params())
    assert refined.shape == (3, SIDE, SIDE)
    np.testing.assert_allclose(refined.sum(axis=0), 1, rtol=1e-5)
    assert dice(foreground_probability(refined), disc) > 0.95
    assert refined[1][disc].mean() > refined[2][disc].mean()


@needs_crf
def test_without_weights_nothing_moves() -> None:
    image, probabilities, _ = noisy_disc()
    refined = apply_crf(probabilities, image, params(gaussian_weight=0.0, bilateral_weight=0.0))
    # Certainty is kept a hundred-thousandth away from 0 and 1.
    np.testing.assert_allclose(refined, probabilities, atol=1.1e-5)


@needs_crf
def test_the_bilateral_kernel_stops_at_edges_that_the_gaussian_one_does_not_see() -> None:
    image, probabilities, disc = noisy_disc()
    near = dice(apply_crf(probabilities, image, params(bilateral_weight=0.0))[0], disc)
    alike = dice(apply_crf(probabilities, image, params(gaussian_weight=0.0))[0], disc)
    flat = dice(apply_crf(probabilities, np.full_like(image, 128), params(gaussian_weight=0.0))[0], disc)
    assert alike > near
    assert alike > flat


@needs_crf
def test_a_grey_image_is_an_rgb_image_of_equal_channels() -> None:
    image, probabilities, _ = noisy_disc()
    np.testing.assert_array_equal(
        apply_crf(probabilities, image, params()), apply_crf(probabilities, np.repeat(image, 3, axis=2), params())
    )


@needs_crf
@pytest.mark.parametrize(
    "change",
    [{}, {"iterations": 1}, {"bilateral_weight": 0.0}, {"gaussian_weight": 0.0}],
    ids=["both", "once", "near", "alike"],
)
def test_it_agrees_with_mean_field_written_out_over_all_pairs_of_pixels(change: dict[str, Any]) -> None:
    image, probabilities, _ = noisy_disc()
    image, probabilities = image[14:30, 4:24], probabilities[:, 14:30, 4:24]
    refined = apply_crf(probabilities, image, params(**change))[0]
    exact = mean_field(probabilities, image, params(**change))
    # The library filters on a lattice, which approximates the sums.
    assert np.abs(refined - exact).mean() < 0.01
    assert np.abs(probabilities[0] - exact).mean() > 0.2


def mean_field(probabilities: Probabilities, image: Pixels, chosen: CrfParams) -> NDArray[np.float64]:
    """The paper's algorithm 1 with every pair of pixels, kernels normalised symmetrically; foreground (H, W)."""
    height, width = image.shape[:2]
    places = np.indices((height, width)).reshape(2, -1).T.astype(float)
    colours = np.repeat(image, 3, axis=2).reshape(-1, 3).astype(float)
    near = kernel(places / chosen.gaussian_sigma)
    alike = kernel(np.concatenate([places / chosen.bilateral_sigma, colours / chosen.bilateral_colour], axis=1))
    pull = chosen.gaussian_weight * near + chosen.bilateral_weight * alike
    foreground = probabilities[0].reshape(-1).astype(float)
    unary = np.log(np.clip(np.stack([1 - foreground, foreground], axis=1), 1e-5, 1))
    belief = softmax(unary)
    for _ in range(chosen.iterations):
        belief = softmax(unary + pull @ belief)
    return belief[:, 1].reshape(height, width)


def kernel(features: NDArray[np.float64]) -> NDArray[np.float64]:
    squared = ((features[:, None] - features[None]) ** 2).sum(axis=2)
    weights = np.exp(-squared / 2)
    scale = 1 / np.sqrt(weights.sum(axis=1))
    normalised: NDArray[np.float64] = weights * scale[:, None] * scale
    return normalised


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def test_a_missing_package_is_told_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    image, probabilities, _ = noisy_disc()
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    with pytest.raises(UserError, match=r"evaluate\.crf\.use: .*pip install 'medseg\[crf\]'"):
        apply_crf(probabilities, image, params())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"iterations": 0}, r"crf\.iterations = 0"),
        ({"gaussian_sigma": 0.0}, r"crf\.gaussian_sigma = 0\.0"),
        ({"bilateral_colour": -1.0}, r"crf\.bilateral_colour = -1\.0"),
        ({"bilateral_weight": -0.1}, r"crf\.bilateral_weight = -0\.1"),
        ({"sigma": 1.0}, r"crf\.sigma is no known key"),
    ],
)
def test_wrong_values_are_refused_by_their_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(VALUES | change, CrfParams, "params.yaml: evaluate.crf")
