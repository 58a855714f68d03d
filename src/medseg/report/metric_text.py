"""The names of figures for readers, and how their values are written: score, length, share or count."""

from typing import Literal, NamedTuple

from medseg.evaluation.describe import ABSENT, score
from medseg.metrics.surface import Tolerance
from medseg.report.tables import Figure

Unit = Literal["score", "pixels", "percent", "small_percent", "number"]
MINUS = "\N{MINUS SIGN}"
TO = "\N{EN DASH}"


class Words(NamedTuple):
    """A figure's column in the tables, its name for readers and its unit."""

    figure: str
    name: str
    unit: Unit


def overlap_and_surface(tolerance: Tolerance) -> list[Words]:
    """The figures of the summary, in its order."""
    return [
        Words("dice", "Dice", "score"),
        Words("iou", "IoU", "score"),
        Words("precision", "Precision", "score"),
        Words("recall", "Recall", "score"),
        Words("specificity", "Specificity", "score"),
        Words("accuracy", "Accuracy", "score"),
        Words("hd95", "HD95", "pixels"),
        Words("assd", "ASSD", "pixels"),
        Words("nsd", f"Surface Dice within {tolerance.pixels:g} px", "score"),
        Words("nsd_relative", f"Surface Dice within {100 * tolerance.diagonal:g} % of the diagonal", "score"),
        Words("area_error", "Area error, signed", "percent"),
        Words("area_error_absolute", "Area error, absolute", "percent"),
    ]


OBJECTS = [Words("objects_f1", "F1 per image", "score"), Words("objects_iou", "IoU of detected objects", "score")]
COUNTS = [
    Words("counted_absolute_error", "Objects: absolute error", "number"),
    Words("counted_relative_error", "Objects: relative error", "percent"),
    Words("contours_absolute_error", "Contours: absolute error", "number"),
    Words("contours_relative_error", "Contours: relative error", "percent"),
]
EMPTIES = [
    Words("false_positive", "Images with anything found", "percent"),
    Words("false_positive_area", "Area wrongly found", "small_percent"),
    Words("specificity", "Specificity", "score"),
    Words("counted_predicted", "Objects found", "number"),
    Words("contours_predicted", "Contours found", "number"),
]
STRATUM = [
    Words("dice", "Dice", "score"),
    Words("iou", "IoU", "score"),
    Words("recall", "Recall", "score"),
    Words("precision", "Precision", "score"),
    Words("hd95", "HD95", "pixels"),
    Words("nsd", "Surface Dice", "score"),
    Words("objects_f1", "Object F1", "score"),
]


def measured(value: float | None, unit: Unit) -> str:
    """A value with its unit; a dash where it is not defined."""
    if value is None:
        return ABSENT
    match unit:
        case "score":
            return score(value)
        case "pixels":
            return f"{value:.1f} px"
        case "percent":
            return percent(value)
        case "small_percent":
            return percent(value, 2)
        case "number":
            return f"{value:.2f}"


def interval(figure: Figure, unit: Unit) -> str:
    """The 95 % interval without its unit, `0.923-0.948` with an en dash; a dash where it is not defined.

    Where a bound may be negative the two are parted by `to`.
    """
    if figure.low is None or figure.high is None:
        return ABSENT
    low, high = (_bare(value, unit) for value in (figure.low, figure.high))
    return f"{low} to {high}" if figure.low < 0 else f"{low}{TO}{high}"


def signed(difference: float) -> str:
    """A difference of two scores with its sign and four decimals; what is not 0 never looks so."""
    if difference and abs(difference) < 0.00005:
        return "< 0.0001" if difference > 0 else f"> {MINUS}0.0001"
    return f"{difference:+.4f}".replace("-", MINUS) if difference else "0"


def percent(share: float | None, places: int = 1) -> str:
    """A share as `12.3 %`; what is not 0 never looks so; a dash where it is not defined."""
    if share is None:
        return ABSENT
    least = 0.1**places
    if 0 < abs(100 * share) < least:
        return f"< {least:g} %" if share > 0 else f"> {MINUS}{least:g} %"
    return f"{100 * share:.{places}f} %".replace("-", MINUS)


def _bare(value: float, unit: Unit) -> str:
    """An end of an interval: beside its mean it needs neither unit nor care for small values."""
    places = {"score": 3, "pixels": 1, "percent": 1, "small_percent": 2, "number": 2}[unit]
    factor = 100 if unit.endswith("percent") else 1
    return f"{factor * value:.{places}f}".replace("-", MINUS)
