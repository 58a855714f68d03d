"""Reading CSV tables about images: labels, patients, diagnoses."""

import csv
from collections.abc import Sequence
from pathlib import Path

from medseg.core.errors import UserError


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file with a header, reduced to `columns`, each value stripped.

    Reads UTF-8 with or without a byte order mark, and any line ends. Raises `UserError` where the file is no such
    table, a quote is never closed, a column occurs twice, or a row has more cells than the header.
    """
    rows = _rows(path)
    header = [name.strip() for name in rows[0]] if rows else []
    missing = [name for name in columns if name not in header]
    if missing:
        raise UserError(f"{path}: lacks the columns {', '.join(missing)}; it has {', '.join(header) or 'none'}")
    if twice := [name for name in columns if header.count(name) > 1]:
        raise UserError(f"{path}: the column {twice[0]} stands twice")
    for row in rows[1:]:
        _check_row(row, len(header), path)
    # A row that is too short has empty values at its end.
    cells = [dict(zip(header, row, strict=False)) for row in rows[1:] if any(row)]
    return [{name: row.get(name, "").strip() for name in columns} for row in cells]


def read_header(path: Path) -> list[str]:
    """The names of the columns of a CSV file, without blanks; none of an empty one. Raises `UserError`."""
    return [name.strip() for row in _rows(path)[:1] for name in row]


def _rows(path: Path) -> list[list[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(csv.reader(file))
    except OSError as error:
        raise UserError(f"{path}: not read: {error.strerror}") from error
    except (ValueError, csv.Error) as error:  # of text in another encoding, and of a path that can't be: ValueError
        raise UserError(f"{path}: no CSV table in UTF-8: {error}") from error


def _check_row(row: list[str], columns: int, path: Path) -> None:
    if any(row[columns:]):
        raise UserError(f"{path}: a row of more cells than the header ({', '.join(row)}); put texts in quotes")
    if torn := [cell for cell in row if "\n" in cell or "\r" in cell]:
        raise UserError(f"{path}: a cell of several lines ({torn[0]!r:.80}); is a quote not closed?")
