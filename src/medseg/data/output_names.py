"""The names of the files that are written for images: one for each, on any file system."""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath

ENDINGS = (".png", ".geojson")  # of the files written for an image, after its name


def output_names(files: Iterable[str]) -> dict[str, str]:
    """The NAME in masks/NAME.png of each image, from the paths of all images, with `/` between the parts.

    It is the path without suffix. Images keep their suffix where names would be equal, such as those of a.png and
    a.tif, and get a number, from `~2` on, where that is not enough. Names count as equal that differ in letter case or
    in the form of their Unicode characters alone, since some file systems take those for one; and no file is named like
    a folder that another one lies in. The names depend on the set of paths alone, not on its order.
    """
    ordered = sorted(set(files))
    folders = {_folded(str(folder)) for file in ordered for folder in PurePosixPath(file).parents}
    names = {file: _without_suffix(PurePosixPath(file)) for file in ordered}
    while longer := {file: file for file in _clashing(names, folders) if names[file] != file}:
        names |= longer
    taken = Counter(_folded(name) for name in names.values())
    for file in reversed(_clashing(names, folders)):  # so the first keeps its name, unless it is that of a folder
        number = 1
        while _is_folder(names[file], folders) or taken[_folded(names[file])] > 1:
            taken[_folded(names[file])] -= 1
            number += 1
            names[file] = f"{file}~{number}"
            taken[_folded(names[file])] += 1
    return names


def _without_suffix(path: PurePosixPath) -> str:
    """The path without suffix, unless nothing but dots would be left of its name, which would mean a folder."""
    return str(path.with_suffix("") if path.stem.strip(".") else path)


def _clashing(names: dict[str, str], folders: set[str]) -> list[str]:
    counts = Counter(_folded(name) for name in names.values())
    return [file for file, name in names.items() if counts[_folded(name)] > 1 or _is_folder(name, folders)]


def _is_folder(name: str, folders: set[str]) -> bool:
    return any(_folded(name + ending) in folders for ending in ENDINGS)


def _folded(path: str) -> str:
    """Equal for all spellings that a file system may take for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
