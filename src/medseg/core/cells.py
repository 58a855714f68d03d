"""Text from data in cells of CSV tables: a spreadsheet runs what looks like a formula (OWASP, "CSV Injection").

Such names and labels are refused where data come in, so that no table needs escapes that every reader must undo.
"""

import re

# After `;` too, at which a spreadsheet of some countries parts the cells. A sign alone and a number are no formula.
_FORMULA = re.compile(r"(?:^|;)\s*(?:[=@＝＠＋－]|[+-](?!\s*(?:[\d.,]+(?:[eE][+-]?\d+)?%?\s*)?(?:$|;)))")  # noqa: RUF001


def is_formula(text: str) -> bool:
    """Whether a spreadsheet may run a cell with this text: it begins with `=`, `@`, `+`, `-`, a tab or a line break."""
    return text[:1] in ("\t", "\r", "\n") or _FORMULA.search(text) is not None
