"""UCSB breast cancer cells: nuclei in H&E-stained tissue, 58 images of 896x768.

`Images/ytma10_010704_benign1_ccd.tif` has the mask `Masks/ytma10_010704_benign1.TIF`: no `_ccd`, and another
case of letters. The label, benign or malignant, is part of the name. Nothing says which images show one patient.

Only one window of each image is annotated; nuclei outside it are zero in the mask although they are there. Nothing
says where the window lies, so the region of an image is the bounding box of its mask's foreground. In six images
examined, these boxes were 184 to 256 pixels high and 223 to 245 wide, began at no common multiple, and touched nuclei
only in a few pixels on each side: the window has no fixed size, and its nuclei are whole. The box is at most as large
as the window. The strip of unknown width between the two holds no annotated nucleus and is left out: false positives
there are not counted, and the share of foreground is overestimated.

Source: Drelie Gelasca et al., "Evaluation and benchmark for biological image segmentation", ICIP 2008.
"""

import re
from pathlib import Path
from typing import Literal, Self

from medseg.core.errors import UserError
from medseg.datasets.layout import files_in, find_folder, require_images
from medseg.datasets.record import Record
from medseg.datasets.source import ArchiveParams

LABEL = re.compile(r"benign|malignant")
CAMERA = "_ccd"  # suffix of the names of images, not of masks


class UcsbParams(ArchiveParams):
    """Where the UCSB breast cancer cells come from."""

    name: Literal["ucsb"]
    title = "nuclei in UCSB breast tissue"

    def scan(self, root: Path) -> list[Record]:
        """One record per image below `root`, in the order of the names.

        Raises `UserError` where the layout differs, a name holds no label, or the names of two masks differ in case
        alone.
        """
        top = find_folder(root, ("Images", "Masks"))
        images = files_in(top / "Images", ".tif")
        require_images(images, top / "Images", "'ytma10_010704_benign1_ccd.tif'")
        masks = _by_name(files_in(top / "Masks", ".tif"))
        return [_record(root, path, masks.get(path.stem.lower().removesuffix(CAMERA))) for path in images]

    @classmethod
    def layout(cls) -> Self:
        """`Images` and `Masks`."""
        return cls(name="ucsb", path=None, archives=())


def _by_name(masks: list[Path]) -> dict[str, Path]:
    found = {path.stem.lower(): path for path in masks}
    if others := [path for path in masks if found[path.stem.lower()] != path]:
        raise UserError(f"{others[0]}: its name differs from {found[others[0].stem.lower()].name} in case alone")
    return found


def _record(root: Path, image: Path, mask: Path | None) -> Record:
    return Record(
        file=image.relative_to(root).as_posix(),
        masks=(mask.relative_to(root).as_posix(),) if mask else (),
        label=_label(image),
        region="foreground",
    )


def _label(image: Path) -> str:
    match = LABEL.search(image.stem.lower())
    if match is None:
        raise UserError(f"{image}: the name holds neither 'benign' nor 'malignant'")
    return match[0]
