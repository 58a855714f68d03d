"""The table per image to means with intervals, and to the few numbers that DVC compares."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
from finished_run import CALIBRATION
from scipy import stats
from scored import NOTHING, drawn, run, run_classes, shown

from medseg.data.image import Image
from medseg.evaluation.evaluate import Evaluation
from medseg.evaluation.per_image import columns
from medseg.evaluation.summary import confusion, summarise, summary_table, write_metrics, write_tables
from medseg.metrics import registry
from medseg.metrics.intervals import estimate
from medseg.metrics.registry import Metric
from medseg.metrics.surface import Tolerance


def summary_of(evaluation: Evaluation) -> dict[str, Any]:
    return summarise(evaluation, summary_table(evaluation.table))


def test_means_leave_out_images_without_foreground_and_keep_missed_ones(evaluation: Evaluation) -> None:
    summary = summary_of(evaluation)
    assert (summary["split"], summary["images"], summary["missed"]) == ("test", 3, 1)
    assert summary["dice"] == pytest.approx((1 + 2 / 3 + 0) / 3, abs=1e-6)
    assert summary["iou"] == pytest.approx((1 + 1 / 2 + 0) / 3, abs=1e-6)
    assert summary["accuracy"] == pytest.approx((1 + 1 / 2 + 1 / 2) / 3, abs=1e-6)


def test_images_without_foreground_stand_by_themselves(evaluation: Evaluation) -> None:
    assert summary_of(evaluation)["empty"] == {"images": 1, "with_false_positives": 1.0, "false_positive_area": 0.5}


def test_pooled_scores_count_every_pixel(evaluation: Evaluation) -> None:
    # Shared 300 + 300, predicted 300 + 300 + 300, truth 300 + 600 + 300.
    assert summary_of(evaluation)["pooled"] == {"dice": round(1200 / 2100, 6), "iou": round(600 / 1500, 6)}


def test_each_label_has_its_means(evaluation: Evaluation) -> None:
    labels = summary_of(evaluation)["labels"]
    assert sorted(labels) == ["benign", "malignant"]
    assert (labels["benign"]["images"], labels["benign"]["dice"]) == (1, 1.0)
    assert labels["malignant"]["dice"] == pytest.approx(1 / 3, abs=1e-6)


def test_tables_are_json_and_csv_without_nan(evaluation: Evaluation, tmp_path: Path) -> None:
    means, summary = write_tables(evaluation, tmp_path, tmp_path / "summary.json")
    text = (tmp_path / "summary.json").read_text()
    assert json.loads(text) == summary == summary_of(evaluation)
    assert "NaN" not in text
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "per_image.csv"), evaluation.table)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "summary.csv"), means)
    meanings = (tmp_path / "columns.md").read_text()
    assert all(f"- `{name}`: {columns()[name]}\n" in meanings for name in map(str, evaluation.table.columns))


def mean(table: pd.DataFrame, name: str, by: str = "all", stratum: str = "all") -> dict[str, Any]:
    means = summary_table(table)
    rows = means[(means["by"] == by) & (means["stratum"] == stratum) & (means["metric"] == name)]
    return {str(key): value for key, value in rows.iloc[0].items()}


def scored_table(**given: list[Any]) -> pd.DataFrame:
    """A table per image with these columns; all else is that of an image of 100 pixels, 50 of them annotated."""
    count = len(next(iter(given.values())))
    numbers = {name: [0.5] * count for name in columns() if name not in given}
    words = {
        "file": [f"{number}.png" for number in range(count)],
        "label": ["a"] * count,
        "predicted_label": ["b"] * count,
    }
    sizes = {"region_pixels": [100] * count, "truth_pixels": [50] * count, "predicted_pixels": [50] * count}
    groups = {"group": [f"g{number}" for number in range(count)], "size": ["small"] * count}
    return pd.DataFrame({**numbers, **words, **sizes, **groups, **given})[list(columns())]


def test_ends_are_over_groups_and_their_kind_is_that_of_the_metric() -> None:
    rng = np.random.default_rng(0)
    given = {name: rng.uniform(size=72).tolist() for name in ("dice", "hd95", "false_positive_area")}
    groups = [f"g{number // 2}" for number in range(72)]
    table = scored_table(group=groups, false_positive=[1.0, 0.0] * 36, **given)
    found = mean(table, "dice")
    expected = estimate(given["dice"], groups, "0 to 1")
    assert (found["images"], found["groups"], found["undefined"]) == (72, 36, 0)
    assert [found[key] for key in ("mean", "low", "high")] == [
        round(value, 6) for value in (expected.mean, expected.low, expected.high)
    ]
    assert (found["ends"], mean(table, "hd95")["ends"]) == ("interval", "interval of median")
    assert mean(table.assign(group=groups[:36] * 2), "dice")["ends"] == "range"
    empty = table.assign(truth_pixels=0)
    for name, kind in (("false_positive", "none"), ("false_positive_area", "interval of median")):
        assert mean(empty, name, "empty", "empty")["ends"] == kind
    assert mean(empty.assign(group=empty["file"]), "false_positive", "empty", "empty")["ends"] == "interval"


def test_undefined_scores_are_left_out_and_counted() -> None:
    table = scored_table(objects_iou=[0.6, None, 0.8], recall=[1.0, 0.0, 0.5])
    found = mean(table, "objects_iou")
    assert (found["images"], found["undefined"], found["missed"]) == (2, 1, 0)
    assert found["mean"] == pytest.approx(0.7)
    assert mean(table, "dice")["missed"] == 1


def test_one_group_has_a_mean_and_no_interval() -> None:
    found = mean(scored_table(dice=[0.4, 0.8], group=["g", "g"]), "dice")
    assert found["mean"] == pytest.approx(0.6)
    assert np.isnan([found["low"], found["high"]]).all()
    assert found["ends"] == "none"


def test_strata_are_labels_and_sizes_and_the_empty(evaluation: Evaluation) -> None:
    means = summary_table(evaluation.table)
    strata = means[["by", "stratum"]].drop_duplicates().to_numpy().tolist()
    assert strata == [
        ["all", "all"],
        ["label", "benign"],
        ["label", "malignant"],
        ["size", "small"],
        ["size", "large"],
        ["empty", "empty"],
    ]
    assert mean(evaluation.table, "false_positive", "empty", "empty")["mean"] == 1
    assert mean(evaluation.table, "dice", "size", "small")["mean"] == 0.5  # 1 and 0


def test_sums_of_objects_are_over_all_images(evaluation: Evaluation) -> None:
    # Three objects; two found with IoU 1 and 1/2, which is no match, one missed, and one found where there is none.
    objects = summary_of(evaluation)["objects"]
    assert {name: objects[name] for name in ("objects", "found", "detected", "missed", "false")} == {
        "objects": 3,
        "found": 3,
        "detected": 1,
        "missed": 2,
        "false": 2,
    }
    assert (objects["f1"], objects["iou"]) == (pytest.approx(1 / 3, abs=1e-6), 1.0)


def test_counts_are_off_by_as_much_as_one_counts(evaluation: Evaluation) -> None:
    expected = {
        f"{name}_{kind}": pytest.approx(1 / 3, abs=1e-6)
        for name in ("contours", "counted")
        for kind in ("absolute", "relative")
    }
    assert summary_of(evaluation)["counts"] == expected


def test_the_rank_correlation_is_spearmans() -> None:
    rng = np.random.default_rng(1)
    dice, uncertainty = rng.uniform(size=9).round(1).tolist(), rng.uniform(size=9).round(1).tolist()
    table = scored_table(dice=dice, uncertainty=uncertainty)
    evaluation = Evaluation("test", tiny.BINARY, table, pd.DataFrame(), pd.DataFrame(), CALIBRATION, {}, {})
    expected = stats.spearmanr(uncertainty, dice).statistic
    assert summary_of(evaluation)["uncertainty"]["rank_correlation"] == pytest.approx(expected, abs=1e-6)
    same = Evaluation(
        "test", tiny.BINARY, scored_table(dice=[0.5, 0.5]), pd.DataFrame(), pd.DataFrame(), CALIBRATION, {}, {}
    )
    assert summary_of(same)["uncertainty"]["rank_correlation"] is None


def test_only_empty_images_give_no_mean(tmp_path: Path) -> None:
    nothing = np.zeros((16, 16), np.uint8)
    summary = summary_of(run(tmp_path, [tiny.image(tmp_path / "raw", "a.png", drawn(nothing), nothing)]))
    assert (summary["images"], summary["dice"], summary["pooled"]["dice"]) == (0, None, None)
    assert summary["empty"] == {"images": 1, "with_false_positives": 0.0, "false_positive_area": 0.0}
    assert (summary["calibration"]["ece"], summary["hd95"], summary["labels"]) == (None, None, {})


def compared(summary: dict[str, Any], folder: Path) -> dict[str, float]:
    """What `write_metrics` writes."""
    write_metrics(summary, folder / "evaluate.json")
    found: dict[str, float] = json.loads((folder / "evaluate.json").read_text())
    return found


def test_dvc_compares_few_defined_numbers(evaluation: Evaluation, classes: Evaluation, tmp_path: Path) -> None:
    summary = summary_of(evaluation)
    flat = compared(summary, tmp_path)
    assert list(flat) == [
        "dice",
        "dice_range_low",
        "dice_range_high",
        "iou",
        "hd95",
        "nsd",
        "f1",
        "false_positive_images",
    ]
    assert (flat["dice"], flat["f1"], flat["false_positive_images"]) == (summary["dice"], summary["objects"]["f1"], 1.0)
    by_class = compared(summary_of(classes), tmp_path)
    assert {name: by_class[name] for name in by_class if "/" in name} == {
        "dice/benign": 0.8,
        "dice/malignant": 0.222222,
    }
    nothing = tiny.image(tmp_path / "raw", "a.png", drawn(NOTHING), NOTHING)
    assert compared(summary_of(run(tmp_path, [nothing])), tmp_path) == {"false_positive_images": 0.0}


def test_a_new_metric_is_one_entry(images: list[Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Metric(
        "height", "Height", "pixels", "neither", "overlap", "height of the region", lambda pair: float(len(pair.truth))
    )
    monkeypatch.setattr(registry, "METRICS", (*registry.METRICS, trial))
    write_tables(run(tmp_path, images), tmp_path, tmp_path / "summary.json")
    assert pd.read_csv(tmp_path / "per_image.csv")["height"].tolist() == [20.0] * 4
    means = pd.read_csv(tmp_path / "summary.csv").query("by == 'all'").set_index("metric")["mean"]
    assert means["height"] == 20
    assert "- `height`: height of the region\n" in (tmp_path / "columns.md").read_text()
    assert json.loads((tmp_path / "summary.json").read_text())["height"] == 20


def test_keys_of_metrics_are_unique_and_titles_hold_the_tolerance() -> None:
    assert len(registry.BY_KEY) == len(registry.METRICS)
    titles = [metric.title(Tolerance(pixels=2.0, diagonal=0.01)) for metric in registry.METRICS]
    assert len(set(titles)) == len(titles)
    assert not any("{" in title for title in titles)


def test_the_predicted_label_of_a_binary_task_is_whether_anything_is_found(evaluation: Evaluation) -> None:
    assert confusion(evaluation).to_numpy().tolist() == [
        ["foreground", "foreground"],
        ["foreground", "foreground"],
        ["foreground", "empty"],
        ["empty", "foreground"],
    ]
    summary = summary_of(evaluation)
    assert summary["image_labels"] == {"images": 4, "right": 2, "accuracy": 0.5}
    assert "classes" not in summary
    assert not {"class_dice", "class_iou"} & set(evaluation.table)


def test_the_predicted_label_is_that_of_most_pixels_and_the_first_of_equals(classes: Evaluation) -> None:
    assert confusion(classes).to_numpy().tolist() == [
        ["benign", "benign"],
        ["malignant", "benign"],
        ["malignant", "normal"],
        ["malignant", "benign"],
        ["normal", "malignant"],
        ["normal", "normal"],
    ]
    assert summary_of(classes)["image_labels"] == {"images": 6, "right": 2, "accuracy": 0.333333}


def test_scores_by_class_by_hand(classes: Evaluation) -> None:
    # Pooled: benign shares 200, predicts 650 and holds 300; malignant shares 150, predicts 550 and holds 900.
    found = summary_of(classes)["classes"]
    errors = {name: asdict(classes.class_calibration[name]) for name in found}
    for name, scores in found.items():
        assert scores.pop("calibration") == pytest.approx(errors[name], abs=1e-6)
    assert found == {
        "benign": {"images": 1, "dice": 0.8, "iou": 0.666667, "pooled_dice": round(400 / 950, 6)},
        "malignant": {"images": 3, "dice": 0.222222, "iou": 0.166667, "pooled_dice": round(300 / 1450, 6)},
    }


def test_a_class_without_an_image_has_no_scores(tmp_path: Path) -> None:
    images = [tiny.image(tmp_path / "raw", "a.png", shown(NOTHING), NOTHING, label="normal")]
    nothing = {"images": 0, "dice": None, "iou": None, "pooled_dice": None}
    found = summary_of(run_classes(tmp_path, images))["classes"]
    assert {scores.pop("calibration")["ece"] for scores in found.values()} == {None}
    assert found == {"benign": nothing, "malignant": nothing}
