"""One hash of the source code that made a result: it stays the same until a file of that code changes."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from medseg.errors import UserError

SUFFIXES = frozenset({".py", ".html", ".css", ".js", ".md"})


def code_sha256(folders: Iterable[Path]) -> str:
    """SHA-256, in hexadecimal, of the names and bytes of all source files in `folders`, whatever the folders' order.

    A file counts where its suffix is one of `SUFFIXES`. Its name begins with that of its folder, so that it does not
    matter where the folders lie. Raises `UserError` for a folder that is missing or holds no source file.
    """
    files = sorted((name, path) for folder in folders for name, path in _source_files(folder))
    digest = hashlib.sha256()
    for name, path in files:
        for part in (name.encode(), path.read_bytes()):
            digest.update(len(part).to_bytes(8, "big"))  # or the end of one part could pass for the start of the next
            digest.update(part)
    return digest.hexdigest()


def _source_files(folder: Path) -> Iterator[tuple[str, Path]]:
    found = [path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file()]
    if not found:
        raise UserError(f"{folder}: no source file lies here, so there is no code to take the fingerprint of")
    root = folder.resolve().name
    for path in found:
        yield f"{root}/{path.relative_to(folder).as_posix()}", path
