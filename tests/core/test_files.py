from pathlib import Path

import pytest

from medseg.core.files import PARTIAL_PREFIX, atomic_file, atomic_folder, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_folder_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "deep" / "out") as partial:
        (partial / "a.txt").write_text("a")
        assert not (tmp_path / "deep" / "out").exists()
        assert partial.name.startswith(PARTIAL_PREFIX)
    assert names(tmp_path) == ["deep", "deep/out", "deep/out/a.txt"]


def test_a_new_folder_replaces_the_old_one_wholly(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with atomic_folder(tmp_path / "out") as partial:
            (partial / name).write_text(name)
    assert names(tmp_path) == ["out", "out/new"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("existed", [True, False])
def test_a_folder_that_fails_leaves_what_was_there(tmp_path: Path, error: type[BaseException], existed: bool) -> None:
    if existed:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "old").write_text("old")
    before = names(tmp_path)

    def fail() -> None:
        with atomic_folder(tmp_path / "out") as partial:
            (partial / "new").write_text("new")
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == before


@pytest.mark.parametrize("existed", [True, False])
def test_a_file_that_fails_leaves_what_was_there(tmp_path: Path, existed: bool) -> None:
    path = tmp_path / "out.csv"
    if existed:
        path.write_text("old")

    def fail() -> None:
        with atomic_file(path) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert names(tmp_path) == (["out.csv"] if existed else [])
    assert not existed or path.read_text() == "old"


def test_a_file_replaces_the_old_one(tmp_path: Path) -> None:
    write_text(tmp_path / "deep" / "out.txt", "old")
    write_text(tmp_path / "deep" / "out.txt", "neu: ä\n")
    assert (tmp_path / "deep" / "out.txt").read_bytes() == "neu: ä\n".encode()
    assert names(tmp_path) == ["deep", "deep/out.txt"]


def test_what_an_earlier_death_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / f"{PARTIAL_PREFIX}out").mkdir()
    (tmp_path / f"{PARTIAL_PREFIX}out" / "stale").write_text("stale")
    with atomic_folder(tmp_path / "out") as partial:
        assert names(partial) == []
    (tmp_path / f"{PARTIAL_PREFIX}f.txt").write_text("stale")
    with atomic_file(tmp_path / "f.txt") as partial:
        assert not partial.exists()
        partial.write_text("new")
    assert names(tmp_path) == ["f.txt", "out"]


def test_partial_outputs_are_ignored_by_git_and_dvc(project: Path) -> None:
    for name in (".gitignore", ".dvcignore"):
        assert any(line.strip().startswith(PARTIAL_PREFIX) for line in (project / name).read_text().splitlines())


def test_the_longest_names_are_written(tmp_path: Path) -> None:
    for name in ("x" * 255, "é" * 127):
        write_text(tmp_path / name, "a")
        assert (tmp_path / name).read_text() == "a"
