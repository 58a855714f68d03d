"""The versions of the packages that this project asks for."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

from medseg.core.environment import package_versions


def test_every_direct_dependency_stands_there_with_its_installed_version_and_no_other(project: Path) -> None:
    asked = tomllib.loads((project / "pyproject.toml").read_text())["project"]["dependencies"]
    names = [re.split(r"[=<>;\[ ]", line)[0] for line in asked]
    found = package_versions()
    assert {name.lower() for name in found} == {name.lower() for name in names}
    assert found == {name: importlib.metadata.version(name) for name in found}
    assert list(found) == sorted(found, key=str.lower)
