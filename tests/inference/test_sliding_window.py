"""An image of any size through a network, whole or tile by tile."""

import tracemalloc
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor, nn

from medseg.data.geometry import Geometry, Patchify, Resize, Scale
from medseg.data.image_io import Pixels
from medseg.data.patches import blending_weight, origins, pad_to, padded_size
from medseg.inference import sliding_window
from medseg.inference.postprocess import Probabilities
from medseg.inference.sliding_window import Forward, forward_in_chunks, predict_image, predict_tiles
from medseg.inference.torch_backend import network_forward

REACH = 2  # pixels that `blurred` sees in each direction


class Recorder:
    """Gives the brightness, 0..1, of the first channel, and notes the shapes of the batches that it saw."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, pixels: Pixels) -> Probabilities:
        self.shapes.append(pixels.shape)
        return brightness(pixels)


def brightness(pixels: Pixels) -> Probabilities:
    return np.moveaxis(pixels[..., :1], -1, 1).astype(np.float32) / np.float32(255)


def blurred(pixels: Pixels) -> Probabilities:
    """The mean brightness of a neighbourhood, with zeros beyond the border, as convolutions see it."""
    side = 2 * REACH + 1
    return np.stack([ndimage.uniform_filter(plane, (1, side, side), mode="constant") for plane in brightness(pixels)])


def misled(reach: int) -> Forward:
    """1 where a network that sees `reach` pixels around each one saw beyond the border of its input, else 0."""

    def forward(pixels: Pixels) -> Probabilities:
        given = np.ones((len(pixels), 1, *pixels.shape[1:3]), np.float32)
        given[..., reach:-reach, reach:-reach] = 0
        return given

    return forward


def convolutions() -> Forward:
    """A network of four convolutions by PyTorch that sees 8 pixels in each direction, its probabilities spread out."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    widths = list(pairwise([1, 8, 8, 8, 1]))
    layers = [nn.Conv2d(before, after, 3, padding=2, dilation=2) for before, after in widths]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight)
    network = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))[:-1]
    return network_forward(nn.Sequential(Centred(), network), tiny.BINARY, torch.device("cpu"))


class Centred(nn.Module):
    """Pixels to -2..2."""

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels.float() - 128) / 64


def whole(height: int, width: int, channels: int = 1) -> Pixels:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, channels), np.uint8)


def patches(patch: int) -> Patchify:
    return Patchify(name="patchify", channels=1, patch=patch, stride=patch // 2, border="drop")


def resize(height: int, width: int) -> Resize:
    return Resize(name="resize", channels=1, height=height, width=width, aspect="squash", small_objects="drop")


def scale(factor: float) -> Scale:
    return Scale(name="scale", channels=1, factor=factor, small_objects="drop")


LAYOUTS = (st.integers(1, 50), st.integers(1, 50), st.sampled_from([0.0, 0.3, 0.5, 0.94]), st.integers(1, 7))


@settings(max_examples=30)
@given(*LAYOUTS, st.integers(1, 16))
def test_cutting_and_putting_back_is_the_identity(
    height: int, width: int, overlap: float, batch_size: int, tile: int
) -> None:
    image = whole(height, width)
    found = predict_tiles(brightness, image, tile, overlap, batch_size)
    assert found.dtype == np.float32
    # Up to 16 x 16 tiles overlap in a pixel, and a sum of so many single-precision numbers may be off by their count.
    np.testing.assert_allclose(found, brightness(image[None])[0], rtol=256 * float(np.finfo(np.float32).eps))


@settings(max_examples=30)
@given(*LAYOUTS, st.integers(8, 16))
def test_each_pixel_is_the_mean_of_its_tiles_by_weight(
    height: int, width: int, overlap: float, batch_size: int, tile: int
) -> None:
    image, stride = whole(height, width), max(1, round(tile * (1 - overlap)))
    padded = pad_to(image, padded_size(height, tile, stride), padded_size(width, tile, stride))
    total, weights = np.zeros(padded.shape[:2]), np.zeros(padded.shape[:2])
    for top, left in origins(height, width, tile, stride, "pad"):
        inside = slice(top, top + tile), slice(left, left + tile)
        total[inside] += blurred(padded[inside][None])[0, 0] * blending_weight(tile).astype(np.float64)
        weights[inside] += blending_weight(tile)
    found = predict_tiles(blurred, image, tile, overlap, batch_size)
    np.testing.assert_allclose(found[0], (total / weights)[:height, :width], rtol=256 * float(np.finfo(np.float32).eps))


def test_a_tile_larger_than_the_image_sees_it_mirrored_over_and_over() -> None:
    image, seen = whole(2, 3), list[Pixels]()

    def forward(pixels: Pixels) -> Probabilities:
        seen.append(pixels)
        return brightness(pixels)

    predict_tiles(forward, image, 9, 0.0, 1)
    np.testing.assert_array_equal(seen, [pad_to(image, 9, 9)[None]])


def test_a_network_that_leaves_a_tile_out_is_no_network() -> None:
    with pytest.raises(ValueError, match="zip"):
        predict_tiles(lambda pixels: brightness(pixels)[1:], whole(20, 20), 8, 0.5, 4)


def seams(forward: Forward, reach: int, tile: int, overlap: float) -> tuple[Probabilities, Probabilities]:
    """How far tiles differ from one piece of 250 x 233 away from its border, and by how much they may.

    What a tile tells wrongly lies within the network's reach of its border. Probabilities being in 0..1, it changes
    the blended one by what it weighs beside the other tiles at most.
    """
    image = whole(250, 233)
    inner = slice(reach, -reach), slice(reach, -reach)
    difference = np.abs(predict_tiles(forward, image, tile, overlap, 8) - forward(image[None])[0])[0][inner]
    return difference, predict_tiles(misled(reach), image, tile, overlap, 8)[0][inner]


NETWORKS = pytest.mark.parametrize(
    ("network", "reach", "tile"),
    [(lambda: blurred, REACH, 32), (convolutions, 8, 80)],
    ids=["blur", "convolutions"],
)


@NETWORKS
def test_tiles_that_overlap_by_half_show_no_seam(network: Callable[[], Forward], reach: int, tile: int) -> None:
    difference, share = seams(network(), reach, tile, 0.5)
    assert share.max() < 0.02
    assert (difference <= share + 1e-6).all()
    assert difference.max() < 0.005


@NETWORKS
def test_tiles_that_do_not_overlap_show_seams(network: Callable[[], Forward], reach: int, tile: int) -> None:
    difference, share = seams(network(), reach, tile, 0.0)
    assert share.max() == 1
    assert difference.max() > 0.1


def peak(height: int, width: int, batch_size: int = 4, overlap: float = 0.5) -> int:
    """The most memory in bytes that prediction takes beside the image."""
    image = whole(height, width)
    tracemalloc.start()
    try:
        predict_tiles(brightness, image, 64, overlap, batch_size)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("overlap", "stride", "planes"), [(0.5, 32, 2), (0.0, 64, 1)])
def test_memory_grows_by_the_result_and_where_tiles_overlap_its_weights(
    overlap: float, stride: int, planes: int
) -> None:
    small, large = (200, 300), (400, 600)
    pixels = large[0] * large[1] - small[0] * small[1]
    per_tile = 1000  # bytes, the places of the tiles
    tiles = len(origins(*large, 64, stride, "pad"))
    grown = peak(*large, overlap=overlap) - peak(*small, overlap=overlap)
    assert grown <= pixels * planes * 4 + tiles * per_tile  # planes of float32


def test_memory_of_a_batch_is_all_that_the_batch_size_costs() -> None:
    assert peak(200, 300, batch_size=40) - peak(200, 300, batch_size=1) > 39 * 64 * 64 * 4


def test_the_batch_size_bounds_batches_and_changes_nothing() -> None:
    image, recorder = whole(40, 30), Recorder()
    found = predict_tiles(recorder, image, 16, 0.5, 3)
    assert max(shape[0] for shape in recorder.shapes) == 3
    assert {shape[1:] for shape in recorder.shapes} == {(16, 16, 1)}
    np.testing.assert_array_equal(found, predict_tiles(brightness, image, 16, 0.5, 100))


def test_a_batch_has_no_more_pixels_than_a_large_tile_but_one_tile_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sliding_window, "MAX_PIXELS", 2 * 16**2)
    for tile, most in [(16, 2), (32, 1)]:
        recorder = Recorder()
        predict_tiles(recorder, whole(64, 64), tile, 0.0, 100)
        assert {shape[0] for shape in recorder.shapes} == {most}


def test_tiles_side_by_side_keep_their_probabilities_bit_by_bit() -> None:
    image = whole(40, 30)
    np.testing.assert_array_equal(predict_tiles(brightness, image, 16, 0.0, 3), brightness(image[None])[0])


@pytest.mark.parametrize(("most", "counts"), [(1, [1] * 5), (12 * 2, [2, 2, 1]), (12 * 5, [5])])
def test_chunks_of_a_batch_give_what_the_batch_gives(most: int, counts: list[int]) -> None:
    batch, recorder = np.stack([whole(3, 4) + np.uint8(number) for number in range(5)]), Recorder()
    np.testing.assert_array_equal(forward_in_chunks(recorder, batch, most), brightness(batch))
    assert [shape[0] for shape in recorder.shapes] == counts


@pytest.mark.parametrize("geometry", [patches(16), resize(24, 40), scale(0.5)], ids=lambda geometry: str(geometry.name))
@pytest.mark.parametrize("size", [(7, 90), (16, 16), (33, 50)])
def test_probabilities_have_the_size_of_the_image(geometry: Geometry, size: tuple[int, int]) -> None:
    assert predict_image(brightness, whole(*size), geometry, 0.5, 4).shape == (1, *size)


def test_a_resized_image_is_seen_whole_at_the_size_of_the_samples() -> None:
    recorder = Recorder()
    predict_image(recorder, whole(300, 200), resize(24, 40), 0.5, 4, size=(24, 40))
    assert recorder.shapes == [(1, 24, 40, 1)]


def test_a_scaled_image_is_seen_whole_until_it_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sliding_window, "MAX_PIXELS", 50 * 40)
    monkeypatch.setattr(sliding_window, "LARGE_TILE", 32)
    recorder = Recorder()
    predict_image(recorder, whole(100, 80), scale(0.5), 0.5, 4)
    assert recorder.shapes == [(1, 50, 40, 1)]
    recorder = Recorder()
    predict_image(recorder, whole(102, 80), scale(0.5), 0.5, 4)
    assert set(recorder.shapes) == {(1, 32, 32, 1)}


def test_a_network_of_one_size_sees_scaled_images_in_tiles_of_it() -> None:
    recorder = Recorder()
    found = predict_image(recorder, whole(20, 50), scale(1), 0.5, 4, size=(32, 32))
    assert set(recorder.shapes) == {(1, 32, 32, 1)}
    np.testing.assert_allclose(found, brightness(whole(20, 50)[None])[0], atol=1e-5)


@pytest.mark.parametrize("geometry", [patches(16), resize(24, 40), scale(1)], ids=lambda geometry: str(geometry.name))
def test_colour_becomes_what_the_network_was_trained_on(geometry: Geometry) -> None:
    recorder = Recorder()
    predict_image(recorder, whole(20, 50, 3), geometry, 0.5, 4)
    assert {shape[-1] for shape in recorder.shapes} == {1}
