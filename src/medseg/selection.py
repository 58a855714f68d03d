"""What val decides for a trained network: from network to segmenter, without a look at test."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Field
from tqdm import tqdm

from medseg.choices import THRESHOLDS, Augmentation, ChoiceParams, ValPicture, choose, dice_by_threshold
from medseg.counting import CountingChoice, CountingParams, choose_counting, count_objects, counting_errors
from medseg.description import Description
from medseg.geometry import Geometry
from medseg.imaging import Pixels
from medseg.manifest import read_pair, region_of
from medseg.orientations import predict_augmented
from medseg.postprocess import Probabilities, foreground_probability
from medseg.scoring import Counting, Scoring
from medseg.segmenter import Segmenter, SegmenterDescription, segment
from medseg.surfaces import Tolerance
from medseg.tiling import Forward


class EvaluateParams(ChoiceParams):
    """The section `evaluate`."""

    counting: CountingChoice
    tolerance: Tolerance
    uncertainty: Augmentation  # the orientations over which the map of uncertainty is taken
    overlap: float = Field(ge=0, lt=0.95)  # of neighbouring tiles, as a share of their side
    batch_size: int = Field(ge=1)  # tiles at a time


def select(
    forward: Forward, network: Description, val: pd.DataFrame, raw: Path, params: EvaluateParams
) -> tuple[SegmenterDescription, pd.DataFrame]:
    """Settle all that is left to val, the rows of the manifest with its pictures under `raw`.

    Gives the segmenter's description, and what each threshold brings on val with all that was chosen before it:
    columns threshold and dice, the mean over the pictures in which something is marked; no rows where there is none.
    """
    chosen = choose(params, lambda: _pictures(forward, network, val, raw, params))
    truth_rule = params.counting.of_truth()
    bare = Counting(truth=truth_rule, prediction=truth_rule)
    description = SegmenterDescription(
        **dict(network),
        overlap=params.overlap,
        chosen=chosen,
        scoring=Scoring(tolerance=params.tolerance, counting=bare, uncertainty=params.uncertainty),
    )
    candidates = params.counting.grid.candidates() if params.counting.prediction == "val" else []
    errors, dices = _look_again(Segmenter(description, forward), val, raw, params, candidates)
    if candidates:
        counting = Counting(truth=truth_rule, prediction=choose_counting(errors, candidates))
        description = _with_counting(description, counting)
    return description, _threshold_table(dices)


def _pictures(
    forward: Forward, network: Description, val: pd.DataFrame, raw: Path, params: EvaluateParams
) -> Iterator[ValPicture]:
    """The pictures of val, one at a time."""
    for row in tqdm(val.itertuples(), total=len(val), desc="choose on val", disable=None):
        image, truth = read_pair(row, raw)
        yield ValPicture(image, truth, inside(row), partial(_predict, forward, image, network.geometry, params))


def _predict(
    forward: Forward, image: Pixels, geometry: Geometry, params: EvaluateParams, augmentation: Augmentation
) -> Probabilities:
    return predict_augmented(forward, image, geometry, params.overlap, params.batch_size, augmentation).probabilities


def inside(row: Any) -> tuple[slice, slice]:
    """The rows and columns of a manifest row's picture that are annotated."""
    region = region_of(row)
    return slice(region.top, region.bottom), slice(region.left, region.right)


def _look_again(
    segmenter: Segmenter, val: pd.DataFrame, raw: Path, params: EvaluateParams, candidates: list[CountingParams]
) -> tuple[list[list[int]], list[dict[float, float]]]:
    """With what was chosen: by how much each candidate miscounts each picture of val, and Dice at every threshold."""
    errors, dices = [], []
    for row in tqdm(val.itertuples(), total=len(val), desc="look at val again", disable=None):
        image, truth = read_pair(row, raw)
        region = inside(row)
        segmented = segment(segmenter, image, params.batch_size)
        true_count = count_objects(truth[region], params.counting.of_truth())
        errors.append(counting_errors(segmented.codes[region], true_count, candidates))
        if truth[region].any():
            probabilities = foreground_probability(segmented.probabilities)[region]
            dices.append(dice_by_threshold(probabilities, truth[region], THRESHOLDS))
    return errors, dices


def _with_counting(description: SegmenterDescription, counting: Counting) -> SegmenterDescription:
    scoring = description.scoring.model_copy(update={"counting": counting})
    return description.model_copy(update={"scoring": scoring})


def _threshold_table(dices: list[dict[float, float]]) -> pd.DataFrame:
    means = pd.DataFrame(dices, columns=sorted(THRESHOLDS)).mean().round(6)
    return pd.DataFrame({"threshold": sorted(THRESHOLDS), "dice": means.to_numpy()}).dropna()
