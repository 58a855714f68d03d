"""The manifest: a table with one row per image (masks, facts, group, split), its schema, and how it is made."""

import hashlib
import unicodedata
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pandera.pandas as pa
from pydantic import Field

from medseg.core.cells import is_formula
from medseg.core.errors import UserError
from medseg.core.files import atomic_file
from medseg.core.parallel import MachineParams, run_parallel
from medseg.core.params import Section
from medseg.data.duplicates import find_groups
from medseg.data.image import MASK_SEPARATOR
from medseg.data.image_io import Pixels, is_turned, read_to_show
from medseg.data.mask_io import read_mask
from medseg.data.thumbnails import WHOLE, cosines, hashes, thumbnail
from medseg.datasets.record import Record, Region

SHOWN_FAULTS = 20
# Unicode categories: controls, line and paragraph separators, surrogates (bytes of a name that are not UTF-8).
_UNWRITABLE = {"Cc", "Zl", "Zp", "Cs"}


class ManifestParams(Section):
    """The section `manifest`: what to do with bad files, and which images are near-duplicates."""

    bad_files: Literal["fail", "skip"]
    duplicate_distance: int = Field(ge=0, le=20)  # bits of 63; hashes of unlike images differ in some 32


@dataclass(frozen=True)
class Fault:
    """An image that can't be used, and why."""

    file: str
    reason: str


SCHEMA = pa.DataFrameSchema(
    {
        "file": pa.Column(str, unique=True),
        "mask": pa.Column(str, pa.Check.str_length(min_value=1)),  # several joined by `;`
        "label": pa.Column(str, pa.Check.str_length(min_value=1)),
        "group": pa.Column(str),  # whole in every split that is drawn here
        "split": pa.Column(str, pa.Check.isin(["train", "val", "test", "dropped"])),
        "height": pa.Column(int, pa.Check.ge(1)),  # pixels
        "width": pa.Column(int, pa.Check.ge(1)),  # pixels
        "channels": pa.Column(int, pa.Check.isin([1, 3])),
        "foreground": pa.Column(float, pa.Check.in_range(0, 1)),  # share of the region's pixels
        "sha256": pa.Column(str, pa.Check.str_length(64, 64)),  # of the image's file
        "mask_sha256": pa.Column(str, pa.Check.str_length(64, 64)),  # of the concatenated mask files
        "phash": pa.Column(str, pa.Check.str_matches(r"^[0-9a-f]{16}$")),  # `thumbnails.hashes` of the whole image
        "chained": pa.Column(bool),  # whether near-duplicates of its group are none of each other
        # `top:left:bottom:right` in pixels; the whole image where nothing narrower is known
        "region": pa.Column(str, pa.Check.str_matches(r"^\d+:\d+:\d+:\d+$")),
        "patient": pa.Column(str),  # empty: unknown
        "official": pa.Column(str, pa.Check.isin(["", "train", "val", "test"])),  # in the publisher's own split
    },
    ordered=True,
    strict=True,
)


def measure(
    records: list[Record], root: Path, params: ManifestParams, machine: MachineParams
) -> tuple[pd.DataFrame, list[Fault]]:
    """Read every image and mask under `root`; return their table, without `split`, and the faults.

    Raises `UserError` that lists the faults where there are any and `bad_files` is `fail`, or where no image
    is left.
    """
    results = run_parallel(machine, partial(_measure_one, root=root.absolute(), shown=root), records, "manifest")
    faults = [result for result in results if isinstance(result, Fault)]
    if faults and params.bad_files == "fail":
        raise UserError(_fault_report(faults))
    measured = [result for result in results if not isinstance(result, Fault)]
    if not measured:
        raise UserError(f"{root}: none of its {len(records)} images can be used: {_fault_report(faults)}")
    table = pd.DataFrame([row for row, _ in measured])
    thumbnails = np.stack([small for _, small in measured])
    groups = find_groups(thumbnails, list(table["patient"]), params.duplicate_distance, machine)
    phash = [f"{value:016x}" for value in hashes(cosines(thumbnails, WHOLE), 0)]
    table.insert(3, "group", groups.names)
    before_region = list(table.columns).index("region")
    table.insert(before_region, "phash", phash)
    table.insert(before_region + 1, "chained", groups.chained)
    return table, faults


def write_manifest(table: pd.DataFrame, path: Path) -> None:
    """Check the table against the schema and write it as CSV."""
    SCHEMA.validate(table)
    with atomic_file(path) as partial_path:
        table.to_csv(partial_path, index=False, lineterminator="\n")


def read_manifest(path: Path) -> pd.DataFrame:
    """Read and check `manifest.csv`. Raises `UserError` where a column or value is not what the schema says."""
    text = [
        "file",
        "mask",
        "label",
        "group",
        "split",
        "sha256",
        "mask_sha256",
        "phash",
        "region",
        "patient",
        "official",
    ]
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(text, str), keep_default_na=False)
        return SCHEMA.validate(table)
    except (OSError, ValueError, pa.errors.SchemaError, pa.errors.SchemaErrors) as error:
        raise UserError(f"{path}: not a manifest that this project wrote: {error}") from error


def _measure_one(record: Record, root: Path, shown: Path) -> tuple[dict[str, Any], Pixels] | Fault:
    """A row without what other images decide, and the thumbnail."""
    names = [record.file, *record.masks]
    if not record.masks:
        return Fault(record.file, "has no mask")
    if bad := [part for name in names if (part := _bad_part(name))]:
        return Fault(_shown(record.file), f"a name with {bad[0]} can't stand in the manifest; rename the file")
    if formulas := [text for text in (record.label, record.patient or "") if is_formula(text)]:
        return Fault(record.file, f"a spreadsheet would run its label or patient {formulas[0]!r:.80}; rename it")
    try:
        image, mask = read_to_show(root / record.file), read_mask(root / name for name in record.masks)
    except UserError as error:
        return Fault(record.file, str(error).replace(str(root), str(shown), 1))
    if image.shape[:2] != mask.shape:
        sizes = f"{mask.shape[1]}x{mask.shape[0]}, the image {image.shape[1]}x{image.shape[0]}"
        turned = "; EXIF data turn the image and not the mask" if _is_turned_alone(record, root) else ""
        return Fault(record.file, f"the mask {record.masks[0]} measures {sizes}{turned}")
    region = Region.around(mask) if record.region == "foreground" else record.region or Region(0, 0, *mask.shape)
    if region is None:
        return Fault(record.file, f"the mask {record.masks[0]} is empty, so nothing says which region is annotated")
    return _row(record, root, image, mask, region), thumbnail(image)


def _is_turned_alone(record: Record, root: Path) -> bool:
    return is_turned(root / record.file) and not any(is_turned(root / name) for name in record.masks)


def _bad_part(name: str) -> str:
    """What in a file's name does not survive in the manifest or in lists of a split; empty where all does."""
    if MASK_SEPARATOR in name:
        return f"'{MASK_SEPARATOR}'"
    if name != name.strip():
        return "a blank at its start or end"
    if any(unicodedata.category(letter) in _UNWRITABLE for letter in name):
        return "a line break or another character that can't be written"
    if is_formula(name):
        return f"'{name[0]}' at its start, which a spreadsheet would run as a formula,"
    return ""


def _shown(name: str) -> str:
    """A file's name with escapes for characters that can't be written."""
    return "".join(ascii(letter)[1:-1] if unicodedata.category(letter) in _UNWRITABLE else letter for letter in name)


def _row(record: Record, root: Path, image: Pixels, mask: Pixels, region: Region) -> dict[str, Any]:
    return {
        "file": record.file,
        "mask": MASK_SEPARATOR.join(record.masks),
        "label": record.label,
        "height": image.shape[0],
        "width": image.shape[1],
        "channels": image.shape[2],
        "foreground": _share(region.crop(mask)),
        "sha256": _sha256([root / record.file]),
        "mask_sha256": _sha256([root / name for name in record.masks]),
        "region": str(region),
        "patient": record.patient or "",
        "official": record.official or "",
    }


def _share(mask: Pixels) -> float:
    """The share of foreground, rounded, but 0 and 1 only where it is: a pixel of a large image is annotated, too."""
    share = float(mask.mean())
    return round(share, 6) if round(share, 6) not in (0, 1) else share


def _sha256(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _fault_report(faults: list[Fault]) -> str:
    lines = [f"{fault.file}: {fault.reason}" for fault in faults[:SHOWN_FAULTS]]
    if len(faults) > SHOWN_FAULTS:
        lines.append(f"... and {len(faults) - SHOWN_FAULTS} more")
    count = "1 image" if len(faults) == 1 else f"{len(faults)} images"
    head = f"{count} can't be used (mend, or go on without: -S manifest.bad_files=skip):"
    return "\n       ".join([head, *lines])
