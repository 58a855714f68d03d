"""One finished run in a clone of the project, which all tests of a session share."""

from pathlib import Path

import pytest
from clone import Clone
from crash import Site


@pytest.fixture(scope="session")
def site(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A clone in which a tiny run is complete and committed, and what to kill and watch it with."""
    return Site(project, tmp_path_factory.mktemp("end") / "to end")  # a path with a space


@pytest.fixture(scope="session")
def clone(site: Site) -> Clone:
    """The same clone, to run commands in."""
    return site.clone
