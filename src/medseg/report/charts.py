"""Numbers to positions in a small drawing, which the page's template turns into SVG.

Drawn by hand because a page must be the same to the byte on every machine, and take its colours from the reader's.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

DOTTED_UP_TO = 40  # points of a line that are drawn as dots too
MOST_INTERVALS = 5  # between an axis' ticks
DOT, LARGEST_DOT = 3.0, 12.0  # radius of a dot for one image; of any dot

Point = tuple[float, float]


@dataclass(frozen=True)
class Frame:
    """The size of a drawing and the sides of its plotting area, in the drawing's own units."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int


WIDE = Frame(width=420, height=250, left=66, right=410, top=10, bottom=206)
SQUARE = Frame(width=330, height=318, left=66, right=320, top=10, bottom=264)


@dataclass(frozen=True)
class Axis:
    """One axis: its label and the values at its two ends; `whole` allows ticks at whole numbers alone."""

    label: str
    low: float
    high: float
    whole: bool = False


@dataclass(frozen=True)
class Tick:
    """A labelled position along an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """A named line through `points`."""

    name: str
    points: list[Point]

    @property
    def path(self) -> str:
        """The points as SVG writes them."""
        return " ".join(f"{x:g},{y:g}" for x, y in self.points)

    @property
    def dotted(self) -> bool:
        """Whether the points are few enough to be shown one by one."""
        return len(self.points) <= DOTTED_UP_TO


@dataclass(frozen=True)
class Bar:
    """An upright bar from the horizontal axis, with a number on top where it is not 0."""

    left: float
    top: float
    width: float
    height: float
    text: str


@dataclass(frozen=True)
class Dot:
    """A dot whose area tells how many images lie at its place, and what it says when pointed at."""

    x: float
    y: float
    radius: float
    text: str


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its interval along a horizontal axis, 0..100."""

    low: float
    mean: float
    high: float


@dataclass(frozen=True)
class Chart:
    """A drawing, all positions in its own units, y downwards."""

    title: str
    frame: Frame
    x_label: str
    y_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    dots: list[Dot] = field(default_factory=list)
    reference: list[Point] = field(default_factory=list)  # the two ends of a line to compare with
    reference_text: str = ""
    mark: Point | None = None
    mark_text: str = ""


def line_chart(title: str, x: Axis, y: Axis, lines: Sequence[Line], mark: Point | None, mark_text: str) -> Chart:
    """Lines over two axes; `mark` circles one point. Points that are no finite numbers are left out."""
    placed = [_placed(line, x, y, WIDE) for line in lines]
    circled = _place(mark, x, y, WIDE) if mark else None
    return Chart(title, WIDE, x.label, y.label, *_all_ticks(x, y, WIDE), placed, mark=circled, mark_text=mark_text)


def bar_chart(title: str, x: Axis, y_label: str, heights: Sequence[int]) -> Chart:
    """Counts over equal parts of the horizontal axis."""
    y = Axis(y_label, 0, 1.1 * max([*heights, 1]), whole=True)  # with room for the numbers
    step = (x.high - x.low) / len(heights)
    bars = []
    for number, height in enumerate(heights):
        left, top = _place((x.low + number * step, height), x, y, WIDE)
        right, bottom = _place((x.low + (number + 1) * step, 0), x, y, WIDE)
        text = str(height) if height else ""
        bars.append(Bar(left + 1, top, round(right - left - 2, 2), round(bottom - top, 2), text))
    return Chart(title, WIDE, x.label, y_label, *_all_ticks(x, y, WIDE), bars=bars)


def diagonal_chart(title: str, x: Axis, y: Axis, line: Line | None, dots: Mapping[Point, int], equal: str) -> Chart:
    """A line, or dots with the number of images at each place, over two axes of one scale with their diagonal.

    `equal` says what the diagonal means.
    """
    ends = [_place((value, value), x, y, SQUARE) for value in (x.low, x.high)]
    return Chart(
        title,
        SQUARE,
        x.label,
        y.label,
        *_all_ticks(x, y, SQUARE),
        lines=[_placed(line, x, y, SQUARE)] if line else [],
        dots=[_dot(point, images, x, y) for point, images in sorted(dots.items())],
        reference=ends,
        reference_text=equal,
    )


def interval(low: float, mean: float, high: float, axis: Axis) -> Interval:
    """An interval's place along an axis."""
    return Interval(*(_along(value, axis, 0, 100) for value in (low, mean, high)))


def ticks(axis: Axis) -> list[float]:
    """Round values from the axis' low to its high end, at most six: steps of 1, 2, 2.5 or 5 times a power of ten."""
    span = axis.high - axis.low
    if span <= 0:
        return [axis.low]
    power = 10.0 ** math.floor(math.log10(span / MOST_INTERVALS))
    steps = [factor * power for factor in (1, 2, 2.5, 5, 10)]
    wide_enough = [step for step in steps if span / step <= MOST_INTERVALS + 1e-9]
    step = next((step for step in wide_enough if not axis.whole or step == round(step)), 1.0)
    first, last = math.ceil(axis.low / step - 1e-9), math.floor(axis.high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _all_ticks(x: Axis, y: Axis, frame: Frame) -> tuple[list[Tick], list[Tick]]:
    return (
        [Tick(_along(value, x, frame.left, frame.right), f"{value:g}") for value in ticks(x)],
        [Tick(_along(value, y, frame.bottom, frame.top), f"{value:g}") for value in ticks(y)],
    )


def _placed(line: Line, x: Axis, y: Axis, frame: Frame) -> Line:
    return Line(line.name, [_place(point, x, y, frame) for point in line.points if _is_finite(point)])


def _dot(point: Point, images: int, x: Axis, y: Axis) -> Dot:
    radius = min(LARGEST_DOT, round(DOT * math.sqrt(images), 2))
    text = f"{x.label} {point[0]:g}, {y.label} {point[1]:g}: {images} image{'' if images == 1 else 's'}"
    return Dot(*_place(point, x, y, SQUARE), radius, text)


def _place(point: Point, x: Axis, y: Axis, frame: Frame) -> Point:
    return _along(point[0], x, frame.left, frame.right), _along(point[1], y, frame.bottom, frame.top)


def _along(value: float, axis: Axis, start: float, end: float) -> float:
    span = axis.high - axis.low
    share = (value - axis.low) / span if span > 0 else 0.5
    return round(start + share * (end - start), 2)


def _is_finite(point: Point) -> bool:
    return math.isfinite(point[0]) and math.isfinite(point[1])
