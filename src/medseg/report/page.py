"""A report's content to its two texts: the page and the Markdown summary."""

import base64
import hashlib
import json
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from medseg.core.markdown import plain
from medseg.evaluation import describe, formatting
from medseg.evaluation.strata import SIZES
from medseg.metrics import registry
from medseg.metrics.registry import BY_KEY, Metric
from medseg.report.charts import Axis, Interval, interval
from medseg.report.sections import Report
from medseg.report.tables import Mean, Stratum

FOLDER = Path(__file__).parent / "templates"
BY_STRATUM = ("dice", "iou", "recall", "precision", "hd95", "nsd", "objects_f1")  # that fit on the page side by side
TABLES = {"scores": ("overlap", "surface"), "objects": ("objects", "counts"), "classes": ("classes",)}  # by kind


def render_html(report: Report) -> str:
    """The page, whole in itself: styles, script, curves and images are inside. No other script may run on it."""
    style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("style.css", "report.js"))
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template("report.html")
        .render(report=report, style=style, script=script, script_hash=script_hash, **_for_both(report))
    )


def render_markdown(report: Report) -> str:
    """The summary as Markdown with neither images nor links."""
    return _environment().get_template("report.md").render(report=report, **_for_both(report))


def metric_tables() -> dict[str, list[Metric]]:
    """The metrics of which means are shown, by table: those of `TABLES` over annotated images, `empty` over the others.

    `brief` are those shown by stratum in the summary, `strata` those on the page.
    """
    return {
        **{
            name: [
                metric for metric in registry.METRICS if metric.kind in kinds and metric.over in ("annotated", "both")
            ]
            for name, kinds in TABLES.items()
        },
        "empty": [metric for metric in registry.METRICS if metric.over in ("empty", "both")],
        "brief": [metric for metric in registry.METRICS if metric.brief],
        "strata": [BY_KEY[key] for key in BY_STRATUM],
    }


def image_metrics() -> list[Metric]:
    """The scores that are shown of every image."""
    return [metric for metric in registry.METRICS if metric.kind != "counts" and metric.over != "empty"]


def dice_axis(strata: list[Stratum]) -> Axis:
    """From the tenth below all intervals and ranges of Dice to 1."""
    lows = [mean.low for stratum in strata if (mean := stratum.means["dice"]).ends != "none"]
    return Axis("Dice", min(0.9, int(10 * min(lows, default=0)) / 10), 1)


def whisker(mean: Mean, axis: Axis) -> Interval | None:
    """Where a mean and its interval or range lie along an axis; None where it has neither."""
    if mean.ends == "none":
        return None
    return interval(mean.low, mean.mean, mean.high, axis)


def _for_both(report: Report) -> dict[str, object]:
    return {
        "describe": describe,
        "tables": metric_tables(),
        "image_metrics": image_metrics(),
        "tolerance": report.description.scoring.tolerance,
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
        "counted": formatting.counted,
        "ends": formatting.ends,
        "measured": formatting.measured,
        "percent": formatting.percent,
        "plain": plain,
        "score": formatting.score,
        "spread": formatting.spread,
        "whisker": whisker,
        "yaml": lambda value: json.dumps(value, ensure_ascii=False),
    }
    return environment
