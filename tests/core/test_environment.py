"""Where and when a stage computed: what is recorded, what is not, and that stages do not overwrite each other."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch

from medseg.core.environment import environment, record_environment


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository with one commit of two files, and this process in it."""
    monkeypatch.chdir(tmp_path)
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "tester")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "tester")
    git("init", "-q")
    (tmp_path / "code.py").write_text("x = 1\n")
    (tmp_path / "dvc.lock").write_text("stages: {}\n")
    git("add", ".")
    git("commit", "-qm", "first")
    return tmp_path


def git(*words: str) -> str:
    return subprocess.run(["git", *words], check=True, capture_output=True, text=True).stdout.strip()


def test_time_versions_and_machine_are_recorded() -> None:
    found = environment()
    assert datetime.now(UTC) - datetime.fromisoformat(found["time"]) < timedelta(minutes=1)
    assert found["python"] == platform.python_version()
    assert found["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert found["threads"] == torch.get_num_threads()
    assert found["cores"] == len(os.sched_getaffinity(0))
    assert len(found["devices"]) == torch.cuda.device_count()
    assert found["processor"]


def test_a_clean_tree_is_its_revision_and_what_stages_write_leaves_it_clean(repository: Path) -> None:
    clean = {"revision": git("rev-parse", "HEAD"), "dirty": False, "changed": []}
    assert environment()["git"] == clean
    (repository / "dvc.lock").write_text("stages: {train: {}}\n")
    for written in ("metrics", "plots", "reports"):
        (repository / written).mkdir()
        (repository / written / "new.json").touch()
    assert environment()["git"] == clean


def test_files_that_differ_from_the_revision_are_named_new_ones_too(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "code.py").write_text("x = 2\n")
    (repository / "ä new.py").touch()
    (repository / "below").mkdir()
    for folder in (repository, repository / "below"):  # wherever in the repository the process stands
        monkeypatch.chdir(folder)
        found = environment()["git"]
        assert (found["dirty"], sorted(found["changed"])) == (True, ["code.py", "ä new.py"])


def test_outside_of_a_repository_there_is_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert environment()["git"] == {"revision": None, "dirty": None, "changed": None}


def test_without_git_there_is_no_revision(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(repository))
    assert environment()["git"] == {"revision": None, "dirty": None, "changed": None}


def test_each_stage_writes_its_own_part_and_a_cut_file_is_begun_anew(repository: Path) -> None:
    path = repository / "metrics" / "environment.json"
    record_environment(path, "train")
    trained = json.loads(path.read_text())["train"]
    record_environment(path, "evaluate")
    assert list(json.loads(path.read_text())) == ["train", "evaluate"]
    assert json.loads(path.read_text())["train"] == trained
    path.write_text(path.read_text()[:100])
    record_environment(path, "train")
    assert list(json.loads(path.read_text())) == ["train"]


def test_no_host_user_path_or_variable_is_recorded(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "never-to-be-seen")
    git("remote", "add", "origin", "https://name:token@example.org/a.git")
    found = environment()
    assert not {"host", "node", "user"} & set(found)
    for secret in ("never-to-be-seen", "token", str(repository)):
        assert secret not in json.dumps(found)
