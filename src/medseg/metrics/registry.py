"""Every metric of an image once: its function, key, label, unit, direction and meaning.

`per_image.csv`, the table of means, the metrics that DVC compares, report, model card and external evaluation read this
table. A new metric is one entry here, and a module beside this one where its function is new.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from medseg.data.image_io import Pixels
from medseg.metrics.counting import CountingParams, count_scores
from medseg.metrics.intervals import Values
from medseg.metrics.objects import object_scores
from medseg.metrics.overlap import Counts, count_pixels, overlap_scores
from medseg.metrics.surface import Tolerance, surface_scores

Unit = Literal["score", "pixels", "share", "number"]  # score: 0..1; share: shown as percent
Better = Literal["higher", "lower", "neither"]
Kind = Literal["overlap", "surface", "objects", "counts", "classes"]  # tables of the report
Over = Literal["annotated", "empty", "both"]  # the images of which a mean is taken

DECIMALS = 6  # of scores in tables


@dataclass(frozen=True)
class ImagePair:
    """Predicted class codes and truth (H, W) of one image, uint8, both cropped to the annotated region.

    The truth is 0 or 1; `own` is the code of the class that its annotated pixels have.
    """

    codes: Pixels
    truth: Pixels
    own: np.uint8
    tolerance: Tolerance
    counting_truth: CountingParams
    counting_prediction: CountingParams

    @cached_property
    def counts(self) -> Counts:
        """Pixels of foreground of any class against the truth."""
        return count_pixels(self.codes, self.truth)

    @cached_property
    def overlap(self) -> dict[str, float]:
        """See `overlap.overlap_scores`."""
        return overlap_scores(self.counts)

    @cached_property
    def own_overlap(self) -> dict[str, float]:
        """The same where of the prediction only the image's own class counts."""
        return overlap_scores(count_pixels(self.codes == self.own, self.truth))

    @cached_property
    def surface(self) -> dict[str, float]:
        """See `surface.surface_scores`."""
        return surface_scores(self.codes, self.truth, self.tolerance)

    @cached_property
    def objects(self) -> dict[str, float]:
        """See `objects.object_scores`."""
        return object_scores(self.codes, self.truth)

    @cached_property
    def counted(self) -> dict[str, float]:
        """See `counting.count_scores`."""
        return count_scores(self.codes, self.truth, self.counting_prediction, self.counting_truth)


@dataclass(frozen=True)
class Metric:
    """One metric of an image; the class docstring of `ImagePair` says of what."""

    key: str  # its column in per_image.csv
    label: str  # for readers; {pixels} and {percent} are filled from the tolerance
    unit: Unit
    better: Better
    kind: Kind
    sentence: str
    compute: Callable[[ImagePair], float]
    over: Over | None = "annotated"  # None: no mean is taken
    several_classes: bool = False  # whether it exists with several classes alone
    decimals: int = DECIMALS  # of its column
    brief: bool = False  # whether it is shown where there is room for few: by stratum, in short texts
    yes_or_no: bool = False  # whether it is 0 or 1 of every image

    @property
    def values(self) -> Values:
        """What it can be, on which its interval depends."""
        if self.yes_or_no:
            return "0 or 1"
        return "0 to 1" if self.unit == "score" else "unbounded"

    def title(self, tolerance: Tolerance) -> str:
        """The label, with the tolerance in it where it depends on one."""
        return self.label.format(pixels=f"{tolerance.pixels:g}", percent=f"{100 * tolerance.diagonal:g}")


METRICS: tuple[Metric, ...] = (
    Metric(
        "dice", "Dice", "score", "higher", "overlap",
        "2 TP / (2 TP + FP + FN), 0..1; TP, FP, FN: true positive, false positive, false negative pixels; undefined "
        "where the truth is empty",
        lambda pair: pair.overlap["dice"], brief=True,
    ),
    Metric(
        "iou", "IoU", "score", "higher", "overlap", "TP / (TP + FP + FN), 0..1; undefined where the truth is empty",
        lambda pair: pair.overlap["iou"], brief=True,
    ),
    Metric(
        "precision", "Precision", "score", "higher", "overlap",
        "TP / (TP + FP), 0..1; 0 where nothing is predicted; undefined where the truth is empty",
        lambda pair: pair.overlap["precision"],
    ),
    Metric(
        "recall", "Recall", "score", "higher", "overlap", "TP / (TP + FN), 0..1; undefined where the truth is empty",
        lambda pair: pair.overlap["recall"],
    ),
    Metric(
        "specificity", "Specificity", "score", "higher", "overlap",
        "TN / (TN + FP), 0..1: share of the truth's background that is predicted as background",
        lambda pair: pair.overlap["specificity"], over="both",
    ),
    Metric(
        "accuracy", "Accuracy", "score", "higher", "overlap", "(TP + TN) / all pixels, 0..1",
        lambda pair: pair.overlap["accuracy"],
    ),
    Metric(
        "area_error", "Area error, signed", "share", "neither", "overlap",
        "(predicted - truth) / truth; -1 where nothing is predicted; undefined where the truth is empty",
        lambda pair: pair.overlap["area_error"],
    ),
    Metric(
        "area_error_absolute", "Area error, absolute", "share", "lower", "overlap",
        "|predicted - truth| / truth; undefined where the truth is empty",
        lambda pair: abs(pair.overlap["area_error"]),
    ),
    Metric(
        "hd95", "HD95", "pixels", "lower", "surface",
        "95th percentile of the distances between both outlines, pixels, as medpy; the region's diagonal where "
        "no annotated pixel is found; undefined where the truth is empty",
        lambda pair: pair.surface["hd95"], brief=True,
    ),
    Metric(
        "assd", "ASSD", "pixels", "lower", "surface",
        "mean distance between both outlines, pixels, as medpy; the region's diagonal where no annotated pixel is "
        "found; undefined where the truth is empty",
        lambda pair: pair.surface["assd"],
    ),
    Metric(
        "nsd", "NSD at {pixels} px", "score", "higher", "surface",
        "normalised surface Dice: share of both outlines within that distance of the other, 0..1, as DeepMind's "
        "surface-distance; 0 where no annotated pixel is found; undefined where the truth is empty",
        lambda pair: pair.surface["nsd"], brief=True,
    ),
    Metric(
        "nsd_relative", "NSD at {percent} % of the diagonal", "score", "higher", "surface",
        "normalised surface Dice within that share of the region's diagonal, 0..1; 0 where no annotated pixel is "
        "found; undefined where the truth is empty",
        lambda pair: pair.surface["nsd_relative"], brief=True,
    ),
    Metric(
        "objects", "Objects", "number", "neither", "objects", "connected objects of the truth, 8-connectivity",
        lambda pair: pair.objects["objects"], over=None,
    ),
    Metric(
        "objects_found", "Objects found", "number", "neither", "objects", "connected objects of the prediction",
        lambda pair: pair.objects["objects_found"], over=None,
    ),
    Metric(
        "objects_detected", "Objects detected", "number", "higher", "objects",
        "objects of the truth that overlap one of the prediction with an IoU over 0.5",
        lambda pair: pair.objects["objects_detected"], over=None,
    ),
    Metric(
        "objects_missed", "Objects missed", "number", "lower", "objects", "objects of the truth that are not detected",
        lambda pair: pair.objects["objects_missed"], over=None,
    ),
    Metric(
        "objects_false", "False objects", "number", "lower", "objects",
        "objects of the prediction with no partner in the truth",
        lambda pair: pair.objects["objects_false"], over=None,
    ),
    Metric(
        "objects_f1", "Object F1", "score", "higher", "objects",
        "2 detected / (objects of the truth + of the prediction), 0..1; detected: IoU over 0.5 with a predicted "
        "object; undefined where there is no object",
        lambda pair: pair.objects["objects_f1"],
    ),
    Metric(
        "objects_iou", "IoU of detected objects", "score", "higher", "objects",
        "mean IoU of detected objects with their predictions; undefined where none is detected",
        lambda pair: pair.objects["objects_iou"],
    ),
    Metric(
        "objects_error", "Object count error, signed", "number", "neither", "objects",
        "objects of the prediction - objects of the truth",
        lambda pair: pair.objects["objects_error"], over=None,
    ),
    Metric(
        "contours_predicted", "Contours found", "number", "neither", "counts",
        "contours of the prediction, holes included (OpenCV's RETR_TREE)",
        lambda pair: pair.counted["contours_predicted"], over="empty",
    ),
    Metric(
        "contours_truth", "Contours of the truth", "number", "neither", "counts", "contours of the truth",
        lambda pair: pair.counted["contours_truth"], over=None,
    ),
    Metric(
        "contours_absolute_error", "Contour count error, absolute", "number", "lower", "counts",
        "|contours of the prediction - of the truth|",
        lambda pair: pair.counted["contours_absolute_error"],
    ),
    Metric(
        "contours_relative_error", "Contour count error, relative", "share", "lower", "counts",
        "|contours of the prediction - of the truth| / of the truth; undefined where the truth has none",
        lambda pair: pair.counted["contours_relative_error"],
    ),
    Metric(
        "counted_predicted", "Objects counted in the prediction", "number", "neither", "counts",
        "objects of the prediction by scoring.counting.prediction, which may drop small ones and split touching ones",
        lambda pair: pair.counted["counted_predicted"], over="empty",
    ),
    Metric(
        "counted_truth", "Objects counted in the truth", "number", "neither", "counts",
        "objects of the truth by scoring.counting.truth",
        lambda pair: pair.counted["counted_truth"], over=None,
    ),
    Metric(
        "counted_absolute_error", "Object count error, absolute", "number", "lower", "counts",
        "|counted in the prediction - in the truth|",
        lambda pair: pair.counted["counted_absolute_error"],
    ),
    Metric(
        "counted_relative_error", "Object count error, relative", "share", "lower", "counts",
        "|counted in the prediction - in the truth| / in the truth; undefined where that is 0",
        lambda pair: pair.counted["counted_relative_error"],
    ),
    Metric(
        "class_dice", "Dice of the image's class", "score", "higher", "classes",
        "with several classes: Dice where only predictions of the image's own class count",
        lambda pair: pair.own_overlap["dice"], several_classes=True,
    ),
    Metric(
        "class_iou", "IoU of the image's class", "score", "higher", "classes",
        "with several classes: IoU where only predictions of the image's own class count",
        lambda pair: pair.own_overlap["iou"], several_classes=True,
    ),
    Metric(
        "false_positive", "Images with any false positive", "share", "lower", "overlap",
        "1 where any pixel is predicted, else 0; of images with an empty truth",
        lambda pair: float(pair.counts.false_positives + pair.counts.true_positives > 0), over="empty",
        yes_or_no=True,
    ),
    Metric(
        "false_positive_area", "False positive area", "share", "lower", "overlap",
        "predicted pixels over those of the region; of images with an empty truth",
        lambda pair: (pair.counts.false_positives + pair.counts.true_positives) / pair.truth.size, over="empty",
        decimals=12,  # a few pixels of a large region
    ),
)  # fmt: skip

BY_KEY = {metric.key: metric for metric in METRICS}
