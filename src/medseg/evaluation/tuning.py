"""Tuning on the validation set: test-time augmentation, threshold, CRF, post-processing, and how objects are counted.

The test set is never read here.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, product
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from tqdm import tqdm

from medseg.core.params import Section
from medseg.data.image import Image
from medseg.data.image_io import Pixels
from medseg.evaluation.choice_rule import MIN_GROUPS, best_lead
from medseg.inference.crf import CrfParams, apply_crf, load_library
from medseg.inference.postprocess import Postprocess, Probabilities, foreground_probability, postprocess
from medseg.inference.predictor import Predictor
from medseg.inference.settings import Augmentation, Choices, Chosen, Counting, Option, Scoring, SegmenterDescription
from medseg.inference.sliding_window import Forward
from medseg.inference.tta import predict_augmented
from medseg.metrics.counting import CountingChoice, CountingParams, Size, count_objects, counting_errors
from medseg.metrics.overlap import Counts, count_pixels, overlap_scores
from medseg.metrics.surface import Tolerance
from medseg.models.model_yaml import Description

Use = Literal["never", "always", "val"]  # not off and on, which YAML 1.1 reads as booleans

# What val chooses from, the simplest first: of equally good values the first is taken.
AUGMENTATIONS: tuple[Augmentation, ...] = ("none", "mirror", "flips", "flips_and_turns")
THRESHOLDS = tuple(step / 20 for step in sorted(range(1, 20), key=lambda step: (abs(step - 10), step)))  # 0.5, 0.45 ...
SMALLEST_OBJECTS = (0, 10, 30, 100, 300, 1000, 3000)  # pixels

# The settings in the order in which they are chosen. Those of one round are chosen in one pass over val.
_ROUNDS = (
    ("test_time_augmentation", "threshold"),
    ("crf", "fill_holes", "smallest_object", "largest_component"),
)


class CrfSettings(CrfParams):
    """Whether the dense CRF is used, and its parameters."""

    use: Use


class ChoiceParams(Section):
    """The settings of the section `evaluate` that are either set to a value or left to `val`."""

    threshold: Annotated[float, Field(gt=0, lt=1)] | Literal["val"]
    test_time_augmentation: Augmentation | Literal["val"]
    crf: CrfSettings
    fill_holes: Use
    smallest_object: Size | Literal["val"]  # pixels
    largest_component: Use


class EvaluateParams(ChoiceParams):
    """The section `evaluate`."""

    counting: CountingChoice
    tolerance: Tolerance
    uncertainty: Augmentation  # the orientations over which the map of uncertainty is computed
    overlap: float = Field(ge=0, lt=0.95)  # of neighbouring tiles, as a share of their side
    batch_size: int = Field(ge=1, le=65_536)  # tiles at a time


@dataclass(frozen=True)
class ValImage:
    """One image of the validation set, as `choose` needs it."""

    image: Pixels  # (H, W, 1 or 3)
    truth: Pixels  # (H, W), not 0 where something is annotated
    group: str  # of images that are not independent of one another
    region: tuple[slice, slice]  # rows and columns of the annotated region
    predict: Callable[[Augmentation], Probabilities]  # the network's (K, H, W); called only where needed

    @property
    def is_annotated(self) -> bool:
        """Whether anything is annotated in the region."""
        return bool(self.truth[self.region].any())


def select(
    forward: Forward, network: Description, val: Sequence[Image], params: EvaluateParams
) -> tuple[SegmenterDescription, pd.DataFrame]:
    """Choose every setting that `params` leaves to `val`, the images of the validation set.

    Gives the segmenter's description and the table of Dice over thresholds on val, with all other settings as chosen:
    columns threshold and dice, the mean over the images in which something is annotated; no rows where there is none.
    Raises `UserError` as `choose`, and where an image can't be read.
    """
    chosen = choose(params, lambda: _val_images(forward, network, val, params))
    truth_rule = params.counting.of_truth()

    def described(prediction_rule: CountingParams) -> SegmenterDescription:
        counting = Counting(truth=truth_rule, prediction=prediction_rule)
        scoring = Scoring(tolerance=params.tolerance, counting=counting, uncertainty=params.uncertainty)
        return SegmenterDescription(**dict(network), overlap=params.overlap, chosen=chosen, scoring=scoring)

    groups = [image.group for image in val]
    candidates = params.counting.grid.candidates() if params.counting.prediction == "val" else []
    if candidates and len(set(groups)) < MIN_GROUPS:
        candidates = []
        kept = (
            f"val has {len(set(groups))} groups, fewer than {MIN_GROUPS}, so how predictions are counted was not chosen"
        )
        chosen.warnings.append(f"{kept}: evaluate.counting.prediction = same")
    errors, dices = _evaluate_choices(Predictor(described(truth_rule), forward), val, params, [truth_rule, *candidates])
    means = pd.DataFrame(dices, columns=sorted(THRESHOLDS)).mean().round(6)
    thresholds = pd.DataFrame({"threshold": sorted(THRESHOLDS), "dice": means.to_numpy()}).dropna()
    rule = _choose_counting(errors, groups, candidates) if candidates else None
    return described(rule or truth_rule), thresholds


def choose(params: ChoiceParams, val_images: Callable[[], Iterable[ValImage]]) -> Chosen:
    """Choose every setting of `params` that is left to val, by the mean Dice on val.

    Settings are chosen one after the other: test-time augmentation, threshold, CRF, holes, smallest object, largest
    component. While one is chosen, those before it are as chosen, fixed ones as fixed, and later ones at their simplest
    value. Dice is that of foreground of any class, inside the annotated region, its mean over images whose truth there
    is not empty. A value is taken by `choice_rule.best_lead`: only if it leads the simplest by more than one standard
    error over groups. Of equally good values the simplest: a threshold is the nearest to 0.5 (of two as near, the
    lower), the smallest object is as small as possible.

    `val_images` is called once for each pass, at most three times, and not at all where nothing is left to val; one
    image is held at a time. Where fewer than `MIN_GROUPS` groups of val have foreground, all that is left to it stays
    at its simplest value and a warning says so. Raises `UserError` where the CRF may be used and its package is not
    installed.
    """
    if params.crf.use != "never":
        load_library()
    candidates = _candidates(params)
    state = {key: values[0] for key, values in candidates.items()}
    rounds = [{key: candidates[key] for key in keys if len(candidates[key]) > 1} for keys in _ROUNDS]
    groups = [image.group for image in val_images() if image.is_annotated] if any(rounds) else []
    options: list[Option] = []
    warnings = []
    if len(set(groups)) >= MIN_GROUPS:
        for left in filter(None, rounds):
            options += _choose_in_turn(state, left, _dices_on_val(val_images, state, left), groups)
    elif any(rounds):
        kept = ", ".join(f"evaluate.{_key(key)} = {_value(state[key])}" for left in rounds for key in left)
        warnings = [f"{_too_few(groups)}, so nothing was chosen on them and the simplest is kept: {kept}"]
    return Chosen(
        choices=_choices(state), options=options, images=len(groups), groups=len(set(groups)), warnings=warnings
    )


def dice_by_threshold(probabilities: Probabilities, truth: Pixels, thresholds: Iterable[float]) -> dict[float, float]:
    """Dice at every threshold from one histogram of the pixels; probabilities and truth (H, W), truth is not empty."""
    ordered = sorted(set(thresholds))
    # Compared as the probabilities are, in single precision: 0.7 must not fall below the threshold 0.7.
    reached = np.searchsorted(np.array(ordered, np.float32), probabilities, side="right")  # thresholds, by each pixel
    annotated = truth.astype(bool)
    true, false = (_positives(reached[pixels], len(ordered)) for pixels in (annotated, ~annotated))
    missed = int(annotated.sum()) - true
    counts = [Counts(int(tp), int(fp), int(fn), 0) for tp, fp, fn in zip(true, false, missed, strict=True)]
    return {threshold: overlap_scores(count)["dice"] for threshold, count in zip(ordered, counts, strict=True)}


def _positives(reached: NDArray[np.intp], thresholds: int) -> NDArray[np.intp]:
    """Number of pixels at or above each of `thresholds`, from the number of thresholds that each pixel reaches."""
    return np.bincount(reached, minlength=thresholds + 1)[::-1].cumsum()[::-1][1:]


def _val_images(
    forward: Forward, network: Description, val: Sequence[Image], params: EvaluateParams
) -> Iterator[ValImage]:
    """The images of val, one at a time."""

    def predict(pixels: Pixels, augmentation: Augmentation) -> Probabilities:
        return predict_augmented(
            forward, pixels, network.geometry, params.overlap, params.batch_size, augmentation
        ).probabilities

    for image in tqdm(val, desc="tune on val", disable=None):
        pixels, truth = image.read()
        yield ValImage(pixels, truth, image.group, image.region.slices, partial(predict, pixels))


def _too_few(groups: Sequence[str]) -> str:
    if not groups:
        return "nothing is annotated in the images of val"
    return f"the images of val with something annotated are of {len(set(groups))} groups, fewer than {MIN_GROUPS}"


def _choose_counting(
    errors: list[list[int]], groups: Sequence[str], candidates: Sequence[CountingParams]
) -> CountingParams | None:
    """The candidate that counts clearly better than the rule of the truth; None where there is none.

    `errors` has a row an image: of the rule of the truth, then of each candidate.
    """
    found = np.array(errors, np.float64)
    lead = best_lead(found[:, :1] - found[:, 1:], groups)
    return candidates[lead.best] if lead.is_clear else None


def _evaluate_choices(
    predictor: Predictor, val: Sequence[Image], params: EvaluateParams, candidates: list[CountingParams]
) -> tuple[list[list[int]], list[dict[float, float]]]:
    """With the chosen settings: each image's counting error by candidate, and the Dice by threshold of those annotated.

    A second pass, because both depend on all settings.
    """
    errors: list[list[int]] = []
    dices = []
    for image in tqdm(val, desc="evaluate choices on val", disable=None):
        pixels, truth = image.read()
        segmented = predictor.predict(pixels, params.batch_size)
        truth, codes = image.crop(truth), image.crop(segmented.codes)
        errors.append(counting_errors(codes, count_objects(truth, params.counting.of_truth()), candidates))
        if truth.any():
            probabilities = image.crop(foreground_probability(segmented.probabilities))
            dices.append(dice_by_threshold(probabilities, truth, THRESHOLDS))
    return errors, dices


def _candidates(params: ChoiceParams) -> dict[str, Sequence[Any]]:
    """The values that each setting may take, the simplest first: a single one, or what val chooses from.

    In the order in which they act, so that those that change probabilities vary slowest in a product of all.
    """
    crf = CrfParams.model_validate(params.crf.model_dump(exclude={"use"}))

    def of_value(value: Any, offered: Sequence[Any]) -> Sequence[Any]:
        return offered if value == "val" else (value,)

    def of_use(use: Use, off: Any, on: Any) -> Sequence[Any]:
        return {"never": (off,), "always": (on,), "val": (off, on)}[use]

    return {
        "test_time_augmentation": of_value(params.test_time_augmentation, AUGMENTATIONS),
        "crf": of_use(params.crf.use, None, crf),
        "threshold": of_value(params.threshold, THRESHOLDS),
        "fill_holes": of_use(params.fill_holes, False, True),
        "smallest_object": of_value(params.smallest_object, SMALLEST_OBJECTS),
        "largest_component": of_use(params.largest_component, False, True),
    }


def _choices(state: dict[str, Any]) -> Choices:
    return Choices(
        test_time_augmentation=state["test_time_augmentation"],
        crf=state["crf"],
        postprocess=Postprocess(**{key: state[key] for key in Postprocess.model_fields}),
    )


def _dices_on_val(
    val_images: Callable[[], Iterable[ValImage]], state: dict[str, Any], left: dict[str, Sequence[Any]]
) -> dict[Choices, NDArray[np.float64]]:
    """Dice of each annotated image of val for each combination of the values in `left`, others as in `state`."""
    offered = {key: left.get(key, (value,)) for key, value in state.items()}
    candidates = [_choices(dict(zip(offered, values, strict=True))) for values in product(*offered.values())]
    rows = [_dices(image, candidates) for image in val_images() if image.is_annotated]
    return dict(zip(candidates, np.array(rows, np.float64).T, strict=True))


def _choose_in_turn(
    state: dict[str, Any],
    left: dict[str, Sequence[Any]],
    dices: dict[Choices, NDArray[np.float64]],
    groups: Sequence[str],
) -> list[Option]:
    """Choose the settings in `left` one after the other, writing each into `state`."""
    options = []
    for key, (simplest, *others) in left.items():
        plain, *rest = (dices[_choices(state | {key: value})] for value in (simplest, *others))
        lead = best_lead(np.stack(rest, axis=1) - plain[:, None], groups)
        state[key] = others[lead.best] if lead.is_clear else simplest
        options.append(
            Option(
                option=_key(key),
                simplest=round(float(plain.mean()), 6),
                other=round(float(rest[lead.best].mean()), 6),
                tried=_value(others[lead.best]),
                error=round(lead.error, 6),
                chosen=_value(state[key]),
            )
        )
    return options


def _dices(image: ValImage, candidates: Sequence[Choices]) -> list[float]:
    """Dice of foreground for each candidate; those with equal probabilities follow one another."""
    dices = []
    for augmentation, alike in groupby(candidates, lambda choices: choices.test_time_augmentation):
        probabilities = image.predict(augmentation)
        for crf, same in groupby(alike, lambda choices: choices.crf):
            foreground = foreground_probability(apply_crf(probabilities, image.image, crf))
            dices += _mask_dices(foreground, image, [choices.postprocess for choices in same])
    return dices


def _mask_dices(foreground: Probabilities, image: ValImage, candidates: Sequence[Postprocess]) -> list[float]:
    """Dice for each post-processing of a foreground probability (H, W); mere thresholds share one histogram."""
    truth = image.truth[image.region]
    thresholds = [step.threshold for step in candidates if _is_threshold_alone(step)]
    by_threshold = dice_by_threshold(foreground[image.region], truth, thresholds)
    return [
        by_threshold[step.threshold]
        if _is_threshold_alone(step)
        else overlap_scores(count_pixels(postprocess(foreground[None], step)[image.region], truth))["dice"]
        for step in candidates
    ]


def _is_threshold_alone(step: Postprocess) -> bool:
    return not (step.fill_holes or step.smallest_object or step.largest_component)


def _key(setting: str) -> str:
    """A setting's key in the section `evaluate`."""
    return "crf.use" if setting == "crf" else setting


def _value(value: Any) -> str:
    """A setting's value as `params.yaml` writes it."""
    if value is None or value is False:
        return "never"
    return "always" if value is True or isinstance(value, CrfParams) else str(value)
