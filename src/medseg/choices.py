"""What val decides on the way from probabilities to a mask: how each choice can be set, and how val makes it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from math import fsum
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from medseg.crf import CrfParams, load_library, refine
from medseg.imaging import Pixels
from medseg.metrics import Counts, count_pixels, overlap_scores
from medseg.params import Section
from medseg.postprocess import Postprocess, Probabilities, foreground_probability, postprocess

Augmentation = Literal["none", "mirror", "flips", "flips_and_turns"]
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


class Choices(Section):
    """What was chosen, for `model.yaml`: all that leads from a network's probabilities to a mask."""

    test_time_augmentation: Augmentation
    crf: CrfParams | None  # None: not used
    postprocess: Postprocess


class Option(Section):
    """What one choice brought on val, beside the choices made before it and those that were not val's to make.

    Dice is the mean over the pictures of val whose truth is not empty, foreground of any class against background.
    """

    option: str  # its key in the section evaluate
    simplest: float = Field(ge=0, le=1)  # Dice with its simplest value: 0.5, none, never, 0
    other: float = Field(ge=0, le=1)  # Dice with the best of its other values
    tried: str  # that value
    chosen: str


class Chosen(Section):
    """The choices, and how they came to be."""

    choices: Choices
    options: list[Option]  # in the order of choosing; empty where val chose nothing
    images: int = Field(ge=0)  # of val with foreground that they were chosen on; 0 where val chose nothing
    warnings: list[str]


@dataclass(frozen=True)
class ValPicture:
    """One picture of val, as `choose` needs it."""

    image: Pixels  # (H, W, 1 or 3)
    truth: Pixels  # (H, W), not 0 where something is marked
    region: tuple[slice, slice]  # rows and columns that are annotated
    predict: Callable[[Augmentation], Probabilities]  # (K, H, W), by the network; called only where needed


def refined(probabilities: Probabilities, image: Pixels, crf: CrfParams | None) -> Probabilities:
    """Probabilities (K, H, W) of a picture (H, W, 1 or 3) after the dense CRF, where there is one."""
    return probabilities if crf is None else refine(probabilities, image, crf)


def choose(params: ChoiceParams, pictures: Callable[[], Iterable[ValPicture]]) -> Chosen:
    """Settle every key of `params` that is left to val.

    The keys are chosen one after the other: test-time augmentation, threshold, CRF, holes, smallest object, largest
    component. Each takes the value with the best mean Dice on val, over pictures whose truth in the annotated region
    is not empty and of foreground of any class, while keys before it are as chosen, those that are set are as set,
    and later ones are at their simplest. Equally good values fall to the simplest: a step is done only if it raises
    Dice, a threshold is the nearest to 0.5 (of two as near, the lower), an object may be as small as possible.

    `pictures` is called once for each pass, at most twice, and not at all where val has nothing to choose; one
    picture is held at a time. Where val has no foreground, all that it was to choose stays at its simplest and a
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
            table, images = _dice_table(pictures, state, {key: values[key] for key in open_keys})
            options += _settle(state, values, open_keys, table) if images else []
    return Chosen(choices=_choices(state), options=options, images=images, warnings=_warnings(values, images))


def dice_by_threshold(probabilities: Probabilities, truth: Pixels, thresholds: Iterable[float]) -> dict[float, float]:
    """Dice at every threshold from one histogram of the pixels, probabilities and truth (H, W); truth is not empty."""
    ordered = sorted(set(thresholds))
    # Compared as the probabilities are, in single precision: 0.7 must not fall below the threshold 0.7.
    bins = np.searchsorted(np.array(ordered, np.float32), probabilities, side="right")
    marked = truth.astype(bool)
    hits, wrong = (_at_least(bins[pixels], len(ordered)) for pixels in (marked, ~marked))
    missed = int(marked.sum()) - hits
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
    pictures: Callable[[], Iterable[ValPicture]], state: dict[str, Any], offered: dict[str, Sequence[Any]]
) -> tuple[dict[Choices, float], int]:
    """Mean Dice of all ways to set the keys `offered`, the others as in `state`; and over how many pictures."""
    ordered = {key: offered.get(key, (value,)) for key, value in state.items()}
    ways = [_choices(dict(zip(ordered, values, strict=True))) for values in product(*ordered.values())]
    rows = [_dices(picture, ways) for picture in pictures() if picture.truth[picture.region].any()]
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


def _dices(picture: ValPicture, ways: Sequence[Choices]) -> list[float]:
    """The foreground's Dice for each way; ways with equal probabilities stand side by side."""
    dices = []
    for augmentation, same_prediction in groupby(ways, lambda way: way.test_time_augmentation):
        probabilities = picture.predict(augmentation)
        for crf, same in groupby(same_prediction, lambda way: way.crf):
            foreground = foreground_probability(refined(probabilities, picture.image, crf))
            dices += _mask_dices(foreground, picture, [way.postprocess for way in same])
    return dices


def _mask_dices(foreground: Probabilities, picture: ValPicture, ways: Sequence[Postprocess]) -> list[float]:
    """As `_dices`, from (H, W): the foreground of several classes is that of one with the same probability."""
    truth = picture.truth[picture.region]
    bare = dice_by_threshold(foreground[picture.region], truth, [way.threshold for way in ways if _is_bare(way)])
    return [
        bare[way.threshold]
        if _is_bare(way)
        else overlap_scores(count_pixels(postprocess(foreground[None], way)[picture.region], truth))["dice"]
        for way in ways
    ]


def _is_bare(way: Postprocess) -> bool:
    """Whether a pixel's class depends on its own probability alone."""
    return not (way.fill_holes or way.smallest_object or way.largest_component)


def _warnings(values: dict[str, Sequence[Any]], images: int) -> list[str]:
    kept = [f"evaluate.{_name(key)} = {_word(offered[0])}" for key, offered in values.items() if len(offered) > 1]
    if not kept or images:
        return []
    return [f"nothing is marked in the pictures of val, so nothing could be chosen on them: {', '.join(kept)}"]


def _name(key: str) -> str:
    return "crf.use" if key == "crf" else key


def _word(value: Any) -> str:
    """A value as `params.yaml` would set it."""
    if value is None or value is False:
        return "never"
    return "always" if value is True or isinstance(value, CrfParams) else str(value)
