"""Markdown that text from data can't break: escaping, and tables."""

from collections.abc import Iterable, Sequence

_MARKS = "\\`*_[]|~"


def plain(text: object) -> str:
    """Text from data made harmless within a line or a table of Markdown: one line, no mark-up, no HTML."""
    line = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{character}" if character in _MARKS else character for character in line)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells that are Markdown already; all but its first column are aligned to the right."""
    rule = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, rule, *rows))
