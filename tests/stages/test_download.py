import os
import subprocess
import sys
from pathlib import Path

import pytest
from sections import whole

from medseg.core.errors import UserError
from stages.download import main

MACHINE = {"workers": 1, "backend": "threading", "accelerator": "cpu"}


def write_params(folder: Path, **data: object) -> Path:
    path = folder / "params.yaml"
    path.write_text(whole({"data": {"archives": [], **data}, "machine": MACHINE}))
    return path


def run(project: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": "src", **environment}
    command = [sys.executable, "-m", "stages.download", *map(str, arguments)]
    return subprocess.run(command, cwd=project, env=variables, capture_output=True, text=True, check=False)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEDSEG_DATA", raising=False)


def test_fills_the_folder_and_replaces_what_was_there(tmp_path: Path) -> None:
    for name in ("mine/Images/a.tif", "raw/old.txt"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(name)
    main(write_params(tmp_path, name="ucsb", path=str(tmp_path / "mine")), tmp_path / "raw")
    assert [path.relative_to(tmp_path / "raw").as_posix() for path in (tmp_path / "raw").rglob("*")] == [
        "Images",
        "Images/a.tif",
    ]


def test_a_fetch_that_fails_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "mine.zip").write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"mine\.zip: damaged"):
        main(write_params(tmp_path, name="ucsb", path=str(tmp_path / "mine.zip")), tmp_path / "raw")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.zip", "params.yaml", "raw"]
    assert not list((tmp_path / "raw").iterdir())


def test_runs_as_a_command_with_the_data_folder(project: Path, samples: Path, tmp_path: Path) -> None:
    done = run(project, write_params(tmp_path, name="ucsb", path=None), tmp_path / "raw", MEDSEG_DATA=str(samples))
    assert done.returncode == 0
    assert "MEDSEG_DATA" in done.stdout  # said whenever it decides
    assert len(list((tmp_path / "raw").glob("*/*"))) == 12


def test_a_mistake_is_told_in_words(project: Path, tmp_path: Path) -> None:
    done = run(project, write_params(tmp_path, name="ucsb", path=None), tmp_path / "raw")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ucsb: ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "raw").exists()
