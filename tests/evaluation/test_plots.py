"""What DVC draws of an evaluation: its tables, and the sheets of cases."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
from scored import drawn, run

from medseg.data.colours import CLASSES, PREDICTION, TRUTH
from medseg.data.image import Image
from medseg.data.image_io import read_image
from medseg.evaluation.evaluate import Evaluation
from medseg.evaluation.plots import case_sheet, dice_by_label, dice_histogram, initials, uncertainty_sheet, write_plots
from medseg.evaluation.summary import summary_table

NO_THRESHOLDS = pd.DataFrame({"threshold": [], "dice": []})
TABLES = [
    "calibration.csv",
    "confusion.csv",
    "counts.csv",
    "dice_by_label.csv",
    "dice_histogram.csv",
    "precision_recall.csv",
    "thresholds.csv",
]


def plots(evaluation: Evaluation, images: list[Image], predictions: Path, folder: Path) -> list[str]:
    """Write the plots and give the names of the files."""
    folder.mkdir()
    write_plots(evaluation, NO_THRESHOLDS, summary_table(evaluation.table), images, predictions, folder)
    return sorted(path.name for path in folder.iterdir())


def test_the_histogram_counts_each_image_with_foreground_once(evaluation: Evaluation) -> None:
    histogram = dice_histogram(evaluation.table).set_index("dice")["images"]
    assert histogram.sum() == 3
    assert (histogram["0.00"], histogram["0.65"], histogram["0.95"]) == (1, 1, 1)


def test_only_empty_images_still_give_a_sheet(tmp_path: Path) -> None:
    nothing = np.zeros((16, 16), np.uint8)
    images = [tiny.image(tmp_path / "raw", "a.png", drawn(nothing), nothing)]
    assert plots(run(tmp_path, images), images, tmp_path, tmp_path / "plots") == sorted(["cases.png", *TABLES])
    assert (tmp_path / "plots/dice_by_label.csv").read_text() == "label,dice\n"


def test_labels_stand_with_their_means_and_that_of_all(evaluation: Evaluation) -> None:
    table = dice_by_label(summary_table(evaluation.table)).set_index("label")["dice"]
    assert table.round(4).to_dict() == {"all": 0.5556, "benign": 1.0, "malignant": 0.3333}


def test_counts_stand_beside_those_of_the_truth(
    evaluation: Evaluation, images: list[Image], folder: Path, tmp_path: Path
) -> None:
    plots(evaluation, images, folder, tmp_path / "plots")
    counts = pd.read_csv(tmp_path / "plots/counts.csv").set_index("file")
    assert counts[["counted_truth", "counted_predicted"]].to_numpy().tolist() == [[1, 1], [1, 1], [1, 0], [0, 1]]


def test_the_uncertain_images_stand_over_their_maps(tmp_path: Path) -> None:
    names = ("a.png", "b.png")
    images = [tiny.image(tmp_path / "raw", name, *tiny.square(number, 200, 200)) for number, name in enumerate(names)]
    evaluation = run(tmp_path, images, tiny.resize(side=32), uncertainty="flips")
    assert plots(evaluation, images, tmp_path, tmp_path / "plots") == sorted(["cases.png", "uncertainty.png", *TABLES])
    sheet = uncertainty_sheet(evaluation, images, tmp_path, columns=6)
    assert sheet.shape == (2 * 196 + 4, 2 * 196 + 4, 3)
    assert (sheet[:196] == TRUTH).all(axis=-1).any()
    assert not (sheet[196:] == TRUTH).all(axis=-1).any()


def test_the_sheet_shows_worst_median_and_best_in_rows(
    evaluation: Evaluation, images: list[Image], folder: Path
) -> None:
    sheet = case_sheet(evaluation, images, folder, columns=1)
    assert sheet.shape == (3 * 196 + 4, 196 + 4, 3)
    worst = sheet[:196]
    assert not (worst == PREDICTION).all(axis=-1).any()  # nothing was found there
    assert (worst == TRUTH).all(axis=-1).any()


def test_fewer_images_than_columns_make_shorter_rows(evaluation: Evaluation, images: list[Image], folder: Path) -> None:
    assert case_sheet(evaluation, images, folder, columns=6).shape == (3 * 196 + 4, 3 * 196 + 4, 3)


def test_outlines_of_large_images_stay_crisp(tmp_path: Path) -> None:
    truth = tiny.circle(1000, 300)
    images = [tiny.image(tmp_path / "raw", "large.png", drawn(np.zeros_like(truth)), truth)]
    sheet = case_sheet(run(tmp_path, images, tiny.resize()), images, tmp_path, columns=1)
    line = (sheet[4:196, 4:196] == TRUTH).all(axis=-1).sum()
    assert line > 2 * np.pi * 300 * 192 / 1000 * 0.8  # nearly as many pure pixels as the circle is long


def test_classes_are_drawn_in_their_colours(
    classes: Evaluation, class_images: list[Image], class_folder: Path, tmp_path: Path
) -> None:
    plots(classes, class_images, class_folder, tmp_path / "plots")
    assert (tmp_path / "plots/confusion.csv").read_text().splitlines()[:3] == [
        "actual,predicted",
        "benign,benign",
        "malignant,benign",
    ]
    sheet = read_image(tmp_path / "plots/cases.png")
    assert all((sheet == colour).all(axis=-1).any() for colour in (TRUTH, *CLASSES[:2]))
    assert not (sheet == PREDICTION).all(axis=-1).any()


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["normal", "benign", "malignant"], ["nor", "ben", "mal"]),
        (["none", "grade 1", "grade 2"], ["none", "grade 1", "grade 2"]),
        (["no", "yes"], ["no", "yes"]),
        (["ab", "abc"], ["ab", "abc"]),
    ],
)
def test_names_are_cut_where_they_stay_apart(names: list[str], short: list[str]) -> None:
    assert list(initials(names).values()) == short
