"""The simulated scanner obeys speckle statistics; simulated lesions show the signs of their kind."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, label
from skimage.measure import regionprops

from medseg.datasets.ultrasound import Kind, Scan, envelope, simulate

SIDE = 256
BEAM, PULSE = 2.0, 1.0  # pixels
CONTRAST = (8.0, 20.0)
# The envelope's power is correlated over 2 pi * beam * pulse pixels (the integral of its autocorrelation).
INDEPENDENT = SIDE**2 / (2 * np.pi * BEAM * PULSE)


def speckle(reflectors: float = 0, beam: float = BEAM) -> NDArray[np.float32]:
    ones = np.ones((SIDE, SIDE), np.float32)
    beams = np.full((SIDE, 1), beam, np.float32)
    return envelope(ones, reflectors * ones, beams, PULSE, np.random.default_rng(1))


def scan(kind: Kind, number: int, width: int = 160, contrast: tuple[float, float] = CONTRAST) -> Scan:
    return simulate(kind, width, contrast, 4, np.random.default_rng([7, number]))


def correlation(values: NDArray[np.float32], axis: int, lag: int = 2) -> float:
    first = np.take(values, np.arange(SIDE - lag), axis)
    second = np.take(values, np.arange(lag, SIDE), axis)
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


@pytest.fixture(scope="module")
def benign() -> list[Scan]:
    return [scan("benign", number) for number in range(12)]


@pytest.fixture(scope="module")
def malignant() -> list[Scan]:
    return [scan("malignant", number) for number in range(12)]


def test_homogeneous_tissue_gives_rayleigh_speckle() -> None:
    # Mean and deviation of a Rayleigh sample have relative standard errors of 0.523 and 0.749 / sqrt(n).
    speckled = speckle()
    error = 1.91 * (0.523 + 0.749) / np.sqrt(INDEPENDENT)
    assert speckled.mean() / speckled.std() == pytest.approx(np.sqrt(np.pi / (4 - np.pi)), abs=3 * error)


def test_a_strong_reflector_takes_the_speckle_away() -> None:
    assert speckle(reflectors=5).mean() / speckle(reflectors=5).std() > 5


def test_the_level_of_the_tissue_is_the_level_of_the_echo() -> None:
    # The power of speckle is exponential: its mean has the relative standard error 1 / sqrt(n).
    assert np.mean(speckle() ** 2) == pytest.approx(1, abs=3 / np.sqrt(INDEPENDENT))


def test_speckle_is_wider_across_than_in_depth_and_wider_off_focus() -> None:
    assert correlation(speckle(), axis=1) > correlation(speckle(), axis=0) + 0.2
    assert correlation(speckle(beam=4), axis=1) > correlation(speckle(), axis=1) + 0.2


@settings(max_examples=10)
@given(
    kind=st.sampled_from(["benign", "malignant", "normal"]), width=st.integers(64, 200), seed=st.integers(0, 2**32 - 1)
)
def test_every_scan_is_an_image_with_lesions_as_its_kind_says(kind: Any, width: int, seed: int) -> None:
    made = simulate(kind, width, CONTRAST, 1, np.random.default_rng(seed))
    assert made.image.dtype == np.uint8
    assert made.image.shape[1] == width
    assert 0.7 * width < made.image.shape[0] < 0.97 * width
    assert len(made.masks) == 0 if kind == "normal" else len(made.masks) in (1, 2)
    for mask in made.masks:
        assert mask.dtype == np.bool_
        assert mask.shape == made.image.shape
        assert 0 < mask.sum() < 0.5 * mask.size


def test_the_same_random_state_gives_the_same_scan_and_another_another() -> None:
    first, again, other = scan("malignant", 1), scan("malignant", 1), scan("malignant", 2)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.masks[0], again.masks[0])
    assert first.image.shape != other.image.shape or not np.array_equal(first.image, other.image)


def test_lesions_are_one_piece_each_and_darker_than_what_surrounds_them(
    benign: list[Scan], malignant: list[Scan]
) -> None:
    contrasts = []
    for made in benign + malignant:
        for mask in made.masks:
            assert label(mask)[1] == 1
            ring = binary_dilation(mask, iterations=8) & ~binary_dilation(mask, iterations=2)
            contrasts.append(made.image[ring].mean() - made.image[mask].mean())
    assert np.mean(np.array(contrasts) > 0) > 0.9


def test_more_contrast_makes_a_lesion_darker() -> None:
    def inside(contrast: float) -> float:
        made = scan("malignant", 3, contrast=(contrast, contrast))
        return float(made.image[made.masks[0]].mean())

    assert inside(4) > inside(12) > inside(20)


def test_malignant_outlines_are_more_irregular_and_taller(benign: list[Scan], malignant: list[Scan]) -> None:
    assert mean_shape(benign, "solidity") > mean_shape(malignant, "solidity") + 0.05
    assert upright(malignant) > upright(benign) + 0.1


def test_benign_lesions_enhance_and_malignant_ones_shadow(benign: list[Scan], malignant: list[Scan]) -> None:
    assert np.mean([below(made) for made in benign]) > 5
    assert np.mean([below(made) for made in malignant]) < -5


def mean_shape(scans: list[Scan], name: str) -> float:
    return float(np.mean([regionprops(made.masks[0].astype(int))[0][name] for made in scans]))  # type: ignore[no-untyped-call]


def upright(scans: list[Scan]) -> float:
    """Mean height / width of the first lesions."""
    return float(
        np.mean([np.any(m, axis=1).sum() / np.any(m, axis=0).sum() for m in (made.masks[0] for made in scans)])
    )


def below(made: Scan) -> float:
    """Grey of a window under the middle of the lesion, less the grey beside it in the same rows."""
    rows, columns = np.nonzero(made.masks[0])
    left, right = np.quantile(columns, [0.25, 0.75]).astype(int)
    window = made.image[rows.max() + 2 : rows.max() + 14]
    beside = np.ones(window.shape[1], bool)
    beside[max(columns.min() - 4, 0) : columns.max() + 5] = False
    return float(window[:, left:right].mean() - window[:, beside].mean())
