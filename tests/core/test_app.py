import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

STAGE = """
import sys
from pathlib import Path
from medseg.core.app import run_stage
from medseg.core.errors import UserError

def main(params: Path, out: Path) -> None:
    '''Say what is asked for in OUT.

    Example: `python stage.py params.yaml out`
    '''
    match out.name:
        case "mistake":
            raise UserError(f"{params}: a mistake")
        case "defect":
            raise RuntimeError("a defect")
        case "full":
            raise OSError(28, "No space left on device", "out/a.png")
        case "gone":
            open("gone.png")
        case "interrupted":
            exec("raise KeyboardInterrupt")
        case "long":
            open("x" * 300)
        case "wait":
            import time
            print("waiting", flush=True)
            time.sleep(60)
    print(type(params).__name__, params, out)

if __name__ == "__main__":
    run_stage(main)
"""


@pytest.fixture
def stage(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], dict[str, str]]:
    """The command that runs a small stage, and its environment."""
    (tmp_path / "stage.py").write_text(STAGE)
    monkeypatch.chdir(tmp_path)
    shutil.copy(project / "params.yaml", tmp_path)
    environment = {**os.environ, "PYTHONPATH": f"{project / 'src'}:{tmp_path}"}
    return [sys.executable, "-m", "stage"], environment


def run(stage: tuple[list[str], dict[str, str]], *arguments: str) -> subprocess.CompletedProcess[str]:
    command, environment = stage
    return subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, check=False)


def test_arguments_arrive_as_paths_in_their_order(stage: tuple[list[str], dict[str, str]]) -> None:
    done = run(stage, "params.yaml", "data/out")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["PosixPath", "params.yaml", "data/out"]


def test_a_mistake_is_one_message_and_exit_code_1(stage: tuple[list[str], dict[str, str]]) -> None:
    done = run(stage, "params.yaml", "mistake")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "error: params.yaml: a mistake\n")


def test_a_defect_keeps_its_plain_traceback(stage: tuple[list[str], dict[str, str]]) -> None:
    done = run(stage, "params.yaml", "defect")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last)")
    assert done.stderr.endswith("RuntimeError: a defect\n")


def test_a_full_disk_is_one_message_and_a_missing_file_a_defect(stage: tuple[list[str], dict[str, str]]) -> None:
    done = run(stage, "params.yaml", "full")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: out/a.png: No space left on device")
    assert len(done.stderr.splitlines()) == 1
    assert "FileNotFoundError" in run(stage, "params.yaml", "gone").stderr


def test_a_name_that_can_not_be_is_one_message(stage: tuple[list[str], dict[str, str]]) -> None:
    done = run(stage, "params.yaml", "long")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert done.stderr.startswith("error: xxx")
    assert done.stderr.endswith("File name too long: name another path, or move away what is there\n")


def test_ctrl_c_while_a_string_is_run_is_exit_code_130_too(stage: tuple[list[str], dict[str, str]]) -> None:
    done = run(stage, "params.yaml", "interrupted")
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize("words", [["", "out"], ["params.yaml", ""]])
def test_an_empty_path_is_wrong_usage_and_not_the_current_folder(
    stage: tuple[list[str], dict[str, str]], words: list[str]
) -> None:
    done = run(stage, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "an argument is empty" in done.stderr


def test_wrong_usage_is_exit_code_2(stage: tuple[list[str], dict[str, str]]) -> None:
    done = run(stage, "params.yaml")
    assert done.returncode == 2
    assert "Missing argument" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_is_exit_code_130_without_a_traceback(stage: tuple[list[str], dict[str, str]]) -> None:
    command, environment = stage
    with subprocess.Popen(
        [*command, "params.yaml", "wait"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
    assert (process.returncode, told) == (130, "interrupted\n")


def test_faults_of_all_sections_are_told_before_any_work(stage: tuple[list[str], dict[str, str]]) -> None:
    """By whichever stage runs: those of training and evaluation are not told after hours of other stages."""
    path = Path("params.yaml")
    sections = yaml.safe_load(path.read_text())
    sections["train"]["epochs"], sections["evaluate"]["threshold"] = 0, 2
    del sections["loss"]
    sections["trian"] = {}
    path.write_text(yaml.safe_dump(sections))
    done = run(stage, "params.yaml", "defect")
    assert done.returncode == 1
    for told in ("train.epochs = 0", "evaluate.threshold = 2", "section 'loss' is missing", "trian is no section"):
        assert f"params.yaml: {told}" in done.stderr.replace("the section", "section")
    assert "Traceback" not in done.stderr
