"""Where a training run keeps its state: found by the same run alone, locked, removed when it is not needed any more."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from medseg.core.paths import common_folder
from medseg.training import state_folder as module
from medseg.training.state_folder import KEPT_DAYS, state_folder


class StoppedError(Exception):
    """In the place of whatever ends a run early."""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with data; DVC says where it is."""
    (tmp_path / "project/.dvc").mkdir(parents=True)
    (tmp_path / "project/data").mkdir()
    (tmp_path / "project/data/images.npy").write_bytes(b"pixels")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
    return tmp_path / "project"


def place(project: Path, recipe: object = "parameters", accelerator: str = "cpu") -> Path:
    """The folder of a run that then fails, after an epoch."""
    found: list[Path | None] = []
    with suppress(StoppedError), state_folder(recipe, [project / "data"], accelerator) as folder:
        found.append(folder)
        if folder:
            (folder / "epoch-1").mkdir(exist_ok=True)
        raise StoppedError
    assert found[0] is not None
    return found[0]


def states(project: Path) -> list[Path]:
    return sorted((project / ".dvc/tmp/medseg/training").iterdir())


def test_the_same_run_finds_what_it_left(project: Path) -> None:
    (place(project) / "epoch-2").mkdir()
    assert (place(project) / "epoch-2").is_dir()


def test_nothing_is_left_of_a_run_that_ends_well(project: Path) -> None:
    with state_folder("parameters", [project / "data"], "cpu") as folder:
        assert folder is not None
        (folder / "epoch-1").mkdir()
    assert states(project) == []


def test_nothing_is_left_of_a_run_that_fails_before_its_first_epoch(project: Path) -> None:
    with suppress(StoppedError), state_folder("parameters", [project / "data"], "cpu"):
        raise StoppedError
    assert states(project) == []


def test_other_parameters_data_versions_code_or_devices_find_another_folder(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [place(project), place(project, recipe="others")]
    (project / "data/images.npy").write_bytes(b"others")
    found.append(place(project))
    (project / "data/images.npy").rename(project / "data/masks.npy")
    found.append(place(project))
    with monkeypatch.context() as patched:
        patched.setattr(module, "version", lambda name: f"{name} of tomorrow")
        found.append(place(project))
    with monkeypatch.context() as patched:
        patched.setattr(module, "code_sha256", lambda _: "of other code")
        found.append(place(project))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert place(project) == found[3]
    found.append(place(project, accelerator="auto"))
    assert len(set(found)) == 7


def test_the_folder_is_the_main_checkout_s_also_from_the_queue_s_workspace(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = project / ".dvc/tmp/exps/tmpabc"
    (workspace / ".dvc").mkdir(parents=True)
    monkeypatch.chdir(workspace)
    assert common_folder() == project / ".dvc/tmp/medseg"
    monkeypatch.delenv("DVC_ROOT")
    assert common_folder() == workspace / ".dvc/tmp/medseg"


def test_without_a_project_nothing_is_kept(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    with state_folder("parameters", [project / "data"], "cpu") as folder:
        assert folder is None


def test_all_processes_but_the_first_are_handed_a_folder_later(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_fabric.utilities.rank_zero.rank_zero_only.rank", 1)
    with state_folder("parameters", [project / "data"], "cpu") as folder:
        assert folder is None
    assert not (project / ".dvc/tmp").exists()


HOLD = """
import sys, time
from pathlib import Path
from medseg.training.state_folder import state_folder
with state_folder("parameters", [Path(sys.argv[1])], "cpu") as folder:
    (folder / "epoch-1").mkdir()
    print(folder, flush=True)
    time.sleep(600)
"""


def test_a_run_in_hand_is_not_shared_and_a_killed_one_is_taken_over(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(project / "data")],
        env=os.environ | {"PYTHONPATH": "src"},
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        held = Path(other.stdout.readline().decode().strip())
        with state_folder("parameters", [project / "data"], "cpu") as folder:
            assert folder is None
        assert "another process trains the same network now" in capsys.readouterr().out
        assert (held / "epoch-1").is_dir()
        other.kill()
    with state_folder("parameters", [project / "data"], "cpu") as folder:
        assert folder == held
        assert (held / "epoch-1").is_dir()


def test_a_state_that_nobody_came_back_for_is_removed(project: Path) -> None:
    young, old = place(project, "young"), place(project, "old")
    for folder, days in ((young, KEPT_DAYS - 1), (old, KEPT_DAYS + 1)):
        then = time.time() - days * 24 * 3600
        os.utime(folder, (then, then))
    with state_folder("parameters", [project / "data"], "cpu"):
        assert young.is_dir()
        assert not old.exists()
