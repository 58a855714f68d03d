"""Numbers to positions in a small drawing, which the page's template turns into SVG.

Drawn by hand because a page must be the same to the byte on every machine, and take its colours from the reader's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

WIDTH, HEIGHT = 420, 250  # of the drawing, in its own units
LEFT, RIGHT, TOP, BOTTOM = 66, 410, 10, 206  # of the plotting area
DOTTED_UP_TO = 40  # points of a line that are drawn as dots too
MOST_INTERVALS = 5  # between an axis' ticks

Point = tuple[float, float]


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
class Chart:
    """A drawing, all positions in its own units, y downwards."""

    title: str
    x_label: str
    y_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    mark: Point | None = None
    mark_text: str = ""


def line_chart(title: str, x: Axis, y: Axis, lines: Sequence[Line], mark: Point | None, mark_text: str) -> Chart:
    """Lines over two axes; `mark` circles one point. Points that are no finite numbers are left out."""
    placed = [Line(line.name, [_place(point, x, y) for point in line.points if _is_finite(point)]) for line in lines]
    circled = _place(mark, x, y) if mark else None
    return Chart(title, x.label, y.label, _x_ticks(x), _y_ticks(y), lines=placed, mark=circled, mark_text=mark_text)


def bar_chart(title: str, x: Axis, y_label: str, heights: Sequence[int]) -> Chart:
    """Counts over equal parts of the horizontal axis."""
    y = Axis(y_label, 0, 1.1 * max([*heights, 1]), whole=True)  # with room for the numbers
    step = (x.high - x.low) / len(heights)
    bars = []
    for number, height in enumerate(heights):
        left, top = _place((x.low + number * step, height), x, y)
        right, bottom = _place((x.low + (number + 1) * step, 0), x, y)
        text = str(height) if height else ""
        bars.append(Bar(left + 1, top, round(right - left - 2, 2), round(bottom - top, 2), text))
    return Chart(title, x.label, y_label, _x_ticks(x), _y_ticks(y), bars=bars)


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


def _x_ticks(axis: Axis) -> list[Tick]:
    return [Tick(_along(value, axis, LEFT, RIGHT), f"{value:g}") for value in ticks(axis)]


def _y_ticks(axis: Axis) -> list[Tick]:
    return [Tick(_along(value, axis, BOTTOM, TOP), f"{value:g}") for value in ticks(axis)]


def _place(point: Point, x: Axis, y: Axis) -> Point:
    return _along(point[0], x, LEFT, RIGHT), _along(point[1], y, BOTTOM, TOP)


def _along(value: float, axis: Axis, start: float, end: float) -> float:
    span = axis.high - axis.low
    share = (value - axis.low) / span if span > 0 else 0.5
    return round(start + share * (end - start), 2)


def _is_finite(point: Point) -> bool:
    return math.isfinite(point[0]) and math.isfinite(point[1])
