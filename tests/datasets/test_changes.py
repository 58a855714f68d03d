"""A source that changes after it was copied is noticed, whatever changed, and nothing is noted in an output."""

from collections.abc import Callable
from pathlib import Path

import pytest

from medseg.core.errors import UserError
from medseg.datasets.changes import AGAIN, changed_source, remember_source, told_where_changed


@pytest.fixture(autouse=True)
def in_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "project/.dvc").mkdir(parents=True)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "data/images").mkdir(parents=True)
    (tmp_path / "data/images/a.png").write_bytes(b"one")
    return tmp_path / "data"


@pytest.mark.parametrize(
    "change",
    [
        lambda source: (source / "images/a.png").write_bytes(b"another"),
        lambda source: (source / "images/b.png").write_bytes(b"one more"),
        lambda source: (source / "images/a.png").unlink(),
        lambda source: (source / "images/a.png").rename(source / "images/c.png"),
    ],
)
def test_any_change_is_noticed(source: Path, change: Callable[[Path], object]) -> None:
    remember_source([source])
    assert changed_source() is None
    change(source)
    assert changed_source() == source


def test_an_error_about_the_data_ends_with_the_command_where_the_source_has_changed(source: Path) -> None:
    remember_source([source])
    with pytest.raises(UserError) as plain, told_where_changed():
        raise UserError("a.png: has no mask")
    assert AGAIN not in str(plain.value)
    (source / "masks").mkdir()
    (source / "masks/a.png").write_bytes(b"the mask that was missing")
    with pytest.raises(UserError, match=r"a\.png: has no mask") as told, told_where_changed():
        raise UserError("a.png: has no mask")
    assert AGAIN in str(told.value)


def test_without_a_note_or_a_project_nothing_is_said(
    source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert changed_source() is None
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    remember_source([source])
    assert changed_source() is None
