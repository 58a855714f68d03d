"""A picture of any size through a network, whole or tile by tile."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medseg import tiling
from medseg.geometry import Geometry, Patchify, Resize, Scale
from medseg.imaging import Pixels
from medseg.patches import blending_weight, origins, pad_to, padded_size, stitch
from medseg.postprocess import Probabilities
from medseg.tiling import predict_picture, predict_tiles

REACH = 2  # pixels that `blurred` sees in each direction


class Recorder:
    """Gives the brightness, 0..1, of the first channel, and notes the shapes of the batches that it saw."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, pixels: Pixels) -> Probabilities:
        self.shapes.append(pixels.shape)
        return brightness(pixels)


def brightness(pixels: Pixels) -> Probabilities:
    return np.moveaxis(pixels[..., :1], -1, 1).astype(np.float32) / 255


def blurred(pixels: Pixels) -> Probabilities:
    """The mean brightness of a neighbourhood, with zeros beyond the border, as convolutions see it."""
    side = 2 * REACH + 1
    return np.stack([ndimage.uniform_filter(plane, (1, side, side), mode="constant") for plane in brightness(pixels)])


def misled(pixels: Pixels) -> Probabilities:
    """1 where `blurred` saw beyond the border of what it was given, else 0."""
    given = np.ones((len(pixels), 1, *pixels.shape[1:3]), np.float32)
    given[..., REACH:-REACH, REACH:-REACH] = 0
    return given


def picture(height: int, width: int, channels: int = 1) -> Pixels:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, channels), np.uint8)


def patches(patch: int) -> Patchify:
    return Patchify(name="patchify", channels=1, patch=patch, stride=patch // 2, border="drop")


def resize(height: int, width: int) -> Resize:
    return Resize(name="resize", channels=1, height=height, width=width, aspect="squash")


def scale(factor: float) -> Scale:
    return Scale(name="scale", channels=1, factor=factor)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 50),
    st.integers(1, 50),
    st.sampled_from([0.0, 0.3, 0.5, 0.94]),
    st.integers(1, 7),
    st.integers(8, 16),
)
def test_adding_up_batch_by_batch_equals_stitching_all_tiles_at_once(
    height: int, width: int, overlap: float, batch_size: int, tile: int
) -> None:
    image, stride = picture(height, width), max(1, round(tile * (1 - overlap)))
    padded = pad_to(image, padded_size(height, tile, stride), padded_size(width, tile, stride))
    places = origins(height, width, tile, stride, "pad")
    tiles = blurred(np.stack([padded[top : top + tile, left : left + tile] for top, left in places]))
    found = predict_tiles(blurred, image, tile, overlap, batch_size)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, stitch(tiles, places, height, width, blending_weight(tile)))


def seams(overlap: float) -> tuple[Probabilities, Probabilities]:
    """How far tiles of 32 differ from one piece of 150 x 133 away from its border, and by how much they may."""
    image = picture(150, 133)
    inner = slice(REACH, -REACH), slice(REACH, -REACH)
    difference = np.abs(predict_tiles(blurred, image, 32, overlap, 8) - blurred(image[None])[0])[0][inner]
    return difference, predict_tiles(misled, image, 32, overlap, 8)[0][inner]


def test_tiles_that_overlap_by_half_show_no_seam() -> None:
    # What a tile tells wrongly lies within the network's reach of its border, and weighs this little beside the others.
    difference, share = seams(0.5)
    assert share.max() < 0.02
    assert (difference <= share + 1e-6).all()
    assert difference.max() < 0.005


def test_tiles_that_do_not_overlap_show_seams() -> None:
    difference, share = seams(0.0)
    assert share.max() == 1
    assert difference.max() > 0.1


def peak(height: int, width: int, batch_size: int = 4) -> int:
    """The most memory in bytes that prediction takes beside the picture."""
    image = picture(height, width)
    tracemalloc.start()
    try:
        predict_tiles(brightness, image, 64, 0.5, batch_size)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_grows_by_the_result_and_its_weights_alone() -> None:
    small, large = (200, 300), (400, 600)
    pixels = large[0] * large[1] - small[0] * small[1]
    per_tile = 1000  # bytes, the places of the tiles
    tiles = len(origins(*large, 64, 32, "pad"))
    assert peak(*large) - peak(*small) <= pixels * 2 * 4 + tiles * per_tile  # two planes of float32


def test_memory_of_a_batch_is_all_that_the_batch_size_costs() -> None:
    assert peak(200, 300, batch_size=40) - peak(200, 300, batch_size=1) > 39 * 64 * 64 * 4


def test_the_batch_size_bounds_batches_and_changes_nothing() -> None:
    image, recorder = picture(40, 30), Recorder()
    found = predict_tiles(recorder, image, 16, 0.5, 3)
    assert max(shape[0] for shape in recorder.shapes) == 3
    assert {shape[1:] for shape in recorder.shapes} == {(16, 16, 1)}
    np.testing.assert_array_equal(found, predict_tiles(brightness, image, 16, 0.5, 100))


@pytest.mark.parametrize("geometry", [patches(16), resize(24, 40), scale(0.5)], ids=lambda geometry: str(geometry.name))
@pytest.mark.parametrize("size", [(7, 90), (16, 16), (33, 50)])
def test_probabilities_have_the_size_of_the_picture(geometry: Geometry, size: tuple[int, int]) -> None:
    assert predict_picture(brightness, picture(*size), geometry, 0.5, 4).shape == (1, *size)


def test_a_resized_picture_is_seen_whole_at_the_size_of_the_samples() -> None:
    recorder = Recorder()
    predict_picture(recorder, picture(300, 200), resize(24, 40), 0.5, 4, size=(24, 40))
    assert recorder.shapes == [(1, 24, 40, 1)]


def test_a_scaled_picture_is_seen_whole_until_it_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "LARGEST_WHOLE", 50 * 40)
    monkeypatch.setattr(tiling, "LARGE_TILE", 32)
    recorder = Recorder()
    predict_picture(recorder, picture(100, 80), scale(0.5), 0.5, 4)
    assert recorder.shapes == [(1, 50, 40, 1)]
    recorder = Recorder()
    predict_picture(recorder, picture(102, 80), scale(0.5), 0.5, 4)
    assert set(recorder.shapes) == {(1, 32, 32, 1)}


def test_a_network_of_one_size_sees_scaled_pictures_in_tiles_of_it() -> None:
    recorder = Recorder()
    found = predict_picture(recorder, picture(20, 50), scale(1), 0.5, 4, size=(32, 32))
    assert set(recorder.shapes) == {(1, 32, 32, 1)}
    np.testing.assert_allclose(found, brightness(picture(20, 50)[None])[0], atol=1e-5)


@pytest.mark.parametrize("geometry", [patches(16), resize(24, 40), scale(1)], ids=lambda geometry: str(geometry.name))
def test_colour_becomes_what_the_network_was_trained_on(geometry: Geometry) -> None:
    recorder = Recorder()
    predict_picture(recorder, picture(20, 50, 3), geometry, 0.5, 4)
    assert {shape[-1] for shape in recorder.shapes} == {1}
