"""A report's content to its two texts: the page and the Markdown summary."""

import base64
import hashlib
import json
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from medseg.core.markdown import plain
from medseg.evaluation.describe import counted, score
from medseg.evaluation.strata import SIZES
from medseg.experiments.run_record import sample_size
from medseg.report import metric_text
from medseg.report.charts import Axis, Interval, interval
from medseg.report.metric_text import measured, percent
from medseg.report.sections import Report
from medseg.report.sentences import SCORED_ON_VAL
from medseg.report.tables import Figure, Stratum

FOLDER = Path(__file__).parent / "templates"


def render_html(report: Report) -> str:
    """The page, whole in itself: styles, script, curves and images are inside. No other script may run on it."""
    style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("style.css", "report.js"))
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template("template.html")
        .render(report=report, style=style, script=script, script_hash=script_hash, **_for_both(report))
    )


def render_markdown(report: Report) -> str:
    """The summary as Markdown with neither images nor links."""
    return _environment().get_template("template.md").render(report=report, **_for_both(report))


def dice_axis(strata: list[Stratum]) -> Axis:
    """From the tenth below all intervals of Dice to 1."""
    lows = [figure.low for stratum in strata if (figure := stratum.figures["dice"]).low is not None]
    return Axis("Dice", min(0.9, int(10 * min(lows, default=0)) / 10), 1)


def whisker(figure: Figure, axis: Axis) -> Interval | None:
    """Where mean and interval lie along an axis; None where they are not defined."""
    if figure.mean is None or figure.low is None or figure.high is None:
        return None
    return interval(figure.low, figure.mean, figure.high, axis)


def _for_both(report: Report) -> dict[str, object]:
    return {
        "figures": metric_text,
        "summary": metric_text.overlap_and_surface(report.description.scoring.tolerance),
        "scored_on_val": SCORED_ON_VAL,
        "sizes": SIZES,
        "dice_axis": dice_axis(report.strata),
    }


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "counted": counted,
        "interval": metric_text.interval,
        "measured": measured,
        "percent": percent,
        "plain": plain,
        "score": score,
        "size": sample_size,
        "whisker": whisker,
        "yaml": lambda value: json.dumps(value, ensure_ascii=False),
    }
    return environment
