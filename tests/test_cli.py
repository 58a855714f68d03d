"""The command `medseg`, as typed."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "pandas", "albumentations", "matplotlib", "dvc", "hydra")


def medseg(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from medseg.cli import main; main()", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_help_gives_examples_and_loads_nothing_heavy(project: Path) -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from medseg.cli import app\n"
        "result = CliRunner().invoke(app, ['--help'])\n"
        "assert 'Example' in result.output, result.output\n"
        f"print([name for name in {HEAVY} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_params_composes_with_overrides(project: Path, tmp_path: Path) -> None:
    done = medseg("params", "--output", str(tmp_path / "params.yaml"), "data=busi", "seed=3", cwd=project)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "params.yaml").read_text()
    assert "name: busi" in text
    assert "seed: 3" in text


def test_a_misspelt_override_ends_with_one_message(project: Path, tmp_path: Path) -> None:
    done = medseg("params", "--output", str(tmp_path / "params.yaml"), "trian.epochs=3", cwd=project)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "trian" in done.stderr
    assert "Traceback" not in done.stderr


def test_table_writes_the_runs_into_the_readme(tmp_path: Path) -> None:
    page = tmp_path / "docs/explanation/results.md"
    page.parent.mkdir(parents=True)
    page.write_text("a\n<!-- runs: written by make table -->\n<!-- end of runs -->\nb\n")
    (tmp_path / "metrics" / "runs").mkdir(parents=True)
    assert medseg("table", cwd=tmp_path).returncode == 0
    assert "| run |" in page.read_text()


def test_an_unknown_series_ends_with_one_message_that_names_what_there_is(project: Path) -> None:
    done = medseg("series", "ucsb_segnt", cwd=project)
    assert done.returncode == 1
    assert done.stderr.startswith("error: conf/experiment: no name begins with 'ucsb_segnt'; near it: ucsb_segnet")
    assert "busi_cmunext" in done.stderr
    assert "Traceback" not in done.stderr


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
        ("export",),
        ("export", "--out", "a.onnx", "--tile", "7"),
    ],
)
def test_wrong_usage_ends_with_2(arguments: tuple[str, ...], tmp_path: Path) -> None:
    assert medseg(*arguments, cwd=tmp_path).returncode == 2


@pytest.mark.parametrize("command", ["predict", "export", "provenance"])
def test_a_command_s_help_gives_an_example_of_it(command: str, tmp_path: Path) -> None:
    done = medseg(command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert f"medseg {command} " in done.stdout.split("Examples:")[1]


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
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.png").write_bytes(b"no image")
    done = medseg(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(message)
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "empty"]
