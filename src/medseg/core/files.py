"""Reading files with errors that name them, and atomic writes."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medseg.core.errors import UserError

PARTIAL_PREFIX = ".partial-"  # of what is being written; ignored by git and by DVC
LONGEST_NAME = 255  # bytes, on every common file system


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` when the block succeeds, and is removed when it raises."""
    partial = _partial(path)
    partial.mkdir(parents=True)
    try:
        yield partial
        if path.exists():
            shutil.rmtree(path)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield the path of a file to write that becomes `path` when the block succeeds, and is removed when it raises."""
    partial = _partial(path)
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _partial(path: Path) -> Path:
    """The place beside `path` to write to; what an earlier attempt left there is removed."""
    name = path.name
    if len(os.fsencode(PARTIAL_PREFIX + name)) > LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    partial = path.with_name(PARTIAL_PREFIX + name)
    shutil.rmtree(partial, ignore_errors=True)
    partial.unlink(missing_ok=True)
    return partial


def read_bytes(path: Path) -> bytes:
    """Read a file. Raises `UserError` that names it where it can't be read."""
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
