"""A clone of this project with a tiny run, for tests that go through the real `dvc`."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

TINY = [
    "data.benign=6",
    "data.malignant=6",
    "data.normal=3",
    "data.width=[64,80]",
    "split.val=0.2",
    "prepare.height=32",
    "prepare.width=32",
    "augment.factor=2",
    "train.epochs=4",
    "train.batch_size=4",
]
STAGES = ["download", "manifest", "prepare", "augment", "train", "evaluate", "report"]


class Clone:
    """A clone of the project in a folder of its own, with commands run in it."""

    def __init__(self, folder: Path, surroundings: Mapping[str, str] = MappingProxyType({})) -> None:
        self.folder = folder
        self.surroundings = surroundings  # variables on top of this process's

    def run(self, *command: str) -> str:
        """Run a command in the clone and return what it printed; fail with its output if it fails."""
        done = self.attempt(*command)
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}"
        return done.stdout

    def attempt(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the clone, whatever becomes of it; its two outputs are read as one."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def environment(self) -> dict[str, str]:
        """The variables for commands in the clone: none that this process's own work depends on."""
        names = {f"GIT_{role}_{what}": "tester" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        ours = ("PYTHON", "DVC", "PYTEST")
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        source = str(self.folder.absolute() / "src")  # not the checkout that the package was installed from
        return {**inherited, **names, "PATH": path, "PYTHONPATH": source, **self.surroundings}

    def repro(self, *options: str) -> list[str]:
        """Run `dvc repro` and return the stages that it ran."""
        printed = self.run("dvc", "repro", *options)
        return [stage for stage in STAGES if f"Running stage '{stage}'" in printed]

    def metrics(self) -> dict[str, object]:
        """What evaluation found."""
        found: dict[str, object] = json.loads((self.folder / "metrics" / "evaluate.json").read_text())
        return found


def copy_project(project: Path, folder: Path) -> Clone:
    """A clone that holds this checkout's files as they are now, committed or not."""
    clone = Clone(folder)
    subprocess.run(["git", "clone", "--quiet", str(project), str(folder)], check=True)
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=project, check=True, capture_output=True, text=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (project / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(project / name, folder / name)
    clone.run("git", "checkout", "-q", "-B", "main")
    return clone
