"""From an image to its mask, with all that was chosen on val."""

from itertools import count

import numpy as np
import pytest
import tiny
from extras import needs_crf
from pydantic import ValidationError

from medseg.core.errors import UserError
from medseg.data.geometry import Patchify, Resize, Scale
from medseg.data.image_io import Pixels
from medseg.inference.crf import CrfParams, apply_crf
from medseg.inference.postprocess import Probabilities
from medseg.inference.predictor import Predictor, to_prediction
from medseg.inference.settings import Augmentation, SegmenterDescription
from medseg.inference.sliding_window import Forward

TILES = Patchify(name="patchify", channels=1, patch=16, stride=8, border="pad")
CRF = CrfParams(
    iterations=3, gaussian_sigma=2, gaussian_weight=3, bilateral_sigma=20, bilateral_colour=10, bilateral_weight=5
)


def bright(pixels: Pixels) -> Probabilities:
    return np.moveaxis(pixels[..., :1], -1, 1).astype(np.float32) / np.float32(255)


def whole() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 1), np.uint8)


def test_a_pixel_is_foreground_from_the_threshold_that_was_chosen_on() -> None:
    image = np.array([[[101], [102], [103]]], np.uint8)  # 0.4 is 102 of 255
    frame = Resize(name="resize", channels=1, height=8, width=24, aspect="squash", small_objects="drop")
    found = Predictor(tiny.segmenter(frame, threshold=0.4), constant(image)).predict(image, 1)
    assert found.codes.tolist() == [[0, 1, 1]]
    assert found.codes.dtype == np.uint8
    assert found.probabilities.shape == (1, 1, 3)


def constant(image: Pixels) -> Forward:
    """Gives each third of its frame the brightness of one pixel of `image` (1, 3, 1)."""

    def forward(pixels: Pixels) -> Probabilities:
        columns = np.repeat(image[0, :, 0], pixels.shape[2] // 3).astype(np.float32) / np.float32(255)
        return np.broadcast_to(columns, (len(pixels), 1, *pixels.shape[1:3])).copy()

    return forward


@pytest.mark.parametrize(("augmentation", "times"), [("none", 1), ("mirror", 2), ("flips", 4), ("flips_and_turns", 8)])
def test_the_image_is_predicted_in_every_orientation_that_was_chosen(augmentation: Augmentation, times: int) -> None:
    calls = count()

    def counted(pixels: Pixels) -> Probabilities:
        next(calls)
        return bright(pixels)

    described = tiny.segmenter(tiny.resize(side=16), test_time_augmentation=augmentation)
    Predictor(described, counted).predict(whole(), 4)
    assert next(calls) == times


def test_tiles_overlap_as_described_and_come_in_batches_of_the_size() -> None:
    seen: list[int] = []

    def noted(pixels: Pixels) -> Probabilities:
        seen.append(len(pixels))
        return bright(pixels)

    described = tiny.segmenter(TILES)  # overlap 0.5: tiles of 16 at every 8 pixels
    Predictor(described, noted).predict(np.zeros((16, 48, 1), np.uint8), 2)
    assert seen == [2, 2, 1]


def test_a_network_of_one_size_gets_no_other() -> None:
    shapes: set[tuple[int, ...]] = set()

    def noted(pixels: Pixels) -> Probabilities:
        shapes.add(pixels.shape[1:])
        return bright(pixels)

    scaled = Scale(name="scale", channels=1, factor=1.0, small_objects="drop")
    Predictor(tiny.segmenter(scaled), noted, size=(24, 24)).predict(whole(), 2)
    assert shapes == {(24, 24, 1)}


@needs_crf
def test_the_random_field_comes_before_the_threshold_and_its_probabilities_are_given() -> None:
    image = whole()
    alone = Predictor(tiny.segmenter(TILES), bright).predict_probabilities(image, 4, "none").probabilities
    found = Predictor(tiny.segmenter(TILES, crf=CRF), bright).predict(image, 4)
    refined = apply_crf(alone, image, CRF)
    assert not np.array_equal(refined >= 0.5, alone >= 0.5)
    np.testing.assert_array_equal(found.probabilities, refined)
    np.testing.assert_array_equal(found.codes, refined[0] >= 0.5)


def test_a_prediction_is_the_probabilities_and_what_follows_them() -> None:
    described = tiny.segmenter(TILES, test_time_augmentation="flips", largest_component=True)
    predictor, image = Predictor(described, bright), whole()
    augmented = predictor.predict_probabilities(image, 4, "flips")
    found = to_prediction(augmented.probabilities, image, described.chosen.choices)
    np.testing.assert_array_equal(found.codes, predictor.predict(image, 4).codes)
    assert augmented.deviation.shape == image.shape[:2]


def test_a_description_survives_being_written_and_is_more_than_that_of_its_network() -> None:
    described = tiny.segmenter(threshold=0.4, crf=CRF)
    assert SegmenterDescription.model_validate_json(described.model_dump_json()) == described
    with pytest.raises(ValidationError, match="overlap"):
        SegmenterDescription.model_validate_json(tiny.description().model_dump_json())


def test_a_network_that_gives_no_numbers_is_told() -> None:
    def forward(pixels: Pixels) -> Probabilities:
        return np.full((len(pixels), 1, *pixels.shape[1:3]), np.nan, np.float32)

    with pytest.raises(UserError, match="gives values that are no numbers"):
        Predictor(tiny.segmenter(TILES), forward).predict_probabilities(whole(), 1, "none")
