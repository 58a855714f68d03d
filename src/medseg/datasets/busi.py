"""BUSI: breast ultrasound in three folders, `benign`, `malignant` and `normal`.

`benign (4).png` has the mask `benign (4)_mask.png`, and `benign (4)_mask_1.png` where there is a second lesion: the
mask of an image is the union of all. The folder is the label. Nothing says which images show one patient.

Source: Al-Dhabyani et al., "Dataset of breast ultrasound images", Data in Brief 28 (2020) 104863.
"""

import re
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field

from medseg.datasets.layout import files_in, find_folder, require_images
from medseg.datasets.record import Record
from medseg.datasets.source import ArchiveParams

Label = Literal["benign", "malignant", "normal"]
LABELS: tuple[Label, ...] = ("benign", "malignant", "normal")
MASK = re.compile(r"(?P<image>.+)_mask(_[0-9]+)?")


class BusiParams(ArchiveParams):
    """Where BUSI comes from, and which of its folders take part."""

    name: Literal["busi"]
    title = "BUSI breast ultrasound"
    labels: Annotated[list[Label], Field(min_length=1)]

    def scan(self, root: Path) -> list[Record]:
        """As `scan_busi_layout`."""
        return scan_busi_layout(root, self.labels)

    @classmethod
    def layout(cls) -> Self:
        """All three folders."""
        return cls(name="busi", path=None, archives=(), labels=list(LABELS))


def scan_busi_layout(root: Path, labels: Collection[Label] = LABELS) -> list[Record]:
    """One record per image of the folders that `labels` names; all three must lie at or below `root`.

    The order is by label, then natural order of the names. Raises `UserError` where the layout differs.
    """
    top = find_folder(root, LABELS)
    return [record for label in LABELS if label in labels for record in _scan_label(root, top / label)]


def _scan_label(root: Path, folder: Path) -> list[Record]:
    masks: dict[str, list[str]] = defaultdict(list)
    images = []
    for path in files_in(folder, ".png"):
        if match := MASK.fullmatch(path.stem):
            masks[match["image"]].append(path.relative_to(root).as_posix())
        else:
            images.append(path)
    require_images(images, folder, f"'{folder.name} (1).png' and '{folder.name} (1)_mask.png'")
    return [
        Record(file=path.relative_to(root).as_posix(), masks=tuple(sorted(masks[path.stem])), label=folder.name)
        for path in images
    ]
