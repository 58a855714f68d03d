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
from medseg.core.locks import lock_file, sole_writer

PARTIAL_PREFIX = ".partial-"  # of what is being written; ignored by git and by DVC
LONGEST_NAME = 255  # bytes, on every common file system


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` when the block succeeds, and is removed when it raises.

    Where `path` is a link, the folder that it leads to is replaced. Raises `UserError` where another process is writing
    the same folder.
    """
    path = path.resolve() if path.is_symlink() else path
    partial = _partial(path)
    with sole_writer(_partial(path, ".lock"), path):
        shutil.rmtree(partial, ignore_errors=True)  # what an earlier attempt left
        partial.mkdir()
        try:
            yield partial
            if path.exists():
                shutil.rmtree(path)
            partial.rename(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield the path of an empty file that becomes `path` when the block succeeds, and is removed when it raises.

    Processes that write the same file do so one after the other.
    """
    partial = _partial(path)
    lock = lock_file(partial, wait=True)
    assert lock is not None  # it has waited
    with lock:
        try:
            lock.truncate(0)  # what an earlier attempt left
            yield partial
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)  # not after success: then this may be the next one's
            raise


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def check_folder(path: Path, option: str) -> None:
    """Raise `UserError` where `path`, the value of `option`, is no folder and can't become one."""
    try:
        if path.is_dir():
            return
        path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:  # a name may be too long, or lie below a file
        raise UserError(f"{option} {path}: {(error.strerror or str(error)).lower()}; name another folder") from None
    raise UserError(f"{option} {path}: is a file or a broken link, no folder; name another one")


def _partial(path: Path, ending: str = "") -> Path:
    """The place beside `path` to write to, or with an `ending` what belongs to it."""
    name = f"{PARTIAL_PREFIX}{path.name}{ending}"
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = f"{PARTIAL_PREFIX}{hashlib.sha256(os.fsencode(path.name)).hexdigest()}{ending}"
    return path.with_name(name)


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
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold a JSON object")
    return content
