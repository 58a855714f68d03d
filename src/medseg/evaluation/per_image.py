"""One image's prediction against its truth: every score of a row of `per_image.csv`, and what each column means."""

from typing import Any

import numpy as np

from medseg.data.image_io import Pixels
from medseg.data.task import TaskParams
from medseg.inference.settings import Scoring
from medseg.metrics.counting import counts_row
from medseg.metrics.objects import object_scores
from medseg.metrics.overlap import count_pixels, overlap_scores, prevailing_class
from medseg.metrics.surface import surface_scores

DECIMALS = 6

COLUMNS = {
    "file": "the image, as in the manifest",
    "label": "its label",
    "group": "its group: images of one patient and near-duplicates",
    "size": "by the annotated share of the region: the smaller, middle and larger third of the images in which "
    "something is annotated (small, medium, large), or empty",
    "called": "with several classes the one that most of the predicted foreground has, of equal ones the first of the "
    "task, and the background's label where nothing was predicted; else foreground or empty",
    "region_pixels": "pixels that are annotated; all scores are of these alone",
    "truth_pixels": "of these, annotated in the truth",
    "predicted_pixels": "of these, predicted as foreground of any class",
    "shared_pixels": "of these, both",
    "dice": "2 shared / (truth + predicted), 0..1; undefined where the truth is empty, as the next three",
    "iou": "shared / (truth or predicted), 0..1",
    "precision": "shared / predicted, 0..1; 0 where nothing is predicted",
    "recall": "shared / truth, 0..1",
    "specificity": "share of the truth's background that is predicted as such, 0..1",
    "accuracy": "share of pixels on which both agree, 0..1",
    "area_error": "(predicted - truth) / truth; -1 where nothing is predicted; undefined where the truth is empty",
    "hd95": "95th percentile of the distances between both outlines, pixels, as medpy; the region's diagonal where "
    "nothing is predicted; undefined where the truth is empty, as the next three",
    "assd": "mean of these distances, pixels, as medpy; the region's diagonal where nothing is predicted",
    "nsd": "normalised surface Dice: share of both outlines within scoring.tolerance.pixels of the other, 0..1",
    "nsd_relative": "the same within scoring.tolerance.diagonal of the region's diagonal",
    "objects": "connected objects of the truth, 8-connectivity",
    "objects_found": "connected objects of the prediction",
    "objects_detected": "objects of the truth with a partner in the prediction: IoU over 0.5",
    "objects_missed": "objects of the truth without",
    "objects_false": "objects of the prediction without",
    "objects_f1": "2 detected / (objects + found), 0..1; undefined without any object",
    "objects_iou": "mean IoU of partners; undefined without any",
    "objects_error": "found - objects",
    "contours_predicted": "contours of the prediction, holes included (OpenCV's RETR_TREE)",
    "contours_truth": "contours of the truth",
    "contours_absolute_error": "how far the prediction's contours are off",
    "contours_relative_error": "the same over the contours of the truth; undefined where it has none",
    "counted_predicted": "objects of the prediction by scoring.counting: small ones dropped, touching ones told apart",
    "counted_truth": "objects of the truth by its rule",
    "counted_absolute_error": "how far the prediction's count is off",
    "counted_relative_error": "the same over the count of the truth; undefined where that is 0",
    "class_dice": "with several classes: Dice where of the prediction only the image's own class counts",
    "class_iou": "with several classes: IoU likewise",
    "uncertainty": "mean standard deviation, 0..0.5, of the foreground probability over the orientations of "
    "scoring.uncertainty, in and around objects; undefined where there are none, or one orientation",
}


def score_image(
    codes: Pixels, truth: Pixels, own: np.uint8, task: TaskParams, scoring: Scoring
) -> dict[str, float | int | str]:
    """The scores of class codes (H, W) against a truth (H, W) of 0 and 1, both cut to the annotated region.

    `own` is the code of the class that the image's annotated pixels have. Gives the columns of `COLUMNS` from `called`
    to `class_iou`; the last two with several classes alone.
    """
    counts = count_pixels(codes, truth)
    counting = scoring.counting
    return {
        "called": task.names[prevailing_class(codes)],
        "region_pixels": truth.size,
        "truth_pixels": counts.true_positives + counts.false_negatives,
        "predicted_pixels": counts.true_positives + counts.false_positives,
        "shared_pixels": counts.true_positives,
        **_rounded(overlap_scores(counts)),
        **_rounded(surface_scores(codes, truth, scoring.tolerance)),
        **_rounded(object_scores(codes, truth)),
        **_rounded(counts_row(codes, truth, counting.prediction, counting.truth)),
        **_class_scores(codes, truth, own, task),
    }


def _class_scores(codes: Pixels, truth: Pixels, own: np.uint8, task: TaskParams) -> dict[str, float]:
    if not task.has_classes:
        return {}
    scores = overlap_scores(count_pixels(codes == own, truth))
    return _rounded({f"class_{name}": scores[name] for name in ("dice", "iou")})


def _rounded(scores: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, DECIMALS) for name, value in scores.items()}
