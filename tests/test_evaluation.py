"""Pictures scored at their own size, by a network that sees brightness alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from torch import Tensor, nn

from medseg.cases import mask_path, read_prediction
from medseg.classes import Multiclass
from medseg.datasets.ucsb import scan_ucsb
from medseg.errors import UserError
from medseg.evaluation import (
    EvaluateParams,
    Evaluation,
    case_sheet,
    confusion,
    dice_histogram,
    evaluate,
    initials,
    scored_split,
    summarise,
    write_plots,
    write_tables,
)
from medseg.figures import CLASSES, PREDICTION, TRUTH
from medseg.geometry import Geometry, Patchify
from medseg.imaging import Pixels, read_image
from medseg.manifest import ManifestParams, measure, read_pair, region_of
from medseg.params import validate

PARAMS = EvaluateParams(threshold=0.5, overlap=0.5, batch_size=2)
TILES = Patchify(name="patchify", channels=1, patch=16, stride=16, border="pad")


class Bright(nn.Module):
    """Foreground where a pixel is above 128."""

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels[:, :1].float() - 128.5) / 16


def drawn(mask: Pixels) -> Pixels:
    """A grey picture that `Bright` segments as `mask`."""
    return (mask * np.uint8(200) + 20)[..., None].astype(np.uint8)


def run(folder: Path, rows: list[dict[str, Any]], geometry: Geometry = TILES, threshold: float = 0.5) -> Evaluation:
    description = tiny.description(geometry, threshold=threshold)
    table = pd.DataFrame(rows)
    return evaluate(Bright(), description, table, folder / "raw", PARAMS, tiny.CPU, folder / "masks")


def half(height: int, width: int) -> Pixels:
    mask = np.zeros((height, width), np.uint8)
    mask[:, : width // 2] = 1
    return mask


def rows_of_four(raw: Path) -> list[dict[str, Any]]:
    """One found whole (Dice 1), one found by half (2/3), one missed (0), one empty with false positives."""
    nothing = np.zeros((20, 30), np.uint8)
    all_over = np.ones((20, 30), np.uint8)
    return [
        tiny.row(raw, "whole.png", drawn(half(20, 30)), half(20, 30), label="benign"),
        tiny.row(raw, "by half.png", drawn(half(20, 30)), all_over, label="malignant"),
        tiny.row(raw, "missed.png", drawn(nothing), half(20, 30), label="malignant"),
        tiny.row(raw, "empty.png", drawn(half(20, 30)), nothing, label="normal"),
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, Any]]:
    return rows_of_four(folder / "raw")


@pytest.fixture(scope="module")
def evaluation(folder: Path, rows: list[dict[str, Any]]) -> Evaluation:
    return run(folder, rows)


def test_each_image_has_its_row(evaluation: Evaluation) -> None:
    table = evaluation.table.set_index("file")
    assert table["dice"].round(4).tolist()[:3] == [1.0, 0.6667, 0.0]
    assert table[table.index == "empty.png"][["dice", "iou", "precision", "recall"]].isna().all(axis=None)
    counts = table[["truth_pixels", "predicted_pixels", "shared_pixels"]].to_numpy()
    assert counts.tolist() == [[300, 300, 300], [600, 300, 300], [300, 0, 0], [0, 300, 0]]
    assert (table["region_pixels"] == 600).all()
    assert table.loc["missed.png", "precision"] == 0


def test_means_leave_out_images_without_foreground_and_keep_missed_ones(evaluation: Evaluation) -> None:
    summary = summarise(evaluation)
    assert (summary["split"], summary["images"], summary["missed"]) == ("test", 3, 1)
    assert summary["dice"] == pytest.approx((1 + 2 / 3 + 0) / 3, abs=1e-6)
    assert summary["iou"] == pytest.approx((1 + 1 / 2 + 0) / 3, abs=1e-6)
    assert summary["accuracy"] == pytest.approx((1 + 1 / 2 + 1 / 2) / 3, abs=1e-6)


def test_images_without_foreground_stand_by_themselves(evaluation: Evaluation) -> None:
    assert summarise(evaluation)["empty"] == {"images": 1, "with_false_positives": 1.0, "false_positive_area": 0.5}


def test_pooled_figures_count_every_pixel(evaluation: Evaluation) -> None:
    # Shared 300 + 300, predicted 300 + 300 + 300, truth 300 + 600 + 300.
    assert summarise(evaluation)["pooled"] == {"dice": round(1200 / 2100, 6), "iou": round(600 / 1500, 6)}


def test_each_label_has_its_means(evaluation: Evaluation) -> None:
    labels = summarise(evaluation)["labels"]
    assert sorted(labels) == ["benign", "malignant"]
    assert (labels["benign"]["images"], labels["benign"]["dice"]) == (1, 1.0)
    assert labels["malignant"]["dice"] == pytest.approx(1 / 3, abs=1e-6)


def test_masks_are_written_at_the_pictures_own_size(evaluation: Evaluation, folder: Path) -> None:
    mask = read_image(folder / "masks/by half.png")[..., 0]
    np.testing.assert_array_equal(mask, half(20, 30) * 255)
    assert len(evaluation.table) == len(list((folder / "masks").iterdir())) == 4


@pytest.mark.parametrize("geometry", [tiny.resize(side=16), tiny.resize(channels=3, side=64), TILES])
def test_whatever_the_network_saw_the_picture_keeps_its_size(tmp_path: Path, geometry: Geometry) -> None:
    mask = tiny.circle(50, 18)[:44]
    evaluation = run(tmp_path, [tiny.row(tmp_path / "raw", "deep/in/a.tif.png", drawn(mask), mask)], geometry)
    assert read_image(tmp_path / "masks/deep/in/a.tif.png").shape == (44, 50, 1)
    assert evaluation.table["region_pixels"].tolist() == [44 * 50]
    assert evaluation.table["dice"].iloc[0] > 0.9


def test_pixels_outside_the_annotated_region_never_count(tmp_path: Path) -> None:
    truth = np.zeros((30, 40), np.uint8)
    truth[10:15, 10:20] = 1
    tables = []
    for name, outside in (("dark", 0), ("bright", 255)):
        image = drawn(truth)
        flipped = np.full_like(image, outside)
        flipped[5:20, 8:25] = image[5:20, 8:25]
        rows = [tiny.row(tmp_path / name / "raw", "a.png", flipped, truth, region="5:8:20:25")]
        tables.append(run(tmp_path / name, rows))
    first, second = tables
    pd.testing.assert_frame_equal(first.table, second.table)
    pd.testing.assert_frame_equal(first.curve, second.curve)
    assert first.table["region_pixels"].tolist() == [15 * 17]
    assert first.table["dice"].tolist() == [1.0]


def test_the_threshold_is_the_descriptions_and_a_pixel_on_it_is_foreground(tmp_path: Path) -> None:
    image = np.full((16, 16, 1), 120, np.uint8)
    image[:8] = 140
    probability = float(torch.sigmoid(torch.tensor((140 - 128.5) / 16)))
    areas = []
    for threshold in (0.1, 0.5, probability + 0.01):
        row = tiny.row(tmp_path / "raw", "a.png", image, half(16, 16))
        areas.append(run(tmp_path, [row], tiny.resize(side=16), threshold).table["predicted_pixels"].iloc[0])
    assert areas == [256, 128, 0]


def test_val_is_scored_where_there_is_no_test_and_says_so(tmp_path: Path) -> None:
    mask = half(16, 16)
    rows = [tiny.row(tmp_path / "raw", f"{split}.png", drawn(mask), mask, split=split) for split in ("train", "val")]
    evaluation = run(tmp_path, rows)
    assert summarise(evaluation)["split"] == "val"
    assert evaluation.table["file"].tolist() == ["val.png"]


def test_test_alone_is_scored_where_there_is_one(tmp_path: Path) -> None:
    mask = half(16, 16)
    names = ("train", "val", "test", "dropped")
    rows = [tiny.row(tmp_path / "raw", f"{split}.png", drawn(mask), mask, split=split) for split in names]
    assert run(tmp_path, rows).table["file"].tolist() == ["test.png"]


def test_nothing_to_score_is_a_users_mistake() -> None:
    with pytest.raises(UserError, match="nothing to score"):
        scored_split(pd.DataFrame({"split": ["train", "dropped"]}))


def test_the_curve_at_the_threshold_is_that_of_the_masks(evaluation: Evaluation) -> None:
    at_half = evaluation.curve[evaluation.curve["threshold"] == 0.5].iloc[0]
    assert at_half["precision"] == pytest.approx(600 / 900, abs=1e-6)
    assert at_half["recall"] == pytest.approx(600 / 1200, abs=1e-6)
    assert len(evaluation.curve) == 101


def test_the_histogram_counts_each_image_with_foreground_once(evaluation: Evaluation) -> None:
    histogram = dice_histogram(evaluation.table).set_index("dice")["images"]
    assert histogram.sum() == 3
    assert (histogram["0.00"], histogram["0.65"], histogram["0.95"]) == (1, 1, 1)


def test_tables_are_json_and_csv_without_nan(evaluation: Evaluation, tmp_path: Path) -> None:
    write_tables(evaluation, tmp_path / "per_image.csv", tmp_path / "evaluate.json")
    text = (tmp_path / "evaluate.json").read_text()
    assert json.loads(text) == summarise(evaluation)
    assert "NaN" not in text
    read = pd.read_csv(tmp_path / "per_image.csv")
    pd.testing.assert_frame_equal(read, evaluation.table)


def test_only_empty_images_give_no_mean_and_still_a_sheet(tmp_path: Path) -> None:
    nothing = np.zeros((16, 16), np.uint8)
    rows = [tiny.row(tmp_path / "raw", "a.png", drawn(nothing), nothing)]
    evaluation = run(tmp_path, rows)
    summary = summarise(evaluation)
    assert (summary["images"], summary["dice"], summary["pooled"]["dice"]) == (0, None, None)
    assert summary["empty"] == {"images": 1, "with_false_positives": 0.0, "false_positive_area": 0.0}
    (tmp_path / "plots").mkdir()
    write_plots(evaluation, pd.DataFrame(rows), tmp_path / "raw", tmp_path / "masks", tmp_path / "plots")
    names = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert names == ["cases.png", "confusion.csv", "dice_histogram.csv", "precision_recall.csv"]


def sheet(evaluation: Evaluation, rows: list[dict[str, Any]], folder: Path, columns: int) -> Pixels:
    return case_sheet(evaluation, pd.DataFrame(rows), folder / "raw", folder / "masks", columns)


def test_the_sheet_shows_worst_median_and_best_in_rows(
    evaluation: Evaluation, rows: list[dict[str, Any]], folder: Path
) -> None:
    picture = sheet(evaluation, rows, folder, columns=1)
    assert picture.shape == (3 * 196 + 4, 196 + 4, 3)
    worst = picture[:196]
    assert not (worst == PREDICTION).all(axis=-1).any()  # nothing was found there
    assert (worst == TRUTH).all(axis=-1).any()


def test_fewer_images_than_columns_make_shorter_rows(
    evaluation: Evaluation, rows: list[dict[str, Any]], folder: Path
) -> None:
    assert sheet(evaluation, rows, folder, columns=6).shape == (3 * 196 + 4, 3 * 196 + 4, 3)


def test_outlines_of_large_pictures_stay_crisp(tmp_path: Path) -> None:
    truth = tiny.circle(1000, 300)
    rows = [tiny.row(tmp_path / "raw", "large.png", drawn(np.zeros_like(truth)), truth)]
    picture = sheet(run(tmp_path, rows, tiny.resize()), rows, tmp_path, columns=1)
    line = (picture[4:196, 4:196] == TRUTH).all(axis=-1).sum()
    assert line > 2 * np.pi * 300 * 192 / 1000 * 0.8  # nearly as many pure pixels as the circle is long


def test_windows_of_real_tissue_are_scored_inside_alone(samples: Path, tmp_path: Path) -> None:
    records = scan_ucsb(samples / "ucsb")[:2]
    table, _ = measure(records, samples / "ucsb", ManifestParams(bad_files="fail", duplicate_distance=0), tiny.CPU)
    table = table.assign(split="test")
    description = tiny.description(tiny.resize(side=128))
    evaluation = evaluate(Bright(), description, table, samples / "ucsb", PARAMS, tiny.CPU, tmp_path / "masks")
    for row, scored in zip(table.itertuples(), evaluation.table.itertuples(), strict=True):
        region = region_of(row)
        mask = read_image(mask_path(tmp_path / "masks", str(row.file)))
        assert mask.shape[:2] == (row.height, row.width)
        assert scored.region_pixels == (region.bottom - region.top) * (region.right - region.left) < mask.size / 5
        _, truth = read_pair(row, samples / "ucsb")
        assert scored.truth_pixels == truth.sum() > 0  # nothing is annotated outside


def test_a_binary_call_is_whether_anything_is_found(evaluation: Evaluation) -> None:
    assert confusion(evaluation).to_numpy().tolist() == [
        ["foreground", "foreground"],
        ["foreground", "foreground"],
        ["foreground", "empty"],
        ["empty", "foreground"],
    ]
    summary = summarise(evaluation)
    assert summary["calls"] == {"images": 4, "right": 2, "accuracy": 0.5}
    assert "classes" not in summary
    assert not {"class_dice", "class_iou"} & set(evaluation.table)


THREE = Multiclass(name="multiclass", background="normal", labels=["benign", "malignant"])
LEVELS = (20, 120, 220)  # grey values that `Levels` takes for background, benign and malignant


class Levels(nn.Module):
    """Logits that are highest for the class whose grey value is nearest."""

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.cat([-(((pixels[:, :1].float() - level) / 16) ** 2) for level in LEVELS], dim=1)


def shown(codes: Pixels) -> Pixels:
    """A grey picture that `Levels` segments as `codes`."""
    return np.array(LEVELS, np.uint8)[codes][..., None]


def blocks(*parts: tuple[int, int, int, int, int]) -> Pixels:
    """Codes (20, 30), 0 but for rectangles given as code, top, bottom, left, right."""
    codes = np.zeros((20, 30), np.uint8)
    for code, top, bottom, left, right in parts:
        codes[top:bottom, left:right] = code
    return codes


NOTHING = np.zeros((20, 30), np.uint8)
PREDICTED = {
    "good.png": ("benign", half(20, 30), blocks((1, 0, 20, 0, 10), (2, 0, 20, 10, 15))),
    "wrong class.png": ("malignant", half(20, 30), blocks((1, 0, 20, 0, 15))),
    "missed.png": ("malignant", half(20, 30), NOTHING),
    "tie.png": ("malignant", half(20, 30), blocks((1, 0, 10, 0, 15), (2, 10, 20, 0, 15))),
    "false alarm.png": ("normal", NOTHING, blocks((2, 0, 20, 0, 15))),
    "quiet.png": ("normal", NOTHING, NOTHING),
}


@pytest.fixture(scope="module")
def class_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("classes")


def run_classes(folder: Path, rows: list[dict[str, Any]], network: nn.Module | None = None) -> Evaluation:
    description = tiny.description(TILES, task=THREE)
    return evaluate(
        network or Levels(), description, pd.DataFrame(rows), folder / "raw", PARAMS, tiny.CPU, folder / "masks"
    )


@pytest.fixture(scope="module")
def class_rows(class_folder: Path) -> list[dict[str, Any]]:
    return [
        tiny.row(class_folder / "raw", file, shown(codes), truth, label=label)
        for file, (label, truth, codes) in PREDICTED.items()
    ]


@pytest.fixture(scope="module")
def classes(class_folder: Path, class_rows: list[dict[str, Any]]) -> Evaluation:
    return run_classes(class_folder, class_rows)


def test_written_codes_are_what_the_network_said(classes: Evaluation, class_folder: Path) -> None:
    assert len(classes.table) == len(PREDICTED)
    for file, (_, _, codes) in PREDICTED.items():
        np.testing.assert_array_equal(read_prediction(class_folder / "masks" / file, THREE), codes)


def test_only_pixels_of_the_pictures_own_class_count_in_its_class_figures(classes: Evaluation) -> None:
    table = classes.table.set_index("file")
    assert table["dice"].tolist()[:4] == [1, 1, 0, 1]
    # Of 300 marked pixels 200 were found as benign; of 300, the upper half as benign and the lower as malignant.
    assert table["class_dice"].tolist()[:4] == [0.8, 0, 0, 0.666667]
    assert table["class_iou"].tolist()[:4] == [0.666667, 0, 0, 0.5]
    assert table[["class_dice", "class_iou"]][4:].isna().all(axis=None)


def test_a_picture_is_called_what_most_of_it_is_and_the_first_of_equals(classes: Evaluation) -> None:
    assert confusion(classes).to_numpy().tolist() == [
        ["benign", "benign"],
        ["malignant", "benign"],
        ["malignant", "normal"],
        ["malignant", "benign"],
        ["normal", "malignant"],
        ["normal", "normal"],
    ]
    assert summarise(classes)["calls"] == {"images": 6, "right": 2, "accuracy": 0.333333}


def test_figures_by_class_by_hand(classes: Evaluation) -> None:
    # Pooled: benign shares 200, predicts 650 and holds 300; malignant shares 150, predicts 550 and holds 900.
    assert summarise(classes)["classes"] == {
        "benign": {"images": 1, "dice": 0.8, "iou": 0.666667, "pooled_dice": round(400 / 950, 6)},
        "malignant": {"images": 3, "dice": 0.222222, "iou": 0.166667, "pooled_dice": round(300 / 1450, 6)},
    }


def test_a_class_without_a_picture_has_no_figures(tmp_path: Path) -> None:
    rows = [tiny.row(tmp_path / "raw", "a.png", shown(NOTHING), NOTHING, label="normal")]
    nothing = {"images": 0, "dice": None, "iou": None, "pooled_dice": None}
    assert summarise(run_classes(tmp_path, rows))["classes"] == {"benign": nothing, "malignant": nothing}


class Together(nn.Module):
    """One logit: that of any class but the first of another network's."""

    def __init__(self, several: nn.Module) -> None:
        super().__init__()
        self.several = several

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.several(pixels)
        return logits[:, 1:].logsumexp(dim=1, keepdim=True) - logits[:, :1]


@pytest.mark.parametrize("seed", range(3))
def test_foreground_figures_are_those_of_a_binary_network_with_the_same_foreground(tmp_path: Path, seed: int) -> None:
    chance = np.random.default_rng(seed)
    rows = []
    for number, label in enumerate(["benign", "malignant", "normal"]):
        truth = chance.integers(0, 2, (25, 37), np.uint8) if label != "normal" else np.zeros((25, 37), np.uint8)
        image = chance.integers(0, 256, (25, 37, 1), np.uint8)
        rows.append(tiny.row(tmp_path / "raw", f"{number}.png", image, truth, label=label, region="2:3:22:31"))
    several = run_classes(tmp_path, rows)
    binary = evaluate(
        Together(Levels()), tiny.description(TILES), pd.DataFrame(rows), tmp_path / "raw", PARAMS, tiny.CPU, tmp_path
    )
    shared = [column for column in binary.table if column != "called"]
    pd.testing.assert_frame_equal(several.table[shared], binary.table[shared])
    first, second = summarise(several), summarise(binary)
    assert {key: first[key] for key in second if key != "calls"} == {
        key: second[key] for key in second if key != "calls"
    }
    assert 0 < first["dice"] < 1


def test_a_call_counts_pixels_inside_the_region_alone(tmp_path: Path) -> None:
    codes = blocks((1, 0, 20, 0, 15), (2, 5, 10, 20, 25))
    rows = [
        tiny.row(
            tmp_path / "raw", "a.png", shown(codes), blocks((1, 5, 10, 20, 25)), label="malignant", region="0:16:20:30"
        )
    ]
    evaluation = run_classes(tmp_path, rows)
    assert evaluation.table[["called", "class_dice"]].to_numpy().tolist() == [["malignant", 1.0]]
    assert summarise(evaluation)["classes"]["benign"]["pooled_dice"] is None
    np.testing.assert_array_equal(read_prediction(tmp_path / "masks/a.png", THREE), codes)


@pytest.mark.parametrize(
    ("label", "truth", "said"),
    [("cyst", half(20, 30), "'cyst' is no class"), ("normal", half(20, 30), "something is marked in it")],
)
def test_labels_that_do_not_fit_the_network_are_named(tmp_path: Path, label: str, truth: Pixels, said: str) -> None:
    rows = [tiny.row(tmp_path / "raw", "odd.png", shown(NOTHING), truth, label=label)]
    with pytest.raises(UserError, match=rf"odd\.png: .*{said}"):
        run_classes(tmp_path, rows)
    assert not (tmp_path / "masks").exists()


def test_labels_of_training_pictures_do_not_matter_here(tmp_path: Path) -> None:
    rows = [
        tiny.row(tmp_path / "raw", f"{split}.png", shown(NOTHING), NOTHING, label=label, split=split)
        for split, label in (("train", "cyst"), ("test", "normal"))
    ]
    assert run_classes(tmp_path, rows).table["called"].tolist() == ["normal"]


def test_tables_and_plots_of_classes_are_written(
    classes: Evaluation, class_rows: list[dict[str, Any]], class_folder: Path, tmp_path: Path
) -> None:
    write_tables(classes, tmp_path / "per_image.csv", tmp_path / "evaluate.json")
    assert json.loads((tmp_path / "evaluate.json").read_text()) == summarise(classes)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "per_image.csv"), classes.table)
    masks, raw = class_folder / "masks", class_folder / "raw"
    write_plots(classes, pd.DataFrame(class_rows), raw, masks, tmp_path)
    assert (tmp_path / "confusion.csv").read_text().splitlines()[:3] == [
        "actual,predicted",
        "benign,benign",
        "malignant,benign",
    ]
    sheet = read_image(tmp_path / "cases.png")
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


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"threshold": 0.0}, "threshold"),
        ({"overlap": 1.0}, "overlap"),
        ({"batch_size": 0}, "batch_size"),
        ({"x": 1}, "x"),
    ],
)
def test_wrong_values_name_the_key(change: dict[str, object], named: str) -> None:
    with pytest.raises(UserError, match=rf"evaluate\.{named}"):
        validate(PARAMS.model_dump() | change, EvaluateParams, "params.yaml: evaluate")
