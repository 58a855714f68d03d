"""A run in words, and numbers as readers see them."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import tiny

from medseg.data.geometry import Geometry, Patchify, Resize, Scale
from medseg.evaluation import describe, estimates
from medseg.evaluation.choice_rule import MIN_GROUPS
from medseg.evaluation.formatting import ABSENT, MINUS, TO, counted, ends, measured, percent, score, signed, spread
from medseg.inference.settings import Augmentation, Choices, Option
from medseg.metrics.counting import CountingParams
from medseg.metrics.intervals import Ends, Estimate
from medseg.metrics.registry import METRICS, Unit
from medseg.models.model_yaml import InitialNetwork, InitialWeights, Training
from medseg.models.params import Encoded, Library

NAN = float("nan")
AUDIT: dict[str, Any] = {"data": "busi", "straddling_groups": 0}


def test_every_network_origin_of_weights_and_choice_has_words(project: Path) -> None:
    models = {path.stem for path in (project / "conf" / "model").glob("*.yaml")} - {"library"}
    assert models | set(get_args(Library.model_fields["arch"].annotation)) == set(describe.ARCHITECTURES)
    assert set(get_args(InitialWeights)) - {"initial_network"} == set(describe.INITIAL_WEIGHTS)
    assert set(get_args(Augmentation)) == set(describe.AUGMENTATIONS)
    steps = {"test_time_augmentation", "crf", *Choices.model_fields["postprocess"].annotation.model_fields}  # type: ignore[union-attr]
    assert {key for key, _, _ in describe.CHOICES} == steps


def test_a_network_is_named_with_its_encoder() -> None:
    unet = tiny.unet()
    assert describe.network(unet) == f"U-Net over the encoder {tiny.SMALL_ENCODER}"
    library = Library(name="library", arch="fpn", **unet.model_dump(include=set(Encoded.model_fields)))
    assert describe.network(library) == f"FPN over the encoder {tiny.SMALL_ENCODER}"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"name": "pspnet", "encoder": "resnet50", "psp_channels": 512}, "pspnet resnet50"),
        ({"name": "library", "arch": "unetplusplus", "encoder": "resnet18"}, "unetplusplus resnet18"),
        ({"name": "segnet", "init_features": 64}, "segnet 64"),
        ({"name": "cmunext", "widths": [16, 32], "depths": [1, 1]}, "cmunext 16-32"),
    ],
)
def test_networks_briefly(model: dict[str, Any], words: str) -> None:
    assert describe.network_briefly(model) == words


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        ({"name": "resize", "channels": 3, "height": 224, "width": 256}, "256x224 RGB"),
        ({"name": "patchify", "channels": 3, "patch": 128}, "128x128 RGB patches"),
        ({"name": "scale", "channels": 1, "factor": 0.5, "small_objects": "drop"}, "x0.5 grey"),
    ],
)
def test_samples_briefly(prepare: dict[str, Any], words: str) -> None:
    assert describe.samples_briefly(prepare) == words


def test_an_initial_network_is_named() -> None:
    training = tiny.description().training
    assert describe.initial_weights(training) == "random weights"
    initial = InitialNetwork(name="mine", weights_sha256="0" * 64, continued=False, epochs_before=0)
    started = Training(**training.model_dump() | {"initial_weights": "initial_network", "initial_network": initial})
    assert "mine" in describe.initial_weights(started)
    assert "continued" not in describe.initial_weights(started)
    going_on = initial.model_copy(update={"continued": True, "epochs_before": 30})
    assert "continued after 30 epochs" in describe.initial_weights(
        started.model_copy(update={"initial_network": going_on})
    )


@pytest.mark.parametrize(
    ("geometry", "words"),
    [
        (
            Resize(name="resize", channels=1, height=96, width=128, aspect="keep", small_objects="drop"),
            "resized to 128x96 (aspect kept, pa",
        ),
        (Scale(name="scale", channels=3, factor=0.5, small_objects="drop"), "scaled by 0.5, predicted"),
        (Patchify(name="patchify", channels=3, patch=64, stride=32, border="pad"), "64x64 that overlap by 25 %"),
    ],
)
def test_prediction_depends_on_the_geometry(geometry: Geometry, words: str) -> None:
    assert words in describe.prediction(geometry, 0.25)


def test_decisions_tell_what_val_chose_and_what_was_set() -> None:
    chosen = tiny.segmenter(threshold=0.35, test_time_augmentation="flips").chosen
    tried = Option(option="fill_holes", simplest=0.5, other=0.6, tried="always", error=0.0123, chosen="always")
    decisions = {found.name: found for found in describe.decisions(chosen.model_copy(update={"options": [tried]}))}
    assert decisions["Threshold"].setting == "0.35"
    assert decisions["Threshold"].option is None
    assert decisions["Test-time augmentation"].setting == "mean over 4 flips"
    assert decisions["Holes filled"].gain == "+0.1000 ± 0.0123"


def test_what_was_kept_although_another_value_scored_higher_is_named() -> None:
    chosen = tiny.segmenter().chosen
    values: dict[str, Any] = {"simplest": 0.5, "other": 0.6, "tried": "always", "error": 0.2}
    kept = Option(option="fill_holes", chosen="never", **values)
    taken = Option(option="largest_component", chosen="always", **values | {"error": 0.01})
    worse = Option(option="threshold", chosen="0.5", **values | {"other": 0.4, "tried": "0.45"})
    told = describe.chosen_on(chosen.model_copy(update={"options": [kept, taken, worse]}), "test")
    assert "since the lead of another value is within its error: Holes filled. The test" in told
    few = chosen.model_copy(update={"warnings": ["the images of val are few"]})
    assert f"Val decided nothing, which takes {MIN_GROUPS} groups" in describe.chosen_on(few, "test")


def test_limits_follow_from_the_run() -> None:
    usual = list(describe.limits(AUDIT, "test", 100))
    assert describe.SCORED_ON_VAL in describe.limits(AUDIT, "val", 100)
    for changed in ({"data": "phantom"}, {"straddling_groups": 2}):
        assert len(set(describe.limits(AUDIT | changed, "test", 100)) - set(usual)) == 1
    assert not [limit for limit in describe.limits(AUDIT, "test", 30) if "too few" in limit]
    assert [limit for limit in describe.limits(AUDIT, "test", 29) if "29 groups: too few for an interval" in limit]
    # With a chance of 0.05 none of 100 groups shows a failure that strikes 2.95 % of them: 0.9705^100 = 0.05.
    assert [limit for limit in usual if limit.startswith("A failure that strikes fewer than 3.0 % of groups")]


def test_every_metric_with_a_mean_is_defined() -> None:
    tolerance = tiny.segmenter().scoring.tolerance
    shown = {title for title, _ in describe.definitions(tolerance, tiny.LESIONS)}
    assert shown == {metric.title(tolerance) for metric in METRICS if metric.over}
    assert {title for title, _ in describe.definitions(tolerance, tiny.BINARY)} == {
        metric.title(tolerance) for metric in METRICS if metric.over and not metric.several_classes
    }


@pytest.mark.parametrize(
    ("correlation", "sentence"),
    [
        (-0.59, "-0.59, a strong relation: the more uncertain an image, the lower its Dice."),
        (-0.4, "a moderate relation: the more uncertain"),
        (0.05, "no relation; uncertainty does not tell"),
        (0.2, "a weak relation, and not the expected one"),
        (None, "can't be told"),
    ],
)
def test_the_rank_correlation_in_words(correlation: float | None, sentence: str) -> None:
    assert sentence in describe.uncertainty_finding(correlation, 28)


@pytest.mark.parametrize(
    ("smallest", "split", "words"),
    [
        (10, False, "those of fewer than 10 pixels dropped, touching ones counted as one"),
        (0, True, "none dropped, touching ones split by watershed (depth 1.5 pixels)"),
    ],
)
def test_a_rule_of_counting_in_words(smallest: int, split: bool, words: str) -> None:
    assert describe.counting(CountingParams(smallest=smallest, split=split, depth=1.5)) == words


@pytest.mark.parametrize("undefined", [None, float("nan"), np.float64("nan")])
def test_what_is_not_defined_is_a_dash(undefined: float | None) -> None:
    assert {score(undefined), percent(undefined)} == {ABSENT}
    assert {measured(undefined, unit) for unit in get_args(Unit)} == {ABSENT}


def test_values_bear_their_units_and_intervals_do_not() -> None:
    units: tuple[Unit, ...] = ("score", "pixels", "share", "number")
    assert [measured(0.5, unit) for unit in units] == ["0.500", "0.5 px", "50.0 %", "0.50"]
    found = Estimate(0.5, NAN, -0.25, 1.0, "interval")
    assert [ends(found, unit) for unit in ("share", "pixels")] == [f"{MINUS}25.0 to 100.0", f"{MINUS}0.2 to 1.0"]
    assert ends(found, form="+.3f") == "-0.250 to +1.000"


def test_a_mean_says_what_stands_beside_it() -> None:
    assert spread(Estimate(0.5, NAN, 0.25, 0.75, "interval")) == f"0.500 (0.250{TO}0.750)"
    assert spread(Estimate(0.5, NAN, 0.25, 0.75, "range")) == f"0.500 (range 0.250{TO}0.750)"
    assert spread(Estimate(9.0, 5.0, 2.0, 7.0, "interval of median"), "pixels") == f"9.0 px (median 5.0, 2.0{TO}7.0)"
    assert spread(Estimate(9.0, 5.0, 2.0, 7.0, "range"), "pixels") == f"9.0 px (median 5.0, range 2.0{TO}7.0)"
    assert spread(Estimate(0.5, NAN, NAN, NAN, "none")) == f"0.500 ({ABSENT})"
    assert spread(Estimate(9.0, 9.0, NAN, NAN, "none"), "pixels") == "9.0 px (median 9.0)"


def test_every_kind_of_ends_is_explained() -> None:
    sentences = [describe.ends_made(kind) for kind in get_args(Ends)]
    assert len(set(sentences)) == len(sentences)
    assert [sentence for sentence in sentences if "95 %" in sentence] == sentences[:2]
    assert "it is no interval" in describe.ends_made("range")


def test_keys_tell_an_interval_from_a_range() -> None:
    for found, keys in (
        (Estimate(0.5, NAN, 0.25, 0.75, "interval"), {"dice": 0.5, "dice_low": 0.25, "dice_high": 0.75}),
        (Estimate(0.5, NAN, 0.25, 0.75, "range"), {"dice": 0.5, "dice_range_low": 0.25, "dice_range_high": 0.75}),
        (Estimate(NAN, NAN, NAN, NAN, "none"), {"dice": None}),
    ):
        assert estimates.to_keys("dice", found) == keys
        assert repr(estimates.of_keys(keys, "dice")) == repr(found)  # NaN is no equal of itself


def test_small_values_never_look_like_nothing() -> None:
    shares = (0.0, 0.123, 1.0, 0.0035, 0.00001, -0.00001, -0.25)
    assert [percent(share) for share in shares] == [
        "0.0 %",
        "12.3 %",
        "100.0 %",
        "0.35 %",
        "< 0.01 %",
        f"> {MINUS}0.01 %",
        f"{MINUS}25.0 %",
    ]
    assert [signed(gain) for gain in (0.02, -0.02, 0.0, 0.00001)] == ["+0.0200", f"{MINUS}0.0200", "0", "< 0.0001"]


def test_one_of_a_kind_is_singular() -> None:
    assert (counted(1, "image"), counted(2, "image"), counted(0, "image")) == ("1 image", "2 images", "0 images")
