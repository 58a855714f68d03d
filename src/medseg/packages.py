"""The versions of the packages that this project asks for."""

import importlib.metadata
import re

PROJECT = "medseg"


def package_versions() -> dict[str, str]:
    """The installed versions of the packages that this project depends on directly, by name."""
    needed = [line for line in importlib.metadata.requires(PROJECT) or [] if "extra ==" not in line]
    names = [match.group() for line in needed if (match := re.match(r"[\w.-]+", line))]
    return {name: importlib.metadata.version(name) for name in sorted(names, key=str.lower)}
