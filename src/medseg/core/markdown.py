"""Markdown tables, and escaping of text from data."""

import re
from collections.abc import Collection, Iterable, Sequence

_MARKS = "\\`*_[]|~"


def plain(text: object) -> str:
    """Escape text from data for a line or a table cell of Markdown: one line, no mark-up, no HTML."""
    line = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{character}" if character in _MARKS else character for character in line)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: Collection[str] | None = None) -> str:
    """A Markdown table. Cells are Markdown; a `|` in them is escaped where it is not yet.

    Columns in `numbers` are aligned to the right; by default all but the first one.
    """
    right = [place > 0 if numbers is None else column in numbers for place, column in enumerate(columns)]
    rule = ["---:" if number else "---" for number in right]
    return "\n".join(f"| {' | '.join(map(_cell, cells))} |" for cells in (columns, rule, *rows))


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", text)
