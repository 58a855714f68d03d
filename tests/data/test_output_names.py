"""Names of what is written for images: one for each, whatever the file system takes for the same."""

import unicodedata
from pathlib import PurePosixPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from medseg.data.output_names import ENDINGS, output_names

E_ACUTE = "\u00e9"
SPELT = unicodedata.normalize("NFD", E_ACUTE)  # as macOS stores it


@pytest.mark.parametrize(
    "names",
    [
        {"a.png": "a", "deep/b.tif": "deep/b", "c": "c", "d.x.png": "d.x", ".png": ".png"},
        {"a.png": "a.png", "a.tif": "a.tif", "b.tif": "b"},
        {"a.tif": "a.tif", "a.tif.png": "a.tif.png", "a.png": "a.png"},
        {"a.tif": "a", "a.tif.png": "a.tif"},
        {"day1/a.png": "day1/a", "day2/a.png": "day2/a"},
        {"IMG.png": "IMG.png", "img.png": "img.png~2", "img.tif": "img.tif"},
        {f"{E_ACUTE}.png": f"{E_ACUTE}.png~2", f"{SPELT}.png": f"{SPELT}.png"},
        {"a": "a~2", "a.png/b.png": "a.png/b"},  # masks/a.png would be a file and a folder
    ],
)
def test_names_are_those_of_the_images_with_as_little_more_as_tells_them_apart(names: dict[str, str]) -> None:
    assert output_names(names) == names
    assert output_names(reversed(names)) == names


PARTS = st.text("aAbB.~2/", min_size=1, max_size=6) | st.sampled_from(
    [
        f"{letter}{ending}"
        for letter in ("a", "A", E_ACUTE, SPELT, E_ACUTE.upper())
        for ending in (".png", ".tif.png", "")
    ]
)
FILES = st.sets(
    st.lists(PARTS, min_size=1, max_size=3)
    .map("/".join)
    .filter(lambda file: PurePosixPath(file).as_posix() == file and PurePosixPath(file).name not in ("", "..")),
    min_size=1,
    max_size=12,
).filter(
    lambda files: not any(PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts for file in files)
)


def spelt_alike(path: str) -> str:
    """As a file system may compare names: upper case, decomposed."""
    return unicodedata.normalize("NFD", path).upper()


@given(FILES)
@example({"2/..2"})
def test_no_two_files_written_for_images_can_be_one(files: set[str]) -> None:
    names = output_names(files)
    assert names.keys() == files
    written = [spelt_alike(name + ending) for name in names.values() for ending in ENDINGS]
    assert len(set(written)) == len(written)
    folders = {spelt_alike(str(folder)) for name in names.values() for folder in PurePosixPath(name).parents}
    assert not folders & set(written)
    assert all(PurePosixPath(names[file]).parent == PurePosixPath(file).parent for file in files)
