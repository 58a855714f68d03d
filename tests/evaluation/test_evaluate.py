"""Images scored at their own size: the table per image, what is pooled over pixels, and what is written."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
from scored import (
    NOTHING,
    PREDICTED,
    THREE,
    TILES,
    blocks,
    bright,
    drawn,
    half,
    levels,
    run,
    run_classes,
    shown,
)

from medseg.core.errors import UserError
from medseg.core.params import read_yaml, validate
from medseg.data.geometry import Geometry
from medseg.data.image import Image, images_of
from medseg.data.image_io import Pixels, read_image
from medseg.data.manifest import ManifestParams, measure
from medseg.datasets.record import Region
from medseg.datasets.ucsb import UcsbParams
from medseg.evaluation.evaluate import Evaluation, evaluate, scored_split
from medseg.evaluation.per_image import columns
from medseg.evaluation.tuning import EvaluateParams
from medseg.inference.postprocess import Probabilities
from medseg.inference.prediction_files import mask_path, read_prediction
from medseg.inference.predictor import Predictor
from medseg.metrics.calibration import RULED_OUT

PROJECT = Path(__file__).parents[2]


def test_each_image_has_its_row(evaluation: Evaluation) -> None:
    table = evaluation.table.set_index("file")
    assert table["dice"].round(4).tolist()[:3] == [1.0, 0.6667, 0.0]
    assert table[table.index == "empty.png"][["dice", "iou", "precision", "recall"]].isna().all(axis=None)
    counts = table[["truth_pixels", "predicted_pixels", "shared_pixels"]].to_numpy()
    assert counts.tolist() == [[300, 300, 300], [600, 300, 300], [300, 0, 0], [0, 300, 0]]
    assert (table["region_pixels"] == 600).all()
    assert table.loc["missed.png", "precision"] == 0


def test_masks_are_written_at_the_images_own_size(evaluation: Evaluation, folder: Path) -> None:
    mask = read_image(folder / "masks/by half.png")[..., 0]
    np.testing.assert_array_equal(mask, half(20, 30) * 255)
    assert len(evaluation.table) == len(list((folder / "masks").iterdir())) == 4
    assert not (folder / "uncertainty").exists()


def test_images_whose_names_are_nearly_equal_have_masks_and_maps_of_their_own(tmp_path: Path) -> None:
    files = ["a.tif", "a.tif.png", "b.png", "B.png"]
    rows = [
        tiny.row(tmp_path, file, np.full((20, 20 + number, 1), 255, np.uint8), np.ones((20, 20 + number), np.uint8))
        for number, file in enumerate(files)
    ]
    images = images_of(pd.DataFrame(rows), tmp_path)
    evaluate(Predictor(tiny.segmenter(TILES, uncertainty="mirror"), bright), images, 3, tmp_path / "scored")
    for kind in ("masks", "uncertainty"):
        assert len({path.name.lower() for path in (tmp_path / "scored" / kind).iterdir()}) == len(files)
        for image in images:
            found = read_image(mask_path(tmp_path / "scored" / kind, image))
            assert found.shape[:2] == (image.height, image.width)


@pytest.mark.parametrize("geometry", [tiny.resize(side=16), tiny.resize(channels=3, side=64), TILES])
def test_whatever_the_network_saw_the_image_keeps_its_size(tmp_path: Path, geometry: Geometry) -> None:
    mask = tiny.circle(50, 18)[:44]
    evaluation = run(tmp_path, [tiny.image(tmp_path / "raw", "deep/in/a.tif.png", drawn(mask), mask)], geometry)
    assert read_image(tmp_path / "masks/deep/in/a.tif.png").shape == (44, 50, 1)
    assert evaluation.table["region_pixels"].tolist() == [44 * 50]
    assert evaluation.table["dice"].iloc[0] > 0.9


def test_pixels_outside_the_annotated_region_never_count(tmp_path: Path) -> None:
    truth = np.zeros((30, 40), np.uint8)
    truth[10:15, 10:20] = 1
    tables = []
    for name, outside in (("dark", 0), ("bright", 255)):
        pixels = np.full_like(drawn(truth), outside)
        pixels[5:20, 8:25] = drawn(truth)[5:20, 8:25]
        images = [tiny.image(tmp_path / name / "raw", "a.png", pixels, truth, region=Region(5, 8, 20, 25))]
        tables.append(run(tmp_path / name, images))
    first, second = tables
    pd.testing.assert_frame_equal(first.table, second.table)
    pd.testing.assert_frame_equal(first.curve, second.curve)
    assert first.table["region_pixels"].tolist() == [15 * 17]
    assert first.table["dice"].tolist() == [1.0]


def test_the_threshold_is_the_descriptions_and_a_pixel_on_it_is_foreground(tmp_path: Path) -> None:
    pixels = np.full((16, 16, 1), 120, np.uint8)
    pixels[:8] = 140
    probability = float(bright(pixels[None])[0, 0, 0, 0])
    areas = []
    for threshold in (0.1, probability, probability + 0.01):
        images = [tiny.image(tmp_path / "raw", "a.png", pixels, half(16, 16))]
        areas.append(run(tmp_path, images, tiny.resize(side=16), threshold=threshold).table["predicted_pixels"].iloc[0])
    assert areas == [256, 128, 0]


def test_val_is_scored_where_there_is_no_test_and_says_so(tmp_path: Path) -> None:
    mask = half(16, 16)
    images = [
        tiny.image(tmp_path / "raw", f"{split}.png", drawn(mask), mask, split=split) for split in ("train", "val")
    ]
    evaluation = run(tmp_path, images)
    assert evaluation.split == "val"
    assert evaluation.table["file"].tolist() == ["val.png"]


def test_test_alone_is_scored_where_there_is_one(tmp_path: Path) -> None:
    mask = half(16, 16)
    names = ("train", "val", "test", "dropped")
    images = [tiny.image(tmp_path / "raw", f"{split}.png", drawn(mask), mask, split=split) for split in names]
    assert run(tmp_path, images).table["file"].tolist() == ["test.png"]


def test_nothing_to_score_is_a_users_mistake(tmp_path: Path) -> None:
    mask = half(16, 16)
    images = [tiny.image(tmp_path, f"{split}.png", drawn(mask), mask, split=split) for split in ("train", "dropped")]
    with pytest.raises(UserError, match="nothing to score"):
        scored_split(images)


def test_the_curve_at_the_threshold_is_that_of_the_masks(evaluation: Evaluation) -> None:
    at_half = evaluation.curve[evaluation.curve["threshold"] == 0.5].iloc[0]
    assert at_half["precision"] == pytest.approx(600 / 900, abs=1e-6)
    assert at_half["recall"] == pytest.approx(600 / 1200, abs=1e-6)
    assert len(evaluation.curve) == 101


def test_windows_of_real_tissue_are_scored_inside_alone(samples: Path, tmp_path: Path) -> None:
    records = UcsbParams.layout().scan(samples / "ucsb")[:2]
    table, _ = measure(records, samples / "ucsb", ManifestParams(bad_files="fail", duplicate_distance=0), tiny.CPU)
    images = images_of(table.assign(split="test"), samples / "ucsb")
    segmenter = Predictor(tiny.segmenter(tiny.resize(side=128)), bright)
    evaluation = evaluate(segmenter, images, 2, tmp_path)
    for tissue, scored in zip(images, evaluation.table.itertuples(), strict=True):
        mask = read_image(mask_path(tmp_path / "masks", tissue))
        assert mask.shape[:2] == (tissue.height, tissue.width)
        assert scored.region_pixels == np.prod(tissue.region.size) < mask.size / 5
        assert scored.truth_pixels == tissue.read_mask().sum() > 0  # nothing is annotated outside


def test_written_codes_are_what_the_network_said(classes: Evaluation, class_folder: Path) -> None:
    assert len(classes.table) == len(PREDICTED)
    for file, (_, _, codes) in PREDICTED.items():
        np.testing.assert_array_equal(read_prediction(class_folder / "masks" / file, THREE), codes)


def test_only_pixels_of_the_images_own_class_count_in_its_class_scores(classes: Evaluation) -> None:
    table = classes.table.set_index("file")
    assert table["dice"].tolist()[:4] == [1, 1, 0, 1]
    # Of 300 annotated pixels 200 were found as benign; of 300, the upper half as benign and the lower as malignant.
    assert table["class_dice"].tolist()[:4] == [0.8, 0, 0, 0.666667]
    assert table["class_iou"].tolist()[:4] == [0.666667, 0, 0, 0.5]
    assert table[["class_dice", "class_iou"]][4:].isna().all(axis=None)


def together(pixels: Pixels) -> Probabilities:
    """The probability of any class but the first of `levels`."""
    shares: Probabilities = 1 - levels(pixels)[:, :1]
    return shares


@pytest.mark.parametrize("seed", range(3))
def test_foreground_scores_are_those_of_a_binary_network_with_the_same_foreground(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = []
    for number, label in enumerate(["benign", "malignant", "normal"]):
        truth = rng.integers(0, 2, (25, 37), np.uint8) if label != "normal" else np.zeros((25, 37), np.uint8)
        pixels = rng.integers(0, 256, (25, 37, 1), np.uint8)
        images.append(
            tiny.image(tmp_path / "raw", f"{number}.png", pixels, truth, label=label, region=Region(2, 3, 22, 31))
        )
    several = run_classes(tmp_path, images)
    binary = run(tmp_path, images, forward=together)
    shared = [column for column in binary.table if column != "predicted_label"]
    pd.testing.assert_frame_equal(several.table[shared], binary.table[shared])
    pd.testing.assert_frame_equal(several.calibration, binary.calibration)
    assert vars(several.calibration_errors) == pytest.approx(vars(binary.calibration_errors), abs=1e-6)  # rounding
    assert (list(several.class_calibration), binary.class_calibration) == (["benign", "malignant"], {})
    assert 0 < several.table["dice"].mean() < 1


def test_the_predicted_label_counts_pixels_inside_the_region_alone(tmp_path: Path) -> None:
    codes = blocks((1, 0, 20, 0, 15), (2, 5, 10, 20, 25))
    images = [
        tiny.image(
            tmp_path / "raw",
            "a.png",
            shown(codes),
            blocks((1, 5, 10, 20, 25)),
            label="malignant",
            region=Region(0, 16, 20, 30),
        )
    ]
    evaluation = run_classes(tmp_path, images)
    assert evaluation.table[["predicted_label", "class_dice"]].to_numpy().tolist() == [["malignant", 1.0]]
    assert evaluation.pooled["benign"].true_positives + evaluation.pooled["benign"].false_positives == 0
    np.testing.assert_array_equal(read_prediction(tmp_path / "masks/a.png", THREE), codes)


@pytest.mark.parametrize(
    ("label", "truth", "said"),
    [("cyst", half(20, 30), "'cyst' is no class"), ("normal", half(20, 30), "something is annotated in it")],
)
def test_labels_that_do_not_fit_the_network_are_named(tmp_path: Path, label: str, truth: Pixels, said: str) -> None:
    images = [tiny.image(tmp_path / "raw", "odd.png", shown(NOTHING), truth, label=label)]
    with pytest.raises(UserError, match=rf"odd\.png: .*{said}"):
        run_classes(tmp_path, images)
    assert not (tmp_path / "masks").exists()


def test_labels_of_training_images_do_not_matter_here(tmp_path: Path) -> None:
    images = [
        tiny.image(tmp_path / "raw", f"{split}.png", shown(NOTHING), NOTHING, label=label, split=split)
        for split, label in (("train", "cyst"), ("test", "normal"))
    ]
    assert run_classes(tmp_path, images).table["predicted_label"].tolist() == ["normal"]


def test_each_column_is_documented_and_stands_in_its_order(evaluation: Evaluation, classes: Evaluation) -> None:
    assert classes.table.columns.tolist() == list(columns())
    several_only = ["class_dice", "class_iou"]
    assert evaluation.table.columns.tolist() == [name for name in columns() if name not in several_only]


def test_objects_and_outlines_are_scored_inside_the_region(tmp_path: Path) -> None:
    truth = blocks((1, 2, 6, 2, 6), (1, 10, 14, 10, 14), (1, 2, 6, 20, 24))
    found = blocks((1, 2, 6, 2, 6), (1, 10, 12, 10, 11), (1, 15, 19, 2, 6))
    images = [tiny.image(tmp_path / "raw", "a.png", drawn(found), truth, region=Region(0, 0, 20, 18))]
    scores = run(tmp_path, images).table.iloc[0]
    # Of the two objects in the region one is found; a sliver of the other and a third one are not matched.
    names = ["objects", "objects_found", "objects_detected", "objects_missed", "objects_false", "objects_error"]
    assert scores[names].tolist() == [2, 3, 1, 1, 2, 1]
    counts = ["counted_truth", "counted_predicted", "contours_truth", "contours_predicted"]
    assert scores[counts].tolist() == [2, 3, 2, 3]
    assert scores["objects_iou"] == 1
    assert 0 < scores["hd95"] < np.hypot(20, 18)


def test_a_missed_image_takes_the_diagonal_of_its_region(evaluation: Evaluation) -> None:
    missed = evaluation.table.set_index("file").loc["missed.png"]
    assert (missed["hd95"], missed["assd"]) == (round(float(np.hypot(20, 30)), 6),) * 2
    assert (missed["nsd"], missed["nsd_relative"], missed["area_error"]) == (0, 0, -1)


def test_images_are_large_or_small_beside_one_another(evaluation: Evaluation) -> None:
    # Two truths mark a half, one all; equal ones stand in one stratum.
    assert evaluation.table["size"].tolist() == ["small", "large", "small", "empty"]


def test_calibration_is_over_the_pixels_in_which_foreground_is_not_ruled_out(tmp_path: Path) -> None:
    truth, pixels = half(40, 60), drawn(half(40, 60))
    pixels[:, :10] = 20  # ruled out, and annotated all the same
    pixels[:, 50:] = 100  # probability 0.14
    images = [tiny.image(tmp_path / "raw", "a.png", pixels, truth)]
    evaluation = run(tmp_path, images)
    dark, dim, light = (float(bright(np.full((1, 1, 1, 1), level, np.uint8))[0, 0, 0, 0]) for level in (20, 100, 220))
    assert dark < RULED_OUT < dim
    assert evaluation.calibration["pixels"].tolist() == [400, 800]
    assert evaluation.calibration["observed"].tolist() == [0.0, 1.0]
    errors = evaluation.calibration_errors
    assert errors.ece == pytest.approx(dim / 3 + 2 / 3 * (1 - light), abs=1e-6)
    assert (errors.counted, errors.ruled_out) == (1200, 1200)
    assert errors.ruled_out_observed == pytest.approx(1 / 3)


def test_each_class_is_calibrated_by_its_own_probability(tmp_path: Path) -> None:
    # Sure of the wrong class: as foreground all is right.
    truth = half(20, 30)
    images = [tiny.image(tmp_path / "raw", "a.png", shown(truth * np.uint8(2)), truth, label="benign")]
    evaluation = run_classes(tmp_path, images)
    benign, malignant = evaluation.class_calibration["benign"], evaluation.class_calibration["malignant"]
    assert evaluation.calibration_errors.ece < 0.001 < 0.999 < malignant.ece
    assert [benign.brier, malignant.brier] == pytest.approx([0.5, 0.5], abs=1e-3)
    assert benign.ruled_out_observed == 0.5


def test_uncertainty_of_an_image_does_not_depend_on_its_truth(tmp_path: Path) -> None:
    pixels = tiny.noise(16, 16)
    images = [
        tiny.image(tmp_path / "raw", f"{name}.png", pixels, truth)
        for name, truth in (
            ("a", half(16, 16)),
            ("b", np.ones((16, 16), np.uint8)),
            ("c", np.zeros((16, 16), np.uint8)),
        )
    ]
    table = run(tmp_path, images, tiny.resize(side=8), uncertainty="flips").table
    assert table["uncertainty"].nunique() == 1
    assert table["dice"].nunique() == 2


def lopsided(pixels: Pixels) -> Probabilities:
    """1 in the left half of what it is shown, whatever it shows."""
    given = np.zeros((len(pixels), 1, *pixels.shape[1:3]), np.float32)
    given[..., : pixels.shape[2] // 2] = 1
    return given


def test_uncertainty_is_where_orientations_disagree(tmp_path: Path) -> None:
    truth = half(16, 16)
    images = [tiny.image(tmp_path / "raw", "a.png", drawn(truth), truth)]
    sure = run(
        tmp_path / "sure", [tiny.image(tmp_path / "sure/raw", "a.png", drawn(truth), truth)], uncertainty="flips"
    )
    unsure = run(tmp_path, images, tiny.resize(side=16), forward=lopsided, uncertainty="flips")
    assert sure.table["uncertainty"].tolist() == [0.0]
    assert unsure.table["uncertainty"].tolist() == [0.5]  # half the orientations say 1, half say 0
    assert (read_image(tmp_path / "uncertainty/a.png") == 255).all()
    assert (read_image(tmp_path / "sure/uncertainty/a.png") == 0).all()
    assert unsure.table["dice"].tolist() == [1.0]  # the prediction itself is upright


def test_what_was_chosen_is_applied(tmp_path: Path) -> None:
    truth = blocks((1, 2, 12, 2, 12))
    specked = blocks((1, 2, 12, 2, 12), (1, 15, 17, 20, 22))
    specked[6, 6] = 0
    images = [tiny.image(tmp_path / "raw", "a.png", drawn(specked), truth)]
    assert run(tmp_path, images).table["dice"].iloc[0] < 1
    assert run(tmp_path, images, fill_holes=True, smallest_object=5).table["dice"].tolist() == [1.0]
    averaged = run(tmp_path, images, tiny.resize(side=16), lopsided, test_time_augmentation="flips", threshold=0.6)
    assert averaged.table["predicted_pixels"].tolist() == [0]


def test_equal_inputs_give_equal_evaluations(evaluation: Evaluation, images: list[Image], folder: Path) -> None:
    again = run(folder, images)
    pd.testing.assert_frame_equal(again.table, evaluation.table)
    pd.testing.assert_frame_equal(again.calibration, evaluation.calibration)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"threshold": 0.0}, "threshold"),
        ({"overlap": 1.0}, "overlap"),
        ({"batch_size": 0}, "batch_size"),
        ({"uncertainty": "val"}, "uncertainty"),
        ({"tolerance": {"pixels": -1.0, "diagonal": 0.01}}, r"tolerance\.pixels"),
        ({"x": 1}, "x"),
    ],
)
def test_wrong_values_name_the_key(change: dict[str, object], named: str) -> None:
    values = read_yaml(PROJECT / "conf/evaluate/default.yaml")
    with pytest.raises(UserError, match=rf"evaluate\.{named}"):
        validate(values | change, EvaluateParams, "params.yaml: evaluate")
