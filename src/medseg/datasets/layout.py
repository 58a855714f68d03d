"""Finding the folders and files of a data set's layout, in a fixed order."""

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from medseg.core.errors import UserError
from medseg.core.folders import walk_visible

SHOWN = 10  # names in a message at most; more are counted


def find_folder(root: Path, children: Iterable[str]) -> Path:
    """The one folder at or below `root` that holds all the folders `children`.

    Archives differ in the number of folders around a data set. Raises `UserError` where no folder or more than one
    has the layout.
    """
    wanted = set(children)
    found = [Path(folder) for folder, names, _ in walk_visible(root) if wanted <= set(names)]
    if not found:
        raise UserError(f"{root}: expected a folder that holds {_listed(wanted)}, here or below; there is none")
    if len(found) > 1:
        raise UserError(f"{root}: holds the data set more than once ({_listed(map(str, found))}); keep one of them")
    return found[0]


def files_in(folder: Path, ending: str) -> list[Path]:
    """The files directly in `folder` whose names have this ending in any case (`.png`), in natural order."""
    names = (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return sorted((path for path in names if path.name.lower().endswith(ending)), key=lambda path: natural(path.name))


def existing(root: Path, mask: Path) -> tuple[str, ...]:
    """The path of a mask relative to `root`; empty where there is no such file."""
    return (mask.relative_to(root).as_posix(),) if mask.is_file() else ()


def natural(text: str) -> tuple[list[int | str], str]:
    """A sort key in natural order: `benign (2)` before `benign (10)`."""
    parts = re.split(r"([0-9]+)", text)
    return [int(part) if position % 2 else part for position, part in enumerate(parts)], text


def require_images(found: list[Path], folder: Path, expected: str) -> None:
    """Raise `UserError` where no image was found; `expected` gives examples of their names."""
    if not found:
        raise UserError(f"{folder}: holds no image; expected files like {expected}")


def composed(name: str) -> str:
    """The name in Unicode's normal form C: names that look alike are equal in it."""
    return unicodedata.normalize("NFC", name)


def shortened(names: Iterable[str]) -> str:
    """The first ten names, and the total number where there are more."""
    names = list(names)
    more = f", ... ({len(names)} in all)" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))
