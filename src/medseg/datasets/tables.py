"""Reading a CSV table that says something of each picture."""

import csv
from collections.abc import Sequence
from pathlib import Path

from medseg.errors import UserError


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file with a header, reduced to `columns`, without the blanks around each value.

    Takes UTF-8 with or without a byte order mark, and any line ends. Raises `UserError`.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
    except OSError as error:
        raise UserError(f"{path}: not read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: no CSV table in UTF-8: {error}") from error
    header = [name.strip() for name in rows[0]] if rows else []
    missing = [name for name in columns if name not in header]
    if missing:
        raise UserError(f"{path}: lacks the columns {', '.join(missing)}; it has {', '.join(header) or 'none'}")
    return [_cells(row, header, columns) for row in rows[1:] if any(row)]


def _cells(row: list[str], header: list[str], columns: Sequence[str]) -> dict[str, str]:
    """A row that is too short has empty values at its end."""
    values = dict(zip(header, row, strict=False))
    return {name: values.get(name, "").strip() for name in columns}
