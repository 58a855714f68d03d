"""The groups of `conf/`, each with the type of the section that its files hold, and whole parameter files."""

from pathlib import Path
from typing import Any

import yaml

from medseg.core import sections

PROJECT = Path(__file__).parents[1]
CONF = PROJECT / "conf"
SECTIONS: dict[str, Any] = {name: sections.section_type(name) for name in sections.SECTIONS if (CONF / name).is_dir()}


def whole(changed: dict[str, Any]) -> str:
    """The text of a parameter file: that of the default run but for the sections in `changed`."""
    default = yaml.safe_load((PROJECT / "params.yaml").read_text(encoding="utf-8"))
    return yaml.safe_dump(default | changed)
