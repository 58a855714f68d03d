"""A scored image's mask as a file, and its drawing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from PIL import Image

from medseg.core.errors import UserError
from medseg.data.colours import CLASSES, PREDICTION, TRUTH, Colour
from medseg.data.image_io import Pixels, read_image
from medseg.data.task import Multiclass, TaskParams
from medseg.datasets.record import Region
from medseg.evaluation.cases import coloured, draw_case
from medseg.inference.prediction_files import MASKS, mask_path, read_prediction, write_prediction, write_uncertainty

THREE = Multiclass(name="multiclass", background="normal", labels=["benign", "malignant", "unclear"])


def drawn(folder: Path, codes: Pixels, task: TaskParams, **changes: Any) -> Pixels:
    """A grey image of 40 x 60, annotated on its left half, with a prediction."""
    truth = np.zeros((40, 60), np.uint8)
    truth[:, :30] = 1
    case = tiny.image(folder / "raw", "a.png", np.full((40, 60, 1), 90, np.uint8), truth, **changes)
    write_prediction(mask_path(folder / "predictions" / MASKS, case), codes, task)
    return draw_case(case, folder / "predictions", task, 192)


def pixels_of(drawing: Pixels, colour: Colour) -> int:
    return int((drawing == colour).all(axis=-1).sum())


@pytest.mark.parametrize(("task", "most"), [(tiny.BINARY, 1), (THREE, 3)], ids=["binary", "classes"])
def test_a_prediction_comes_back_as_it_was(tmp_path: Path, task: TaskParams, most: int) -> None:
    codes = np.random.default_rng(0).integers(0, most + 1, (20, 30), np.uint8)
    write_prediction(tmp_path / "a.png", codes, task)
    np.testing.assert_array_equal(read_prediction(tmp_path / "a.png", task), codes)


def test_a_binary_mask_is_grey_0_and_255(tmp_path: Path) -> None:
    write_prediction(tmp_path / "a.png", np.array([[0, 1]], np.uint8), tiny.BINARY)
    with Image.open(tmp_path / "a.png") as opened:
        assert opened.mode == "L"
        assert np.asarray(opened).tolist() == [[0, 255]]


def test_a_mask_of_classes_shows_the_colours_of_the_overlay(tmp_path: Path) -> None:
    write_prediction(tmp_path / "a.png", np.array([[0, 1, 2, 3]], np.uint8), THREE)
    with Image.open(tmp_path / "a.png") as opened:
        assert opened.mode == "P"
        assert np.asarray(opened.convert("RGB"))[0].tolist() == [[0, 0, 0], *map(list, CLASSES[:3])]


def test_each_class_is_outlined_in_its_colour(tmp_path: Path) -> None:
    codes = np.zeros((40, 60), np.uint8)
    codes[5:15, 35:45], codes[20:30, 35:45] = 1, 3
    drawing = drawn(tmp_path, codes, THREE)
    border = 4 * 9  # of a square of 10 x 10
    assert [pixels_of(drawing, colour) for colour in CLASSES[:3]] == [border, 0, border]
    assert pixels_of(drawing, TRUTH) == 2 * (30 + 40) - 4
    assert pixels_of(drawing, PREDICTION) == 0


def test_a_binary_prediction_is_red(tmp_path: Path) -> None:
    codes = np.zeros((40, 60), np.uint8)
    codes[5:15, 35:45] = 1
    drawing = drawn(tmp_path, codes, tiny.BINARY)
    assert pixels_of(drawing, PREDICTION) == 4 * 9
    assert all(pixels_of(drawing, colour) == 0 for colour in CLASSES)


def test_the_truth_is_tinted_so_that_an_inverted_one_is_seen(tmp_path: Path) -> None:
    drawing = drawn(tmp_path, np.zeros((40, 60), np.uint8), tiny.BINARY)
    assert (drawing[1:-1, 1:29] == np.rint(0.85 * 90 + 0.15 * np.array(TRUTH))).all()
    assert (drawing[:, 30:] == 90).all()


def test_only_the_region_is_drawn(tmp_path: Path) -> None:
    codes = np.zeros((40, 60), np.uint8)
    codes[:, :5] = 2
    drawing = drawn(tmp_path, codes, THREE, region=Region(10, 20, 40, 60))
    assert drawing.shape == (30, 40, 3)
    assert pixels_of(drawing, CLASSES[1]) == 0


def test_a_mask_of_another_task_is_named(tmp_path: Path) -> None:
    write_prediction(tmp_path / "a.png", np.array([[0, 1]], np.uint8), tiny.BINARY)
    with pytest.raises(UserError, match=r"a\.png: has no palette"):
        read_prediction(tmp_path / "a.png", THREE)


def test_uncertainty_is_white_where_half_the_orientations_say_no(tmp_path: Path) -> None:
    write_uncertainty(tmp_path / "a.png", np.array([[0.0, 0.25, 0.5]], np.float32))
    assert read_image(tmp_path / "a.png")[..., 0].tolist() == [[0, 128, 255]]


def test_the_colours_of_uncertainty_run_from_black_to_yellow() -> None:
    colours = coloured(np.array([[0, 128, 255]], np.uint8)).astype(int)[0]
    assert colours[0].max() < 10
    assert list(colours.sum(axis=1)) == sorted(colours.sum(axis=1))
    red, green, blue = colours[2]
    assert min(red, green) > 200 > blue
