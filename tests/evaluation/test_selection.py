"""From a network to a segmenter: everything is chosen on val, and what is chosen can be used."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
from scored import TILES, blocks, bright, drawn, half

from medseg.core.params import read_yaml, validate
from medseg.data.image import Image
from medseg.datasets.record import Region
from medseg.evaluation.choice_rule import MIN_GROUPS
from medseg.evaluation.tuning import EvaluateParams, select
from medseg.inference.predictor import Predictor
from medseg.inference.settings import SegmenterDescription
from medseg.metrics.counting import CountingParams

PROJECT = Path(__file__).parents[2]
DEFAULT = read_yaml(PROJECT / "conf/evaluate/default.yaml")
PLAIN: dict[str, Any] = {
    "threshold": 0.5,
    "test_time_augmentation": "none",
    "fill_holes": "never",
    "smallest_object": 0,
    "largest_component": "never",
}
SPLIT = {"smallest": 0, "split": True, "depth": 1.0, "grid": {"smallest": [0, 30], "depths": [1.0]}}


def params(**changes: Any) -> EvaluateParams:
    checked: EvaluateParams = validate({**DEFAULT, **changes}, EvaluateParams, "params.yaml: evaluate")
    return checked


def chosen(images: list[Image], settings: EvaluateParams) -> tuple[SegmenterDescription, pd.DataFrame]:
    return select(bright, tiny.description(TILES), images, settings)


def in_groups(image: Image) -> list[Image]:
    """The same image in as many groups as val needs to choose."""
    return [replace(image, group=str(number)) for number in range(MIN_GROUPS)]


def specked(raw: Path, **changes: Any) -> list[Image]:
    """Images in which a disc and three specks are bright, of which the disc alone is annotated."""
    truth = tiny.circle(40, 12)
    found = truth.copy()
    found[[1, 3, 37], [1, 37, 3]] = 1
    return in_groups(tiny.image(raw, "a.png", drawn(found), truth, split="val", **changes))


def test_what_raises_dice_on_val_is_taken_and_recorded(tmp_path: Path) -> None:
    description, _ = chosen(specked(tmp_path / "raw"), params())
    options = {option.option: option for option in description.chosen.options}
    assert (options["smallest_object"].chosen, options["fill_holes"].chosen) == ("10", "never")
    assert options["smallest_object"].other == 1.0 > options["smallest_object"].simplest
    assert description.chosen.choices.postprocess.smallest_object == 10
    assert (description.chosen.images, description.chosen.groups) == (MIN_GROUPS, MIN_GROUPS)


def test_the_segmenter_does_what_was_chosen(tmp_path: Path) -> None:
    description, _ = chosen(specked(tmp_path / "raw"), params())
    found = Predictor(description, bright).predict(drawn(tiny.circle(40, 12)), batch_size=2)
    np.testing.assert_array_equal(found.codes, tiny.circle(40, 12))


def test_all_that_the_network_says_of_itself_is_kept(tmp_path: Path) -> None:
    description, _ = chosen(specked(tmp_path / "raw"), params(**PLAIN))
    network = tiny.description(TILES)
    assert {key: getattr(description, key) for key in dict(network)} == dict(network)
    assert (description.chosen.options, description.overlap) == ([], DEFAULT["overlap"])


def test_only_pixels_inside_the_region_choose(tmp_path: Path) -> None:
    # The specks lie outside, so nothing is won by dropping them.
    description, _ = chosen(specked(tmp_path / "raw", region=Region(5, 5, 35, 35)), params())
    assert description.chosen.choices.postprocess.smallest_object == 0


def test_the_table_of_thresholds_is_that_of_the_final_probabilities(tmp_path: Path) -> None:
    truth = half(20, 30)
    pixels = np.where(truth, 130, 126).astype(np.uint8)[..., None]  # probabilities 0.52 and 0.46
    images = [tiny.image(tmp_path / "raw", "a.png", pixels, truth, split="val")]
    _, table = chosen(images, params(**PLAIN))
    dice = table.set_index("threshold")["dice"]
    assert (dice[0.45], dice[0.5], dice[0.55]) == (round(2 / 3, 6), 1.0, 0.0)
    assert table["threshold"].tolist() == [round(0.05 * step, 2) for step in range(1, 20)]


def test_without_anything_annotated_on_val_nothing_is_chosen_and_a_warning_says_so(tmp_path: Path) -> None:
    nothing = np.zeros((20, 30), np.uint8)
    images = [tiny.image(tmp_path / "raw", "a.png", drawn(nothing), nothing, split="val")]
    description, table = chosen(images, params())
    assert description.chosen.choices.postprocess.threshold == 0.5
    assert "nothing is annotated in the images of val" in description.chosen.warnings[0]
    assert table.empty


def pairs_of_discs(raw: Path) -> list[Image]:
    """Two discs that touch, found with two specks beside them."""
    truth = np.maximum(np.roll(tiny.circle(60, 10), -9, axis=1), np.roll(tiny.circle(60, 10), 9, axis=1))
    found = truth.copy()
    found[2:4, 2:4] = found[2:4, 50:52] = 1
    return in_groups(tiny.image(raw, "a.png", drawn(found), truth, split="val"))


def test_how_predictions_are_counted_is_chosen_to_meet_the_counts_of_the_truth(tmp_path: Path) -> None:
    images = pairs_of_discs(tmp_path / "raw")
    description, _ = chosen(images, params(**PLAIN, counting={**SPLIT, "prediction": "val"}))
    rule = CountingParams(smallest=0, split=True, depth=1.0)
    assert description.scoring.counting.truth == rule
    assert description.scoring.counting.prediction == CountingParams(smallest=30, split=True, depth=1.0)
    same, _ = chosen(images, params(**PLAIN, counting={**SPLIT, "prediction": "same"}))
    assert same.scoring.counting.prediction == rule
    few, _ = chosen(images[1:], params(**PLAIN, counting={**SPLIT, "prediction": "val"}))
    assert few.scoring.counting.prediction == rule
    assert "evaluate.counting.prediction = same" in few.chosen.warnings[0]


def test_a_rule_of_counting_that_is_better_by_chance_alone_is_not_taken(tmp_path: Path) -> None:
    """Where specks are dropped, one group is counted better by two objects and another one worse by one."""
    speckless = tiny.circle(60, 10)
    small = speckless.copy()
    small[2:4, 2:4] = 1
    parts = {"specked": (small, speckless), "small": (small, small), "plain": (speckless, speckless)}
    images = {
        name: tiny.image(tmp_path / "raw", f"{name}.png", drawn(found), truth, split="val")
        for name, (found, truth) in parts.items()
    }

    def rule(specked: int, small: int) -> CountingParams:
        names = ["specked"] * specked + ["small"] * small + ["plain"] * (12 - specked - small)
        of_groups = [replace(images[name], group=str(number)) for number, name in enumerate(names)]
        settings = params(**PLAIN, counting={**SPLIT, "prediction": "val"})
        return chosen(of_groups, settings)[0].scoring.counting.prediction

    assert rule(specked=3, small=2).smallest == 0
    assert rule(specked=3, small=0).smallest == 30


@pytest.mark.parametrize("settings", [{}, {"counting": {**SPLIT, "prediction": "val"}}])
def test_equal_inputs_give_equal_choices(tmp_path: Path, settings: dict[str, Any]) -> None:
    images = [
        *pairs_of_discs(tmp_path / "raw"),
        tiny.image(tmp_path / "raw", "b.png", drawn(blocks((1, 2, 9, 2, 9))), half(20, 30), split="val"),
    ]
    first, second = (chosen(images, params(**settings)) for _ in range(2))
    assert first[0] == second[0]
    pd.testing.assert_frame_equal(first[1], second[1])
