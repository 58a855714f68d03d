"""CryoNuSeg: nuclei in H&E-stained frozen sections, 30 images of 512x512 from ten human organs.

`tissue_images/Human_Tissue3_02.tif` has the mask `mask binary/Human_Tissue3_02.png`. The part of the name before the
number (organ) is the label. The published archive holds the masks of two annotators in folders of their own, so the
folders are parameters.

The three images of one organ may come from one patient or from three: nothing says which, so `patient` stays
unknown. A split by the number of the image (`*03.tif`) puts the same organ on both sides on purpose.

Source: Mahbod et al., "CryoNuSeg", Computers in Biology and Medicine 132 (2021) 104349.
"""

import re
from pathlib import Path
from typing import Literal

from pydantic import Field

from medseg.core.errors import UserError
from medseg.datasets.download import ArchiveParams
from medseg.datasets.layout import existing, files_in, find_folder, require_images
from medseg.datasets.record import Record

NUMBER = re.compile(r"_[0-9]+$")


class CryonusegParams(ArchiveParams):
    """Where CryoNuSeg comes from, and its folders: `images` by name, `masks` by its path from beside `images`."""

    name: Literal["cryonuseg"]
    images: str = Field(pattern=r"^[^/]+$")
    masks: str = Field(pattern=r"^[^/]+(/[^/]+)*$")


def scan_cryonuseg(params: CryonusegParams, root: Path) -> list[Record]:
    """One record per image below `root`, in the order of the names. Raises `UserError`."""
    top = find_folder(root, [params.images])
    if not (top / params.masks).is_dir():
        raise UserError(f"{top / params.masks}: no such folder; correct 'data.masks'")
    images = files_in(top / params.images, ".tif")
    require_images(images, top / params.images, "'Human_Tissue3_02.tif'")
    return [
        Record(
            file=path.relative_to(root).as_posix(),
            masks=existing(root, top / params.masks / f"{path.stem}.png"),
            label=NUMBER.sub("", path.stem),
        )
        for path in images
    ]
