"""A report's content to its two texts: the page and the Markdown summary."""

import json
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from medseg.report import charts
from medseg.report.content import Report
from medseg.report.words import counted
from medseg.runs import ABSENT, sample_size, score

FOLDER = Path(__file__).parent


def render_html(report: Report) -> str:
    """The page, whole in itself: styles, curves and pictures are inside."""
    style = (FOLDER / "style.css").read_text(encoding="utf-8")
    return _environment().get_template("template.html").render(report=report, style=style, frame=charts)


def render_markdown(report: Report) -> str:
    """The summary as Markdown with neither pictures nor links."""
    return _environment().get_template("template.md").render(report=report)


def percent(share: float | None, places: int = 1) -> str:
    """A share between 0 and 1 as `12.3 %`; what is not 0 never looks so; a dash where it is not defined."""
    if share is None:
        return ABSENT
    least = 0.1**places
    return f"< {least:g} %" if 0 < 100 * share < least else f"{100 * share:.{places}f} %"


def plain(text: object) -> str:
    """Text from data made harmless in a Markdown table: one line, no mark-up."""
    line = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{character}" if character in "\\`*_[]|~" else character for character in line)


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
        "percent": percent,
        "plain": plain,
        "score": score,
        "size": sample_size,
        "yaml": lambda value: json.dumps(value, ensure_ascii=False),
    }
    return environment
