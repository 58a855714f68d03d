"""A data set of the user's own in conf/: what `previews.discover` found, as two ordinary files to edit."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medseg.core.errors import UserError
from medseg.core.files import write_text
from medseg.data.image_io import write_png
from medseg.datasets.folder import TableParams, TextParams
from medseg.previews.discover import Found, discover

NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
LONGEST_SIDE = 128  # pixels, of the samples that the experiment begins with


def new_data(name: str, folder: Path, conf: Path, sheet: Path) -> list[str]:
    """Look at `folder`, write conf/data/NAME.yaml, conf/experiment/NAME.yaml and a sheet of pairs.

    Gives what was found and is assumed, line by line. Raises `UserError` where the name is taken or unfit, or nothing
    pairs.
    """
    data, experiment = conf / "data" / f"{name}.yaml", conf / "experiment" / f"{name}.yaml"
    if not NAME.fullmatch(name):
        raise UserError(f"{name}: a name is a word of small letters, digits and _, such as my_study")
    if taken := [path for path in (data, experiment) if path.exists()]:
        raise UserError(f"{taken[0]}: is there already; choose another name, or remove it")
    found = discover(folder)
    if odd := [text for text in _texts(found.params.model_dump()) if not text.isprintable()]:
        raise UserError(
            f"{folder}: {odd[0]!r} holds a line break or another character that can't be written; rename it"
        )
    write_text(data, _data_text(found))
    write_text(experiment, _experiment_text(name, found))
    write_png(sheet, found.sheet)
    written = f"wrote {data}, {experiment} and {sheet}: look at the sheet, edit the files, then"
    return [*found.lines, written, f"    dvc exp run -n {name} -S experiment={name}"]


def _texts(values: dict[str, Any]) -> Iterator[str]:
    """All texts of a section: what stands in both files, in comments too."""
    for value in values.values():
        if isinstance(value, dict):
            yield from _texts(value)
        elif isinstance(value, str):
            yield value


def _data_text(found: Found) -> str:
    data = found.params
    return f"""# Images and masks from {data.path}, as `medseg new` found them.
# conf/data/folder.yaml explains every key.
name: folder
path: {_quoted(str(data.path))}
archives: []
images: {_quoted(data.images)}  # {found.images} files
masks: {_quoted(data.masks)}  # {found.masks} files
label:  # class of an image, for splits and tables of results
{_source(data.label)}
patient: {"null  # unknown: each image counts as a patient of its own" if data.patient is None else ""}
{"" if data.patient is None else _source(data.patient)}
official: {"null" if data.official is None else _quoted(data.official)}  # where the publisher put an image
"""


def _source(source: TextParams | TableParams) -> str:
    return "\n".join(f"  {key}: {_quoted(value)}" for key, value in source.model_dump().items())


def _experiment_text(name: str, found: Found) -> str:
    factor = min(1.0, LONGEST_SIDE / max(found.height[1], found.width[1]))
    height, width = (max(32, round(side[1] * factor / 32) * 32) for side in (found.height, found.width))
    split = "\n  - override /split: official  # the folders train, val and test" if found.splits else ""
    is_deep = found.device_bits < 16 and found.greatest is not None
    intensity = "\n  - override /intensity: window" if is_deep else ""
    reached = (
        f"# 16-bit files, values to {found.greatest}: {found.device_bits} bits; correct it where the device gives more"
    )
    device = f"intensity:\n  high: {(1 << found.device_bits) - 1}  {reached}\n" if is_deep else ""
    return f"""# @package _global_
# A first run on {found.images} images of {found.params.path}, as `medseg new` proposes it: small samples, few epochs.
# `dvc exp run -n {name} -S experiment={name}`; then larger samples and more epochs.
defaults:
  - override /data: {name}{split}{intensity}

name: {name}
{device}prepare:
  channels: {found.channels}  # {"images have colours" if found.channels == 3 else "images are grey"}
  height: {height}  # images measure {found.height[0]} to {found.height[1]} pixels
  width: {width}  # {found.width[0]} to {found.width[1]}
train:
  epochs: 20
  patience: 10
"""


def _quoted(text: str) -> str:
    # Hydra would fill in `${...}`, from the environment, too.
    return "'" + text.replace("'", "''").replace("${", "\\${") + "'"
