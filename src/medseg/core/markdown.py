"""Markdown that text from data can't break: escaping, and tables."""

import re
from collections.abc import Collection, Iterable, Sequence

_MARKS = "\\`*_[]|~"


def plain(text: object) -> str:
    """Text from data made harmless within a line or a table of Markdown: one line, no mark-up, no HTML."""
    line = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{character}" if character in _MARKS else character for character in line)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: Collection[str] | None = None) -> str:
    """A Markdown table. Cells are Markdown already, but a `|` in them that is not escaped yet is.

    `numbers` names the columns that are aligned to the right: all but the first one where nothing is said.
    """
    right = [place > 0 if numbers is None else column in numbers for place, column in enumerate(columns)]
    rule = ["---:" if number else "---" for number in right]
    return "\n".join(f"| {' | '.join(map(_cell, cells))} |" for cells in (columns, rule, *rows))


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", text)
