"""CryoNuSeg: nuclei in H&E-stained frozen sections, 30 images of 512x512 from ten human organs.

`tissue_images/Human_Tissue3_02.tif` has the mask `mask binary/Human_Tissue3_02.png`. The part of the name before the
number (organ) is the label. The published archive holds the masks of two annotators in folders of their own, so the
folders are parameters.

The three images of one organ may come from one patient or from three: nothing says which, so `patient` stays
unknown. A split by the number of the image (`*03.tif`) has each organ on both sides on purpose.

Source: Mahbod et al., "CryoNuSeg", Computers in Biology and Medicine 132 (2021) 104349.
"""

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field

from medseg.core.errors import UserError
from medseg.core.params import PathInside
from medseg.datasets.layout import existing, files_in, find_folder, require_images
from medseg.datasets.record import Record
from medseg.datasets.source import ArchiveParams

NUMBER = re.compile(r"_[0-9]+$")


class CryonusegParams(ArchiveParams):
    """Where CryoNuSeg comes from, and its folders: `masks` is a path from the parent of `images`."""

    name: Literal["cryonuseg"]
    title = "nuclei in CryoNuSeg tissue"
    images: PathInside = Field(pattern=r"^[^/]+$")
    masks: PathInside

    def scan(self, root: Path) -> list[Record]:
        """One record per image below `root`, in the order of the names. Raises `UserError`."""
        top = find_folder(root, [self.images])
        if not (top / self.masks).is_dir():
            raise UserError(f"{top / self.masks}: no such folder; correct 'data.masks'")
        images = files_in(top / self.images, ".tif")
        require_images(images, top / self.images, "'Human_Tissue3_02.tif'")
        return [
            Record(
                file=path.relative_to(root).as_posix(),
                masks=existing(root, top / self.masks / f"{path.stem}.png"),
                label=NUMBER.sub("", path.stem),
            )
            for path in images
        ]

    @classmethod
    def layout(cls) -> Self:
        """One mask per image, in the folder `mask binary`."""
        return cls(name="cryonuseg", path=None, archives=(), images="tissue_images", masks="mask binary")
