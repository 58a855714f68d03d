"""The hash of the source code."""

import hashlib
from pathlib import Path

import pytest

from medseg.core.environment import code_sha256
from medseg.core.errors import UserError


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def test_the_hash_is_that_of_names_and_bytes_each_after_its_length(tmp_path: Path) -> None:
    folder = write(tmp_path / "code", b_dot_py="x = 1\n", deep__a_dot_css="p {}")
    told = b"".join(
        len(part).to_bytes(8, "big") + part for part in (b"code/b.py", b"x = 1\n", b"code/deep/a.css", b"p {}")
    )
    assert code_sha256([folder]) == hashlib.sha256(told).hexdigest()


def test_where_the_folders_lie_and_in_which_order_does_not_matter(tmp_path: Path) -> None:
    pairs = [
        [write(tmp_path / place / name, a_dot_py=name) for name in ("one", "two")] for place in ("here", "there/deeper")
    ]
    assert code_sha256(pairs[0]) == code_sha256(pairs[1]) == code_sha256(pairs[0][::-1])


def test_every_kind_of_source_counts(tmp_path: Path) -> None:
    folder = write(tmp_path / "code", a_dot_py="")
    seen = {code_sha256([folder])}
    for kind in ("py", "html", "css", "js", "md"):
        (folder / f"b.{kind}").write_text("", encoding="utf-8")
        seen.add(code_sha256([folder]))
    assert len(seen) == 6


def test_what_is_no_source_does_not_count(tmp_path: Path) -> None:
    folder = write(tmp_path / "code", a_dot_py="")
    before = code_sha256([folder])
    write(folder, __pycache____a_dot_pyc="bytes", notes_dot_txt="words")
    assert code_sha256([folder]) == before


def test_a_changed_byte_a_new_name_and_a_moved_border_each_change_it(tmp_path: Path) -> None:
    folders = [
        write(tmp_path / "0" / "code", a_dot_py="x", b_dot_py="y"),
        write(tmp_path / "1" / "code", a_dot_py="X", b_dot_py="y"),
        write(tmp_path / "2" / "code", a_dot_py="x", c_dot_py="y"),
        write(tmp_path / "3" / "code", a_dot_py="xy", b_dot_py=""),
    ]
    assert len({code_sha256([folder]) for folder in folders}) == 4


@pytest.mark.parametrize("made", [True, False])
def test_a_folder_without_source_is_named(tmp_path: Path, made: bool) -> None:
    if made:
        write(tmp_path / "code", notes_dot_txt="")
    with pytest.raises(UserError, match="code: "):
        code_sha256([tmp_path / "code"])
