"""The package without its checkout: `pip install .` somewhere else, then predict, evaluate and export with a bundle."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from clone import Clone

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_predict_evaluate_and_export_need_no_checkout(clone: Clone, project: Path, tmp_path: Path) -> None:
    site, work = tmp_path / "site", tmp_path / "work"
    source = tmp_path / "source"
    source.mkdir()
    for name in ("src", "stages", "pyproject.toml", "README.md", "LICENSE"):  # without what runs leave beside them
        (shutil.copytree if (project / name).is_dir() else shutil.copy)(project / name, source / name)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(source)]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shutil.copytree(clone.folder / "models/segmenter", work / "model")
    shutil.copytree(next((clone.folder / "data/raw").iterdir()), work / "scans/busi")
    shutil.rmtree(source)
    environment = os.environ | {"PYTHONPATH": str(site)}

    def medseg(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "medseg", *words],
            cwd=work,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = [sys.executable, "-c", "import medseg; print(medseg.__file__)"]
    found = subprocess.run(where, cwd=work, env=environment, capture_output=True, text=True, check=True).stdout
    assert Path(found.strip()).is_relative_to(site)
    medseg("predict", "scans/busi/benign", "--model", "model", "--out", "predicted")
    assert (work / "predicted/predictions.csv").read_text().count("\n") > 2
    assert "Dice" in medseg("evaluate", "--model", "model", "--data", "scans", "--layout", "busi", "--out", "scored")
    medseg("export", "--model", "model", "--out", "model.onnx")
    medseg("predict", "scans/busi/benign", "--model", "model.onnx", "--out", "by onnx")
