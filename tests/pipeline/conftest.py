"""One finished run in a clone of the project, which all tests of a session share."""

from pathlib import Path

import pytest
from clone import TINY, Clone, copy_project


@pytest.fixture(scope="session")
def clone(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone in which the whole pipeline ran on a few small phantoms, committed."""
    clone = copy_project(project, tmp_path_factory.mktemp("end") / "to end")  # a path with a space
    clone.run("medseg", "params", *TINY)
    clone.run("dvc", "repro")
    clone.run("git", "add", "-A")
    clone.run("git", "commit", "-qm", "a tiny run", "--allow-empty")
    return clone
