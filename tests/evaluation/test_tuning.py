"""What val chooses: the best of what is offered, by the stated rule, and nothing that is set."""

import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from extras import needs_crf
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from medseg.core.errors import UserError
from medseg.core.params import validate
from medseg.data.image_io import Pixels
from medseg.evaluation.choice_rule import MIN_GROUPS
from medseg.evaluation.tuning import (
    AUGMENTATIONS,
    SMALLEST_OBJECTS,
    THRESHOLDS,
    ChoiceParams,
    ValImage,
    choose,
    dice_by_threshold,
)
from medseg.inference.crf import CrfParams
from medseg.inference.postprocess import Postprocess, Probabilities, postprocess
from medseg.inference.predictor import to_prediction
from medseg.inference.settings import Augmentation, Choices, Chosen

CRF: dict[str, Any] = {
    "iterations": 3,
    "gaussian_sigma": 2.0,
    "gaussian_weight": 3.0,
    "bilateral_sigma": 20.0,
    "bilateral_colour": 15.0,
    "bilateral_weight": 5.0,
}
SET: dict[str, Any] = {
    "threshold": 0.5,
    "test_time_augmentation": "none",
    "crf": {"use": "never", **CRF},
    "fill_holes": "never",
    "smallest_object": 0,
    "largest_component": "never",
}
OPEN: dict[str, Any] = dict.fromkeys(SET, "val") | {"crf": {"use": "val", **CRF}}
SHAPES: dict[str, Any] = {"fill_holes": "val", "smallest_object": "val", "largest_component": "val"}
BARE: dict[str, Any] = {"fill_holes": False, "smallest_object": 0, "largest_component": False}


def params(**changes: Any) -> ChoiceParams:
    checked: ChoiceParams = validate({**SET, **changes}, ChoiceParams, "params.yaml: evaluate")
    return checked


def shown(
    probabilities: NDArray[Any] | dict[Augmentation, NDArray[Any]],
    truth: NDArray[Any],
    image: Pixels | None = None,
    group: str = "",
) -> ValImage:
    """An image of val, annotated as a whole; (H, W) or (K, H, W) for all augmentations or for each."""
    by_name = probabilities if isinstance(probabilities, dict) else dict.fromkeys(AUGMENTATIONS, probabilities)
    height, width = truth.shape
    return ValImage(
        np.full((height, width, 1), 128, np.uint8) if image is None else image,
        truth.astype(np.uint8),
        group,
        (slice(0, height), slice(0, width)),
        lambda name: by_name[name].astype(np.float32).reshape(-1, height, width),
    )


def choose_on(images: Iterable[ValImage], groups: int = MIN_GROUPS, **changes: Any) -> Chosen:
    """What is chosen on `groups` groups, each with a copy of all images."""
    held = [replace(image, group=str(group)) for group in range(groups) for image in images]
    return choose(params(**changes), lambda: held)


def table(chosen: Chosen) -> list[tuple[Any, ...]]:
    return [tuple(option.model_dump().values()) for option in chosen.options]


def row(*values: float) -> NDArray[np.float32]:
    return np.array([values], np.float32)


def dice(found: NDArray[Any], truth: NDArray[Any]) -> float:
    found, truth = found > 0, truth > 0
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


@needs_crf
def test_what_is_set_is_taken_and_val_is_not_looked_at() -> None:
    def refuse() -> Iterator[ValImage]:
        raise AssertionError("val was read")

    values = {
        "threshold": 0.3,
        "test_time_augmentation": "flips",
        "crf": {"use": "always", **CRF},
        "fill_holes": "always",
        "smallest_object": 25,
        "largest_component": "always",
    }
    chosen = choose(params(**values), refuse)
    assert chosen.choices.model_dump() == {
        "test_time_augmentation": "flips",
        "crf": CRF,
        "postprocess": {"threshold": 0.3, "fill_holes": True, "smallest_object": 25, "largest_component": True},
    }
    assert (chosen.options, chosen.images, chosen.warnings) == ([], 0, [])


def test_the_threshold_with_the_best_mean_dice_is_taken() -> None:
    chosen = choose_on([shown(row(0.22, 0.81, 0.9), row(0, 1, 1)), shown(row(0.68, 0.83), row(0, 1))], threshold="val")
    # From 0.7 on both are right; 0.5 has one wrong pixel of two in the second.
    assert chosen.choices.postprocess.threshold == 0.7
    assert table(chosen) == [("threshold", round((1 + 2 / 3) / 2, 6), 1.0, "0.7", 0.0, "0.7")]
    assert (chosen.images, chosen.groups) == (2 * MIN_GROUPS, MIN_GROUPS)


def test_equally_good_thresholds_fall_to_the_nearest_to_a_half_and_then_to_the_lower() -> None:
    assert THRESHOLDS[:5] == (0.5, 0.45, 0.55, 0.4, 0.6)
    assert sorted(THRESHOLDS) == [round(0.05 * step, 2) for step in range(1, 20)]
    sure = choose_on([shown(row(0.0, 1.0), row(0, 1))], threshold="val")
    assert sure.choices.postprocess.threshold == 0.5
    assert table(sure) == [("threshold", 1.0, 1.0, "0.45", 0.0, "0.5")]
    # 0.5 alone is wrong: 0.45 has the annotated pixel, and 0.55 in the other image is rid of the other one.
    two = [shown(row(0.47, 1.0), row(1, 1)), shown(row(0.52, 1.0), row(0, 1))]
    assert choose_on(two, threshold="val").choices.postprocess.threshold == 0.45


def test_images_count_alike_whatever_their_size_and_empty_ones_do_not_count() -> None:
    small = shown(row(0.3, 0.0), row(1, 0))
    large = shown(np.repeat(row(0.3, 0.9), 50, axis=0), np.repeat(row(0, 1), 50, axis=0))

    def never(_: Augmentation) -> Probabilities:
        raise AssertionError("an empty image was predicted")

    nothing = np.zeros((1, 2), np.uint8)
    empty = ValImage(nothing[..., None], nothing, "", (slice(0, 1), slice(0, 2)), never)
    chosen = choose_on([small, large, empty], threshold="val")
    # Low thresholds give 1 and 2/3, high ones 0 and 1.
    assert chosen.choices.postprocess.threshold == 0.3
    assert chosen.images == 2 * MIN_GROUPS


def test_only_the_annotated_region_counts_but_objects_are_measured_whole() -> None:
    truth = row(1, 0, 0, 0)
    probabilities = row(0.9, 0.9, 0.9, 0.2)
    whole = shown(probabilities, truth)
    part = replace(whole, region=(slice(0, 1), slice(0, 1)))
    assert choose_on([part], threshold="val").choices.postprocess.threshold == 0.5
    # The object of three pixels has one in the region.
    assert choose_on([part], smallest_object=3, largest_component="val").options[0].simplest == 1.0
    outside = replace(whole, region=(slice(0, 1), slice(1, 4)))
    assert choose_on([outside], threshold="val").images == 0


@needs_crf
def test_where_nothing_is_annotated_all_stays_at_its_simplest_and_a_warning_says_so() -> None:
    empty = shown(row(0.9, 0.1), row(0, 0))
    for images in ([], [empty]):
        chosen = choose_on(images, **OPEN)
        assert chosen.choices == Choices(
            test_time_augmentation="none", crf=None, postprocess=Postprocess(threshold=0.5, **BARE)
        )
        assert (chosen.options, chosen.images) == ([], 0)
        assert len(chosen.warnings) == 1
        assert "evaluate.threshold = 0.5" in chosen.warnings[0]
        assert "evaluate.crf.use = never" in chosen.warnings[0]


def test_augmentation_is_used_where_it_helps_and_the_simpler_one_where_it_helps_as_much() -> None:
    plain, better = row(0.6, 0.9), row(0.4, 0.9)
    truth = row(0, 1)
    helps = shown({"none": plain, "mirror": plain, "flips": better, "flips_and_turns": better}, truth)
    chosen = choose_on([helps], test_time_augmentation="val")
    assert table(chosen) == [("test_time_augmentation", round(2 / 3, 6), 1.0, "flips", 0.0, "flips")]
    harms = shown({"none": better, "mirror": plain, "flips": plain, "flips_and_turns": better}, truth)
    chosen = choose_on([harms], test_time_augmentation="val")
    assert table(chosen) == [("test_time_augmentation", 1.0, 1.0, "flips_and_turns", 0.0, "none")]


def test_augmentation_is_chosen_at_a_half_and_the_threshold_on_what_it_gives() -> None:
    image = shown(
        {"none": row(0.6, 0.9), "mirror": row(0.6, 0.9), "flips": row(0.3, 0.35), "flips_and_turns": row(0.75, 0.9)},
        row(0, 1),
    )
    chosen = choose_on([image], test_time_augmentation="val", threshold="val")
    # With its own best threshold every one of them is right, but at 0.5 none gets more than the plain one.
    assert [option.chosen for option in chosen.options] == ["none", "0.65"]


def test_each_step_on_objects_is_used_where_it_helps() -> None:
    ring = np.ones((5, 5))
    ring[2, 2] = 0
    found = np.zeros((20, 20))
    found[2:7, 2:7] = ring
    found[15, 0:12] = 1
    truth = np.zeros((20, 20))
    truth[2:7, 2:7] = 1
    chosen = choose_on([shown(found, truth)], **SHAPES)
    assert table(chosen)[0] == ("fill_holes", round(48 / 61, 6), round(50 / 62, 6), "always", 0.0, "always")
    # 30 pixels would drop the object itself, 10 leave the streak of 12: only the largest object helps.
    assert [(option.option, option.chosen) for option in chosen.options] == [
        ("fill_holes", "always"),
        ("smallest_object", "0"),
        ("largest_component", "always"),
    ]
    assert chosen.options[2].other == 1.0


def test_the_least_number_of_pixels_that_does_it_is_taken() -> None:
    found, truth = np.zeros((40, 40)), np.zeros((40, 40))
    found[5:20, 5:25] = truth[5:20, 5:25] = 1  # 300 pixels
    found[30, 0:12] = 1  # 12 pixels
    chosen = choose_on([shown(found, truth)], **SHAPES)
    assert [option.chosen for option in chosen.options] == ["never", "30", "never"]


def test_several_classes_are_judged_by_their_foreground() -> None:
    shares = np.array([[[0.4, 0.58]], [[0.25, 0.42]], [[0.35, 0.0]]], np.float32)
    chosen = choose_on([shown(shares, row(1, 1))], threshold="val")
    assert chosen.choices.postprocess.threshold == 0.4


@needs_crf
def test_the_crf_is_used_where_it_helps() -> None:
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:30, :30]
    disc = (rows - 15) ** 2 + (columns - 15) ** 2 < 60
    image = np.where(disc, 90, 150).astype(np.uint8)[..., None]
    noisy = np.clip(np.where(disc, 0.65, 0.35) + random.normal(0, 0.25, disc.shape), 0, 1)
    chosen = choose_on([shown(noisy, disc, image)], crf={"use": "val", **CRF})
    assert chosen.choices.crf == CrfParams(**CRF)
    assert chosen.options[0].option == "crf.use"
    assert chosen.options[0].other > chosen.options[0].simplest + 0.2
    probabilities = noisy.astype(np.float32)[None]
    assert dice(to_prediction(probabilities, image, chosen.choices).codes, disc) == pytest.approx(
        chosen.options[0].other, abs=1e-6
    )
    harmless = choose_on([shown(disc.astype(float), disc, image)], crf={"use": "val", **CRF})
    assert (harmless.choices.crf, harmless.options[0].chosen) == (None, "never")


def test_the_crf_that_may_be_used_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    for use in ("always", "val"):
        with pytest.raises(UserError, match=r"evaluate\.crf\.use"):
            choose_on([], crf={"use": use, **CRF})
    choose_on([], crf={"use": "never", **CRF})


@needs_crf
def test_val_is_passed_at_most_three_times_and_predicted_no_more_than_needed() -> None:
    passes, asked = [], []
    truth = row(0, 1, 1)

    def predict(name: Augmentation) -> Probabilities:
        asked.append(name)
        return row(0.1, 0.9, 0.9)[None]

    def images() -> Iterator[ValImage]:
        passes.append(1)
        for group in range(groups):
            yield replace(shown(truth, truth), group=str(group), predict=predict)

    groups = MIN_GROUPS
    choose(params(**OPEN), images)
    assert len(passes) == 3
    assert asked == groups * [*AUGMENTATIONS] + groups * ["none"]
    asked.clear()
    groups -= 1
    choose(params(**OPEN), images)
    assert asked == []


def test_a_lead_within_its_standard_error_is_not_taken_and_said_to_be_so() -> None:
    one = shown(row(0.6, 0.9), row(0, 1))  # above 0.6 Dice 1 instead of 2/3
    other = shown(row(0.55, 0.9), row(1, 1))  # from 0.6 on Dice 2/3 instead of 1
    alike = shown(row(0.1, 0.9), row(0, 1))
    for helped, harmed, threshold in ((3, 2, "0.5"), (5, 1, "0.65")):
        images = [one] * helped + [other] * harmed + [alike] * (12 - helped - harmed)
        held = [replace(image, group=str(number)) for number, image in enumerate(images)]
        option = choose(params(threshold="val"), held.__iter__).options[0]
        leads = [1 / 3] * helped + [-1 / 3] * harmed + [0.0] * (12 - helped - harmed)
        assert option.other - option.simplest == pytest.approx(np.mean(leads), abs=2e-6)
        assert option.error == pytest.approx(stats.sem(leads), abs=1e-6)
        assert (option.tried, option.chosen) == ("0.65", threshold)


def test_many_images_of_a_group_are_no_more_evidence_than_one() -> None:
    one, other = shown(row(0.6, 0.9), row(0, 1)), shown(row(0.55, 0.9), row(1, 1))
    images = [replace(image, group=str(number)) for number, image in enumerate([one] * 7 + [other] * 5)]
    for copies in (1, 20):
        option = choose(params(threshold="val"), (images * copies).__iter__).options[0]
        assert option.chosen == "0.5"
        assert option.error == pytest.approx(stats.sem([1 / 3] * 7 + [-1 / 3] * 5), abs=1e-6)
    apart = [replace(image, group=f"{number}") for number, image in enumerate(images * 20)]
    assert choose(params(threshold="val"), apart.__iter__).options[0].chosen == "0.65"


@pytest.mark.parametrize("groups", [3, MIN_GROUPS - 1])
def test_with_few_groups_nothing_is_chosen_and_a_warning_says_so(groups: int) -> None:
    """As with three images of vessels, where val would take a threshold of 0.95 and the largest object alone."""
    found, truth = np.zeros((40, 40)), np.zeros((40, 40))
    found[5:20, 5:25] = truth[5:20, 5:25] = found[30, 0:12] = 1
    chosen = choose_on([shown(found, truth)] * 5, groups, **OPEN | {"crf": {"use": "never", **CRF}})
    assert chosen.choices.postprocess == Postprocess(threshold=0.5, **BARE)
    assert (chosen.options, chosen.images, chosen.groups) == ([], 5 * groups, groups)
    assert f"of {groups} groups, fewer than {MIN_GROUPS}" in chosen.warnings[0]
    assert "evaluate.largest_component = never" in chosen.warnings[0]


@st.composite
def val_sets(draw: st.DrawFn) -> list[ValImage]:
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    images = []
    for number in range(draw(st.sampled_from([0, MIN_GROUPS - 1, MIN_GROUPS, MIN_GROUPS + 6]))):
        height, width = random.integers(1, 12, 2)
        group = str(number if number < MIN_GROUPS else random.integers(0, 3))
        # Steps of 1/40 lie on thresholds and between them.
        maps = {name: random.integers(0, 41, (height, width)) / 40 for name in AUGMENTATIONS}
        truth = random.random((height, width)) < random.choice([0, 0.5], p=[0.1, 0.9])
        truth[0, 0] |= number < MIN_GROUPS
        images.append(shown(maps, truth, group=group))
    return images


@settings(max_examples=40)
@given(val_sets())
def test_dice_of_one_histogram_is_that_of_each_threshold(images: list[ValImage]) -> None:
    for image in images:
        probabilities = image.predict("none")
        if image.truth.any():
            assert dice_by_threshold(probabilities[0], image.truth, THRESHOLDS) == {
                threshold: dice(postprocess(probabilities, Postprocess(threshold=threshold, **BARE)), image.truth)
                for threshold in THRESHOLDS
            }


@settings(max_examples=25)
@given(
    val_sets(),
    st.fixed_dictionaries(
        {
            "test_time_augmentation": st.sampled_from(["flips", "val"]),
            "threshold": st.sampled_from([0.3, "val"]),
            "fill_holes": st.sampled_from(["never", "always", "val"]),
            "smallest_object": st.sampled_from([0, 4, "val"]),
            "largest_component": st.sampled_from(["never", "always", "val"]),
        }
    ),
)
def test_streamed_choices_are_those_of_brute_force(images: list[ValImage], changes: dict[str, Any]) -> None:
    chosen = choose(params(**changes), lambda: images)
    assert chosen.choices == by_brute_force(images, changes)


def by_brute_force(images: list[ValImage], settings: dict[str, Any]) -> Choices:
    """One key after the other, every value written out on every image."""
    offered: dict[str, Any] = {
        "test_time_augmentation": AUGMENTATIONS,
        "threshold": THRESHOLDS,
        "fill_holes": (False, True),
        "smallest_object": SMALLEST_OBJECTS,
        "largest_component": (False, True),
    }
    words = {"never": False, "always": True}
    state = {key: offered[key][0] if value == "val" else words.get(value, value) for key, value in settings.items()}
    annotated = [image for image in images if image.truth.any()]
    if len({image.group for image in annotated}) < MIN_GROUPS:
        return settled(state)
    for key, (simplest, *others) in offered.items():
        if settings[key] == "val":
            leads = {value: lead_less_error(annotated, state | {key: value}, state) for value in others}
            best = max(others, key=lambda value: leads[value])  # the first of equals
            state[key] = best if leads[best] > 0 else simplest
    return settled(state)


def lead_less_error(images: list[ValImage], state: dict[str, Any], plain: dict[str, Any]) -> float:
    leads = [one - other for one, other in zip(dices(images, state), dices(images, plain), strict=True)]
    mean = sum(leads) / len(leads)
    off: dict[str, float] = defaultdict(float)
    for image, lead in zip(images, leads, strict=True):
        off[image.group] += lead - mean
    error = math.sqrt(len(off) / (len(off) - 1) * sum(value**2 for value in off.values())) / len(leads)
    return round(mean - error, 12)


def settled(state: dict[str, Any]) -> Choices:
    shape = {key: value for key, value in state.items() if key != "test_time_augmentation"}
    return Choices(test_time_augmentation=state["test_time_augmentation"], crf=None, postprocess=Postprocess(**shape))


def dices(images: list[ValImage], state: dict[str, Any]) -> list[float]:
    choices = settled(state)
    return [
        dice(to_prediction(image.predict(choices.test_time_augmentation), image.image, choices).codes, image.truth)
        for image in images
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 1.0}, r"evaluate\.threshold = 1\.0"),
        ({"threshold": "best"}, r"evaluate\.threshold = 'best'"),
        ({"test_time_augmentation": "turns"}, r"evaluate\.test_time_augmentation = 'turns'"),
        ({"fill_holes": True}, r"evaluate\.fill_holes = True: .*'never', 'always' or 'val'"),
        ({"smallest_object": -1}, r"evaluate\.smallest_object = -1"),
        ({"largest_component": "on"}, r"evaluate\.largest_component = 'on'"),
        ({"crf": {"use": "off", **CRF}}, r"evaluate\.crf\.use = 'off'"),
        ({"crf": CRF}, r"evaluate\.crf\.use is missing"),
        ({"holes": "val"}, r"evaluate\.holes is no known key"),
    ],
)
def test_wrong_values_are_refused_by_their_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        params(**change)
