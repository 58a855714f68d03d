"""Reading files that other stages wrote, with messages that name them."""

import json
from pathlib import Path
from typing import Any

from medseg.errors import UserError


def read_bytes(path: Path) -> bytes:
    """Read a file. Raises `UserError` that names it where it is missing."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}") from None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object. Raises `UserError` that names it."""
    try:
        content = json.loads(read_bytes(path))
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold a JSON object")
    return content
