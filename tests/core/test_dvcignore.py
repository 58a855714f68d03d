"""A stage that depends on a folder does not depend on what Python and editors leave in it."""

import shutil
from pathlib import Path

import pytest
from dvc.dependency import loads_from
from dvc.repo import Repo
from dvc.stage import Stage

LEFT = (
    "__pycache__/a.cpython-311.pyc",
    "deep/__pycache__/b.pyc",
    "a.pyc",
    "a.pyo",
    "a.py~",
    ".a.py.swp",
    ".ipynb_checkpoints/a.py",
    "deep/.DS_Store",
    ".partial-a.py",
    ".partial-folder/a.py",
)


def test_leftovers_of_tools_change_no_hash_of_a_dependency(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(project / ".dvcignore", tmp_path)
    for name in ("code/a.py", "code/deep/b.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    Repo.init(no_scm=True).close()

    def digest() -> str:
        with Repo() as repo:
            dependency = loads_from(Stage(repo, "dvc.yaml"), ["code"])[0]
            return str(dependency.get_hash().value)

    before = digest()
    for name in LEFT:
        (tmp_path / "code" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "code" / name).write_text("left")
    assert digest() == before
    (tmp_path / "code" / "deep" / "c.py").write_text("new")
    assert digest() != before
