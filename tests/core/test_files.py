import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from medseg.core.errors import UserError
from medseg.core.files import LONGEST_NAME, PARTIAL_PREFIX, atomic_file, atomic_folder, check_folder, write_text


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
        assert partial.read_bytes() == b""
        partial.write_text("new")
    assert names(tmp_path) == ["f.txt", "out"]


def test_partial_outputs_are_ignored_by_git_and_dvc(project: Path) -> None:
    for name in (".gitignore", ".dvcignore"):
        assert any(line.strip().startswith(PARTIAL_PREFIX) for line in (project / name).read_text().splitlines())


def test_the_longest_names_are_written(tmp_path: Path) -> None:
    for name in ("x" * 255, "é" * 127):
        write_text(tmp_path / name, "a")
        assert (tmp_path / name).read_text() == "a"


def test_a_folder_that_another_process_writes_is_refused_and_what_that_wrote_stays(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_folder(tmp_path / "out") as partial:
            (partial / "second").write_text("second")

    (tmp_path / "link").symlink_to(tmp_path / "out")
    with atomic_folder(tmp_path / "link") as partial:
        (partial / "first").write_text("first")
        with pytest.raises(UserError, match="another process is writing there"):
            write()
        (partial / "more").write_text("more")
    assert names(tmp_path / "out") == ["first", "more"]
    write()
    assert names(tmp_path) == ["link", "out", "out/second"]


def test_one_file_that_several_write_at_the_same_time_is_one_of_theirs(tmp_path: Path) -> None:
    """Each writes its letter a piece at a time."""
    path = tmp_path / "out.txt"

    def write(letter: str) -> None:
        for _ in range(20):
            with atomic_file(path) as partial, partial.open("w") as file:
                for _ in range(50):
                    file.write(letter)
                    file.flush()

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write, letter) for letter in "abcd"]
        while not all(writer.done() for writer in writers):
            if path.exists():
                assert path.read_text() in {letter * 50 for letter in "abcd"}
    for writer in writers:
        writer.result()
    assert names(tmp_path) == ["out.txt"]


def test_the_lock_of_a_process_that_was_killed_holds_nobody_up(tmp_path: Path, project: Path) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom medseg.core.files import atomic_folder\n"
        "with atomic_folder(Path(sys.argv[1])) as partial:\n    os.kill(os.getpid(), 9)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(project / "src")}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], env=environment, check=False)
    assert done.returncode == -9
    assert len(names(tmp_path)) == 2
    with atomic_folder(tmp_path / "out"):
        pass
    assert names(tmp_path) == ["out"]


def test_a_link_to_a_folder_stays_and_the_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "old").write_text("old")
    (tmp_path / "out").symlink_to("far")
    with atomic_folder(tmp_path / "out") as partial:
        (partial / "new").write_text("new")
    assert names(tmp_path) == ["far", "far/new", "out"]
    assert (tmp_path / "out").is_symlink()


@pytest.mark.parametrize("place", ["file", "file/below", "loop", "nowhere", "x" * (LONGEST_NAME + 1)])
def test_a_folder_that_can_not_be_is_refused_by_its_option(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("a file")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to("missing")
    with pytest.raises(UserError, match=f"--out {tmp_path / place}: .*; name another"):
        check_folder(tmp_path / place, "--out")
    for good in (tmp_path, tmp_path / "new" / "deep"):
        check_folder(good, "--out")
