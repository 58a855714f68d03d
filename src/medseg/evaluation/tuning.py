"""Choosing on the validation set: test-time augmentation, threshold, CRF and post-processing."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, product
from math import fsum
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field
from tqdm import tqdm

from medseg.core.params import Section
from medseg.data.geometry import Geometry
from medseg.data.image import Image
from medseg.data.image_io import Pixels
from medseg.inference.crf import CrfParams, apply_crf, load_library
from medseg.inference.postprocess import Postprocess, Probabilities, foreground_probability, postprocess
from medseg.inference.predictor import Predictor
from medseg.inference.settings import Augmentation, Choices, Chosen, Counting, Option, Scoring, SegmenterDescription
from medseg.inference.sliding_window import Forward
from medseg.inference.tta import predict_augmented
from medseg.metrics.counting import CountingChoice, CountingParams, choose_counting, count_objects, counting_errors
from medseg.metrics.overlap import Counts, count_pixels, overlap_scores
from medseg.metrics.surface import Tolerance
from medseg.models.model_yaml import Description

Use = Literal["never", "always", "val"]  # not off and on, which YAML 1.1 reads as booleans

# What val chooses from, the simplest first: of equally good ones the first is taken.
AUGMENTATIONS: tuple[Augmentation, ...] = ("none", "mirror", "flips", "flips_and_turns")
THRESHOLDS = tuple(step / 20 for step in sorted(range(1, 20), key=lambda step: (abs(step - 10), step)))  # 0.5, 0.45 ...
SMALLEST_OBJECTS = (0, 10, 30, 100, 300, 1000, 3000)  # pixels

# In the order in which they are chosen. The keys of one round are chosen in one pass over val.
_ROUNDS = (
    ("test_time_augmentation", "threshold"),
    ("crf", "fill_holes", "smallest_object", "largest_component"),
)


class CrfSettings(CrfParams):
    """Whether the dense CRF is used, and how."""

    use: Use


class ChoiceParams(Section):
    """What of the section `evaluate` is either set to a value or left to `val`."""

    threshold: Annotated[float, Field(gt=0, lt=1)] | Literal["val"]
    test_time_augmentation: Augmentation | Literal["val"]
    crf: CrfSettings
    fill_holes: Use
    smallest_object: Annotated[int, Field(ge=0)] | Literal["val"]  # pixels
    largest_component: Use


@dataclass(frozen=True)
class ValImage:
    """One image of val, as `choose` needs it."""

    image: Pixels  # (H, W, 1 or 3)
    truth: Pixels  # (H, W), not 0 where something is annotated
    region: tuple[slice, slice]  # rows and columns that are annotated
    predict: Callable[[Augmentation], Probabilities]  # (K, H, W), by the network; called only where needed


def choose(params: ChoiceParams, val_images: Callable[[], Iterable[ValImage]]) -> Chosen:
    """Settle every key of `params` that is left to val.

    The keys are chosen one after the other: test-time augmentation, threshold, CRF, holes, smallest object, largest
    component. Each takes the value with the best mean Dice on val, over images whose truth in the annotated region
    is not empty and of foreground of any class, while keys before it are as chosen, those that are set are as set,
    and later ones are at their simplest. Equally good values fall to the simplest: a step is done only if it raises
    Dice, a threshold is the nearest to 0.5 (of two as near, the lower), an object may be as small as possible.

    `val_images` is called once for each pass, at most twice, and not at all where val has nothing to choose; one
    image is held at a time. Where val has no foreground, all that it was to choose stays at its simplest and a
    warning says so. Raises `UserError` where the CRF may be used and its package is not installed.
    """
    if params.crf.use != "never":
        load_library()
    values = _values(params)
    state = {key: options[0] for key, options in values.items()}
    options: list[Option] = []
    images = 0
    for keys in _ROUNDS:
        open_keys = [key for key in keys if len(values[key]) > 1]
        if open_keys:
            table, images = _dice_table(val_images, state, {key: values[key] for key in open_keys})
            options += _settle(state, values, open_keys, table) if images else []
    return Chosen(choices=_choices(state), options=options, images=images, warnings=_warnings(values, images))


def dice_by_threshold(probabilities: Probabilities, truth: Pixels, thresholds: Iterable[float]) -> dict[float, float]:
    """Dice at every threshold from one histogram of the pixels, probabilities and truth (H, W); truth is not empty."""
    ordered = sorted(set(thresholds))
    # Compared as the probabilities are, in single precision: 0.7 must not fall below the threshold 0.7.
    bins = np.searchsorted(np.array(ordered, np.float32), probabilities, side="right")
    annotated = truth.astype(bool)
    hits, wrong = (_at_least(bins[pixels], len(ordered)) for pixels in (annotated, ~annotated))
    missed = int(annotated.sum()) - hits
    counts = [Counts(int(tp), int(fp), int(fn), 0) for tp, fp, fn in zip(hits, wrong, missed, strict=True)]
    return {threshold: overlap_scores(count)["dice"] for threshold, count in zip(ordered, counts, strict=True)}


def _at_least(bins: Any, count: int) -> Any:
    """How many pixels reach each of `count` thresholds, from how many of them each pixel reaches."""
    return np.bincount(bins, minlength=count + 1)[::-1].cumsum()[::-1][1:]


def _values(params: ChoiceParams) -> dict[str, Sequence[Any]]:
    """What each key may become: its value, or what val chooses from, the simplest first.

    In the order in which they act, so that those that make probabilities vary slowest in a product of all.
    """
    crf = CrfParams.model_validate(params.crf.model_dump(exclude={"use"}))
    return {
        "test_time_augmentation": _listed(params.test_time_augmentation, AUGMENTATIONS),
        "crf": _uses(params.crf.use, None, crf),
        "threshold": _listed(params.threshold, THRESHOLDS),
        "fill_holes": _uses(params.fill_holes, False, True),
        "smallest_object": _listed(params.smallest_object, SMALLEST_OBJECTS),
        "largest_component": _uses(params.largest_component, False, True),
    }


def _listed(value: Any, offered: Sequence[Any]) -> Sequence[Any]:
    return offered if value == "val" else (value,)


def _uses(use: Use, off: Any, on: Any) -> Sequence[Any]:
    return {"never": (off,), "always": (on,), "val": (off, on)}[use]


def _choices(state: dict[str, Any]) -> Choices:
    last = {key: state[key] for key in Postprocess.model_fields}
    return Choices(
        test_time_augmentation=state["test_time_augmentation"], crf=state["crf"], postprocess=Postprocess(**last)
    )


def _dice_table(
    val_images: Callable[[], Iterable[ValImage]], state: dict[str, Any], offered: dict[str, Sequence[Any]]
) -> tuple[dict[Choices, float], int]:
    """Mean Dice of all ways to set the keys `offered`, the others as in `state`; and over how many images."""
    ordered = {key: offered.get(key, (value,)) for key, value in state.items()}
    ways = [_choices(dict(zip(ordered, values, strict=True))) for values in product(*ordered.values())]
    rows = [_dices(image, ways) for image in val_images() if image.truth[image.region].any()]
    # Rounded, or sums of thirds and halves that are equal would differ in their last bit.
    means = [round(fsum(column) / len(rows), 12) for column in zip(*rows, strict=True)]
    return dict(zip(ways, means, strict=False)), len(rows)


def _settle(
    state: dict[str, Any], values: dict[str, Sequence[Any]], keys: Sequence[str], table: dict[Choices, float]
) -> list[Option]:
    """Choose the keys one after the other, writing each into `state`."""
    options = []
    for key in keys:
        dices = [table[_choices(state | {key: value})] for value in values[key]]
        other = 1 + int(np.argmax(dices[1:]))
        best = other if dices[other] > dices[0] else 0
        state[key] = values[key][best]
        options.append(
            Option(
                option=_name(key),
                simplest=round(dices[0], 6),
                other=round(dices[other], 6),
                tried=_word(values[key][other]),
                chosen=_word(state[key]),
            )
        )
    return options


def _dices(image: ValImage, ways: Sequence[Choices]) -> list[float]:
    """The foreground's Dice for each way; ways with equal probabilities stand side by side."""
    dices = []
    for augmentation, same_prediction in groupby(ways, lambda way: way.test_time_augmentation):
        probabilities = image.predict(augmentation)
        for crf, same in groupby(same_prediction, lambda way: way.crf):
            foreground = foreground_probability(apply_crf(probabilities, image.image, crf))
            dices += _mask_dices(foreground, image, [way.postprocess for way in same])
    return dices


def _mask_dices(foreground: Probabilities, image: ValImage, ways: Sequence[Postprocess]) -> list[float]:
    """As `_dices`, from (H, W): the foreground of several classes is that of one with the same probability."""
    truth = image.truth[image.region]
    bare = dice_by_threshold(foreground[image.region], truth, [way.threshold for way in ways if _is_bare(way)])
    return [
        bare[way.threshold]
        if _is_bare(way)
        else overlap_scores(count_pixels(postprocess(foreground[None], way)[image.region], truth))["dice"]
        for way in ways
    ]


def _is_bare(way: Postprocess) -> bool:
    """Whether a pixel's class depends on its own probability alone."""
    return not (way.fill_holes or way.smallest_object or way.largest_component)


def _warnings(values: dict[str, Sequence[Any]], images: int) -> list[str]:
    kept = [f"evaluate.{_name(key)} = {_word(offered[0])}" for key, offered in values.items() if len(offered) > 1]
    if not kept or images:
        return []
    return [f"nothing is annotated in the images of val, so nothing could be chosen on them: {', '.join(kept)}"]


def _name(key: str) -> str:
    return "crf.use" if key == "crf" else key


def _word(value: Any) -> str:
    """A value as `params.yaml` would set it."""
    if value is None or value is False:
        return "never"
    return "always" if value is True or isinstance(value, CrfParams) else str(value)


class EvaluateParams(ChoiceParams):
    """The section `evaluate`."""

    counting: CountingChoice
    tolerance: Tolerance
    uncertainty: Augmentation  # the orientations over which the map of uncertainty is taken
    overlap: float = Field(ge=0, lt=0.95)  # of neighbouring tiles, as a share of their side
    batch_size: int = Field(ge=1)  # tiles at a time


def select(
    forward: Forward, network: Description, val: Sequence[Image], params: EvaluateParams
) -> tuple[SegmenterDescription, pd.DataFrame]:
    """Settle all that is left to `val`, the images of the validation set.

    Gives the segmenter's description, and what each threshold brings on val with all that was chosen before it:
    columns threshold and dice, the mean over the images in which something is annotated; no rows where there is none.
    """
    chosen = choose(params, lambda: _images(forward, network, val, params))
    truth_rule = params.counting.of_truth()
    bare = Counting(truth=truth_rule, prediction=truth_rule)
    description = SegmenterDescription(
        **dict(network),
        overlap=params.overlap,
        chosen=chosen,
        scoring=Scoring(tolerance=params.tolerance, counting=bare, uncertainty=params.uncertainty),
    )
    candidates = params.counting.grid.candidates() if params.counting.prediction == "val" else []
    errors, dices = _look_again(Predictor(description, forward), val, params, candidates)
    if candidates:
        counting = Counting(truth=truth_rule, prediction=choose_counting(errors, candidates))
        description = _with_counting(description, counting)
    return description, _threshold_table(dices)


def _images(forward: Forward, network: Description, val: Sequence[Image], params: EvaluateParams) -> Iterator[ValImage]:
    """The images of val, one at a time."""
    for image in tqdm(val, desc="choose on val", disable=None):
        pixels, truth = image.read()
        predict = partial(_predict, forward, pixels, network.geometry, params)
        yield ValImage(pixels, truth, image.region.slices, predict)


def _predict(
    forward: Forward, image: Pixels, geometry: Geometry, params: EvaluateParams, augmentation: Augmentation
) -> Probabilities:
    return predict_augmented(forward, image, geometry, params.overlap, params.batch_size, augmentation).probabilities


def _look_again(
    predictor: Predictor, val: Sequence[Image], params: EvaluateParams, candidates: list[CountingParams]
) -> tuple[list[list[int]], list[dict[float, float]]]:
    """With what was chosen: by how much each candidate miscounts each image of val, and Dice at every threshold."""
    errors, dices = [], []
    for image in tqdm(val, desc="look at val again", disable=None):
        pixels, truth = image.read()
        segmented = predictor.predict(pixels, params.batch_size)
        truth, codes = image.crop(truth), image.crop(segmented.codes)
        errors.append(counting_errors(codes, count_objects(truth, params.counting.of_truth()), candidates))
        if truth.any():
            probabilities = image.crop(foreground_probability(segmented.probabilities))
            dices.append(dice_by_threshold(probabilities, truth, THRESHOLDS))
    return errors, dices


def _with_counting(description: SegmenterDescription, counting: Counting) -> SegmenterDescription:
    scoring = description.scoring.model_copy(update={"counting": counting})
    return description.model_copy(update={"scoring": scoring})


def _threshold_table(dices: list[dict[float, float]]) -> pd.DataFrame:
    means = pd.DataFrame(dices, columns=sorted(THRESHOLDS)).mean().round(6)
    return pd.DataFrame({"threshold": sorted(THRESHOLDS), "dice": means.to_numpy()}).dropna()
