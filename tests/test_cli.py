"""The command `medseg`, as typed."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from medseg.cli import main


class Done(NamedTuple):
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


class Medseg:
    """Runs the command in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *arguments: str, cwd: Path) -> Done:
        self.monkeypatch.chdir(cwd)
        self.monkeypatch.setattr(sys, "argv", ["medseg", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        code = end.value.code
        assert code is None or isinstance(code, int)
        return Done(code or 0, *self.capsys.readouterr())


@pytest.fixture
def medseg(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Medseg:
    return Medseg(monkeypatch, capsys)


@pytest.mark.parametrize("module", ["medseg", "medseg.cli"])
def test_it_runs_as_a_module(module: str, project: Path) -> None:
    command = [sys.executable, "-m", module, "predict", "--help"]
    environment = os.environ | {"PYTHONPATH": str(project / "src")}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "Usage:" in done.stdout


def test_params_composes_with_overrides(medseg: Medseg, project: Path, tmp_path: Path) -> None:
    done = medseg("params", "--output", str(tmp_path / "params.yaml"), "data=busi", "seed=3", cwd=project)
    assert done.code == 0, done.err
    text = (tmp_path / "params.yaml").read_text()
    assert "name: busi" in text
    assert "seed: 3" in text


def test_a_misspelt_override_ends_with_one_message(medseg: Medseg, project: Path, tmp_path: Path) -> None:
    done = medseg("params", "--output", str(tmp_path / "params.yaml"), "trian.epochs=3", cwd=project)
    assert done.code == 1
    assert done.err.startswith("error: ")
    assert "trian" in done.err


def test_table_writes_the_runs_into_the_readme(medseg: Medseg, tmp_path: Path) -> None:
    page = tmp_path / "docs/explanation/results.md"
    page.parent.mkdir(parents=True)
    page.write_text("a\n<!-- runs: written by make table -->\n<!-- end of runs -->\nb\n")
    (tmp_path / "metrics" / "runs").mkdir(parents=True)
    assert medseg("table", cwd=tmp_path).code == 0
    assert "| run |" in page.read_text()


def test_an_unknown_series_ends_with_one_message_that_names_what_there_is(medseg: Medseg, project: Path) -> None:
    done = medseg("series", "ucsb_segnt", cwd=project)
    assert done.code == 1
    assert done.err.startswith("error: conf/experiment: no name begins with 'ucsb_segnt'; near it: ucsb_segnet")
    assert "busi_cmunext" in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("params", "--nonsense"),
        ("series",),
        ("series", "ucsb", "--jobs", "0"),
        ("compare", "main"),
        ("predict", "--model", "a", "--out", "b"),
        ("predict", "a.png", "--out", "b"),
        ("predict", "a.png", "--model", "a", "--out", "b", "--runtime", "tensorrt"),
        ("predict", "", "--model", "a", "--out", "b"),
        ("predict", "a.png", "--model", "a", "--out="),
        ("predict", "a.png", "--model", "a", "--out", "b", "--model", "c"),
        ("evaluate", "--model", "a", "--data", "b", "--out", "c", "--layout", "busi", "--layout=ucsb"),
        ("export", "--out", "a.onnx", "--out", "a.onnx"),
        ("export",),
        ("export", "--out", "a.onnx", "--tile", "7"),
    ],
)
def test_wrong_usage_ends_with_2(medseg: Medseg, arguments: tuple[str, ...], tmp_path: Path) -> None:
    assert medseg(*arguments, cwd=tmp_path).code == 2


@pytest.mark.parametrize("command", ["predict", "export", "provenance"])
def test_a_command_s_help_gives_an_example_of_it(medseg: Medseg, command: str, tmp_path: Path) -> None:
    done = medseg(command, "--help", cwd=tmp_path)
    assert done.code == 0
    assert f"medseg {command} " in done.out.split("Examples:")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("predict", "empty", "--model", "none", "--out", "out"), "error: empty: no image found"),
        (("predict", "a.png", "--model", "none", "--out", "out"), "error: --model none: no such model folder"),
        (("predict", "a.png", "--model", "empty", "--out", "out"), "error: empty/model.yaml: no such file"),
        (("predict", "a.png", "--model", "a.png", "--out", "out"), "error: a.png: not readable as ONNX"),
        (("export", "--model", "empty", "--out", "a.onnx"), "error: empty/model.yaml: no such file"),
    ],
)
def test_what_is_missing_ends_predict_and_export_with_one_message(
    medseg: Medseg, arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.png").write_bytes(b"no image")
    done = medseg(*arguments, cwd=tmp_path)
    assert done.code == 1
    assert done.err.startswith(message)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "empty"]
