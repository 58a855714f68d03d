"""Score a segmenter on the test set: a table per image, curves over pixels, and the predicted masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from medseg.core.errors import UserError
from medseg.data.image import Image, of_split
from medseg.data.image_io import Pixels
from medseg.data.task import TaskParams
from medseg.evaluation.per_image import columns, score_image
from medseg.evaluation.strata import size_limits, size_strata
from medseg.inference.postprocess import Probabilities, foreground_probability
from medseg.inference.prediction_files import MASKS, UNCERTAINTY, mask_path, write_prediction, write_uncertainty
from medseg.inference.predictor import Predictor, to_prediction
from medseg.inference.settings import SegmenterDescription
from medseg.metrics.calibration import Calibration, CalibrationErrors, not_ruled_out
from medseg.metrics.overlap import Counts, count_classes
from medseg.metrics.precision_recall import PrecisionRecall
from medseg.metrics.registry import DECIMALS

CURVE_STEPS = 100
CALIBRATION_BINS = 15
RELIABILITY = ("confidence", "observed", "pixels")


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

    - table: one row per image, with those of `per_image.columns` that the task has;
    - curve: threshold, precision and recall, pooled over pixels;
    - calibration: the rows of `Calibration.curve`, of foreground of any class, and `calibration_errors` of the same;
    - class_calibration: the errors of each class's own probability, where the task has several;
    - pooled: for each class, pixels over all images; its truth are the annotated pixels of its own images.
    """

    split: str
    task: TaskParams
    table: pd.DataFrame
    curve: pd.DataFrame
    calibration: pd.DataFrame
    calibration_errors: CalibrationErrors
    class_calibration: dict[str, CalibrationErrors]
    pooled: dict[str, Counts]


def scored_split(images: Sequence[Image]) -> str:
    """The split that is scored: test, or val where there is no test set.

    Raises `UserError` where there is neither.
    """
    for split in ("test", "val"):
        if of_split(images, split):
            return split
    raise UserError("the manifest has no image in test or val, so there is nothing to score; see the section split")


def evaluate(predictor: Predictor, images: Sequence[Image], batch_size: int, folder: Path) -> Evaluation:
    """Predict the images of the scored split at their own resolution, write what is predicted, and score it.

    Only pixels in the annotated region are scored. For each whole image, named NAME, `folder` gets masks/NAME.png
    (`prediction_files.write_prediction`) and, unless `scoring.uncertainty` is `none`, uncertainty/NAME.png
    (`prediction_files.write_uncertainty`). `batch_size` is in tiles. Raises `UserError` where an image's label is no
    class of the network, or its files can't be read.
    """
    split, task = scored_split(images), predictor.description.task
    scored = of_split(images, split)
    task.check_scored(scored)
    pools = _Pools(task)
    rows = []
    pairs = list(zip(scored, task.codes(image.label for image in scored), strict=True))
    for image, own in tqdm(pairs, desc="evaluate", disable=None):
        pixels, truth = image.read()
        predicted = _predict(predictor, pixels, batch_size)
        _write(folder, image, predicted, task)
        rows.append(_score(image, truth, own, predicted, predictor.description, pools))
    return Evaluation(
        split=split,
        task=task,
        table=_with_sizes(pd.DataFrame(rows)),
        curve=pd.DataFrame(pools.curve.curve()).round(DECIMALS),
        calibration=pd.DataFrame(pools.calibration.curve(), columns=list(RELIABILITY)).round(DECIMALS),
        calibration_errors=pools.calibration.errors(),
        class_calibration={name: pool.errors() for name, pool in pools.class_calibration.items()},
        pooled=pools.classes,
    )


@dataclass(frozen=True)
class _Predicted:
    """A whole image: class codes (H, W), probabilities (K, H, W), and the deviation of foreground's (H, W).

    The deviation is the standard one over orientations.
    """

    codes: Pixels
    probabilities: Probabilities
    deviation: NDArray[np.float32] | None


class _Pools:
    """Counts pooled over the pixels of all images."""

    def __init__(self, task: TaskParams) -> None:
        self.curve, self.calibration = PrecisionRecall(CURVE_STEPS), Calibration(CALIBRATION_BINS)
        self.classes = dict.fromkeys(task.class_names, Counts(0, 0, 0, 0))
        several = task.class_names if task.has_classes else ()
        self.class_calibration = {name: Calibration(CALIBRATION_BINS) for name in several}

    def add(self, codes: Pixels, probabilities: Probabilities, truth: Pixels, own: np.uint8) -> None:
        """Add one image, all maps cropped to its region."""
        foreground, classes = foreground_probability(probabilities), truth * own
        self.curve.add(foreground, truth)
        self.calibration.add(foreground, truth)
        for code, pool in enumerate(self.class_calibration.values(), start=1):
            pool.add(probabilities[code], classes == code)
        counts = count_classes(codes, classes, len(self.classes))
        for name, found in zip(self.classes, counts, strict=True):
            self.classes[name] += found


def _predict(predictor: Predictor, image: Pixels, batch_size: int) -> _Predicted:
    choices, uncertainty = predictor.description.chosen.choices, predictor.description.scoring.uncertainty
    averaged = predictor.predict_probabilities(image, batch_size, choices.test_time_augmentation)
    segmented = to_prediction(averaged.probabilities, image, choices)
    if uncertainty == "none":
        return _Predicted(segmented.codes, segmented.probabilities, None)
    if uncertainty != choices.test_time_augmentation:
        averaged = predictor.predict_probabilities(image, batch_size, uncertainty)
    return _Predicted(segmented.codes, segmented.probabilities, averaged.deviation)


def _write(folder: Path, image: Image, predicted: _Predicted, task: TaskParams) -> None:
    write_prediction(mask_path(folder / MASKS, image), predicted.codes, task)
    if predicted.deviation is not None:
        write_uncertainty(mask_path(folder / UNCERTAINTY, image), predicted.deviation)


def _score(
    image: Image, truth: Pixels, own: np.uint8, predicted: _Predicted, description: SegmenterDescription, pools: _Pools
) -> dict[str, Any]:
    """The image's row of the table without its size; its pixels are added to `pools`."""
    codes, truth = image.crop(predicted.codes), image.crop(truth)
    probabilities = predicted.probabilities[:, *image.region.slices]
    pools.add(codes, probabilities, truth, own)
    shown = not_ruled_out(foreground_probability(probabilities))
    return {
        "file": image.file,
        "label": image.label,
        "group": image.group,
        **score_image(codes, truth, own, description.task, description.scoring),
        "uncertainty": _mean_deviation(predicted.deviation, image, shown),
    }


def _mean_deviation(deviation: NDArray[np.float32] | None, image: Image, shown: NDArray[np.bool_]) -> float:
    if deviation is None or not shown.any():
        return float("nan")
    return round(float(image.crop(deviation)[shown].mean()), DECIMALS)


def _with_sizes(table: pd.DataFrame) -> pd.DataFrame:
    """Add the column `size`, which depends on all images; columns in the order of `per_image.columns`."""
    shares = (table["truth_pixels"] / table["region_pixels"]).to_numpy(dtype=np.float64)
    table = table.assign(size=size_strata(shares, size_limits(shares)))
    return table[[name for name in columns() if name in table]]
