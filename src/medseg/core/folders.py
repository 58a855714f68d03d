"""Walking through folders, links followed, in a fixed order."""

import os
from collections.abc import Iterator
from pathlib import Path

from medseg.core.errors import UserError

DEBRIS = "__MACOSX"  # the folder with file attributes that macOS adds to its archives


def walk_folders(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """As `os.walk`, following links; folders that are removed from the list are not entered.

    Raises `UserError` where a folder can't be read, or a link leads back to a folder that it lies in.
    """
    for folder, folders, files in os.walk(root, onerror=_refuse_unreadable, followlinks=True):
        if Path(folder).is_symlink() and _leads_back(Path(folder), root):
            raise UserError(f"{folder}: this link leads back to a folder that it lies in; remove it")
        yield folder, folders, files


def walk_visible(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """As `walk_folders`, without hidden folders and `DEBRIS`, the folders in order."""
    for folder, folders, files in walk_folders(root):
        folders[:] = sorted(name for name in folders if name != DEBRIS and not name.startswith("."))
        yield folder, folders, files


def files_below(root: Path) -> list[str]:
    """All files below `root`, links followed, but hidden ones: paths relative to it, `/` between the parts, sorted."""
    return sorted(
        (Path(folder) / name).relative_to(root).as_posix()
        for folder, _, names in walk_visible(root)
        for name in names
        if not name.startswith(".")
    )


def _refuse_unreadable(error: OSError) -> None:
    raise UserError(f"{error.filename}: not read: {error.strerror}") from error


def _leads_back(link: Path, root: Path) -> bool:
    above = [folder for folder in link.parents if folder == root or root in folder.parents]
    return link.resolve() in {folder.resolve() for folder in above}
