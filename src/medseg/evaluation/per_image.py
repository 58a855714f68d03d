"""One row of `per_image.csv`: every metric of one image's prediction against its truth, and what each column means."""

import numpy as np

from medseg.data.image_io import Pixels
from medseg.data.task import TaskParams
from medseg.inference.settings import Scoring
from medseg.metrics import registry
from medseg.metrics.calibration import RULED_OUT
from medseg.metrics.intervals import Values
from medseg.metrics.overlap import prevailing_class

FILE_COLUMNS = {
    "file": "the image, as in the manifest",
    "label": "its label",
    "group": "its group: images of one patient and near-duplicates",
    "size": "by the annotated share of the region: the smaller, middle and larger third of the images in which "
    "something is annotated (small, medium, large), or empty",
    "predicted_label": "with several classes the class of most predicted foreground pixels (of equal ones the first "
    "of the task), or the background's label where nothing is predicted; else foreground or empty",
    "region_pixels": "pixels of the annotated region; all metrics are of these alone",
    "truth_pixels": "of these, foreground of the truth",
    "predicted_pixels": "of these, predicted as foreground of any class",
    "shared_pixels": "of these, foreground of both",
}
UNCERTAINTY = "uncertainty"  # no metric: it depends on probabilities
UNCERTAINTY_SENTENCE = (
    "mean standard deviation, 0..0.5, of the foreground probability over the orientations of scoring.uncertainty, over "
    f"the pixels in which that probability is above {RULED_OUT:g}; undefined where there are none, or one orientation"
)


def columns() -> dict[str, str]:
    """What each column of `per_image.csv` means, in their order: facts of the image, metrics, uncertainty."""
    metrics = {metric.key: metric.sentence for metric in registry.METRICS}
    return {**FILE_COLUMNS, **metrics, UNCERTAINTY: UNCERTAINTY_SENTENCE}


def values_of(column: str) -> Values:
    """What a score in the column of `per_image.csv` can be, on which its interval depends."""
    if column == UNCERTAINTY:
        return "0 to 1"
    return next(metric.values for metric in registry.METRICS if metric.key == column)


def score_image(
    codes: Pixels, truth: Pixels, own: np.uint8, task: TaskParams, scoring: Scoring
) -> dict[str, float | int | str]:
    """Score predicted class codes against a truth of 0 and 1, both (H, W) uint8, cropped to the annotated region.

    `own` is the code of the class that the image's annotated pixels have. Gives the columns from `predicted_label` to
    the last metric, those of several classes only where the task has them.
    """
    pair = registry.ImagePair(codes, truth, own, scoring.tolerance, scoring.counting.truth, scoring.counting.prediction)
    counts = pair.counts
    return {
        "predicted_label": task.names[prevailing_class(codes)],
        "region_pixels": truth.size,
        "truth_pixels": counts.true_positives + counts.false_negatives,
        "predicted_pixels": counts.true_positives + counts.false_positives,
        "shared_pixels": counts.true_positives,
        **{
            metric.key: round(metric.compute(pair), metric.decimals)
            for metric in registry.METRICS
            if task.has_classes or not metric.several_classes
        },
    }
