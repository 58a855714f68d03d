"""One image of a data set: its files, its facts from the manifest, and reading it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from numpy.typing import NDArray

from medseg.core.errors import UserError
from medseg.data.image_io import Pixels, read_image
from medseg.data.intensity import FULL, Range
from medseg.data.mask_io import read_mask
from medseg.data.output_names import output_names
from medseg.datasets.record import Region

MASK_SEPARATOR = ";"  # between the names of several masks in the manifest


@dataclass(frozen=True)
class Image:
    """An image with its masks. Paths are relative to `root`; files are read on demand."""

    root: Path
    file: str
    name: str  # of the files that are written for it
    masks: tuple[str, ...]
    label: str
    group: str  # of near-duplicates and images of one patient
    split: str
    height: int  # pixels
    width: int
    region: Region  # the annotated part
    foreground: float  # share of foreground in the region, 0..1
    sha256: str  # of its file
    phash: str  # perceptual hash, 16 hexadecimal digits
    patient: str  # empty: not known
    intensity: Range = FULL  # of the file's values, which becomes 0..255

    def read(self) -> tuple[Pixels, Pixels]:
        """Read the whole image (H, W, 1 or 3) and its united mask (H, W; 0 or 1), both uint8.

        Raises `UserError` where a file is missing or unreadable, or has not the size that the manifest says.
        """
        image, mask = read_image(self.root / self.file, self.intensity), self.read_mask()
        if not image.shape[:2] == mask.shape == (self.height, self.width):
            raise UserError(
                f"{self.root / self.file}: it or its mask differs in size from the manifest; run that stage"
            )
        return image, mask

    def read_region(self) -> tuple[Pixels, Pixels]:
        """As `read`, cropped to the annotated region, to be shown."""
        image, mask = self.read()
        return self.region.crop(image), self.region.crop(mask)

    def read_mask(self) -> Pixels:
        """Read the united mask (H, W; 0 or 1), uint8. Raises `UserError` where a file is missing or unreadable."""
        return read_mask([self.root / name for name in self.masks])

    def crop(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """The annotated region of any array (H, W, ...) of this image, without a copy."""
        return self.region.crop(pixels)

    def reading(self, intensity: Range) -> "Image":
        """The same image, read with another range of intensities."""
        return replace(self, intensity=intensity)

    def at(self, root: Path) -> "Image":
        """The same image, its files below `root`."""
        return replace(self, root=root)


def images_of(table: pd.DataFrame, root: Path, intensity: Range = FULL) -> list[Image]:
    """The images of the manifest's rows, in their order, files below `root`, read as `intensity` says.

    Their names are those of `output_names`: what was written for images is found again by a table of the same ones.
    """
    names = output_names(table["file"])
    return [
        Image(
            root=root,
            file=row["file"],
            name=names[row["file"]],
            masks=tuple(row["mask"].split(MASK_SEPARATOR)),
            label=row["label"],
            group=row["group"],
            split=row["split"],
            height=row["height"],
            width=row["width"],
            region=Region.parse(row["region"]),
            foreground=row["foreground"],
            sha256=row["sha256"],
            phash=row["phash"],
            patient=row["patient"],
            intensity=intensity,
        )
        for row in table.to_dict("records")
    ]


def of_split(images: Sequence[Image], split: str) -> list[Image]:
    """The images of one split, in their order."""
    return [image for image in images if image.split == split]
