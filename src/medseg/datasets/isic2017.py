"""ISIC 2017, task 1: dermoscopic images of skin lesions, with the challenge's train, validation and test folders.

`ISIC-2017_Training_Data/ISIC_0000000.jpg` has the mask `ISIC_0000000_segmentation.png` in
`ISIC-2017_Training_Part1_GroundTruth`. The archives also hold `..._superpixels.png`, which are not masks. The tables of
part 3 hold the diagnoses; without any table every label is "lesion". Nothing says which images show one
patient.

Source: Codella et al., "Skin lesion analysis toward melanoma detection", ISBI 2017 challenge, arXiv:1710.05006.
"""

from pathlib import Path
from typing import Literal, Self

from medseg.core.errors import UserError
from medseg.core.folders import files_below
from medseg.datasets.layout import existing, files_in, find_folder, require_images, shortened
from medseg.datasets.record import Record, Split
from medseg.datasets.source import ArchiveParams
from medseg.datasets.tables import read_table

PARTS: dict[str, Split] = {"Training": "train", "Validation": "val", "Test_v2": "test"}
DIAGNOSES = ("melanoma", "seborrheic_keratosis")  # columns of the tables; where neither is 1 the lesion is a nevus
YES, NO = ("1", "1.0"), ("0", "0.0")  # values in them


class Isic2017Params(ArchiveParams):
    """Where ISIC 2017 comes from."""

    name: Literal["isic2017"]
    title = "ISIC 2017 skin lesions"

    def scan(self, root: Path) -> list[Record]:
        """One record per image below `root`: train, then validation, then test, each in the order of the names.

        Raises `UserError` where one of the six folders is missing, where there are tables of diagnoses but none lists
        an image, or where they hold other values than 0 and 1, or contradict each other.
        """
        images = [found for part in PARTS for found in _scan_part(root, part)]
        labels = _labels(root, [path.stem for path, _, _ in images])
        return [
            Record(path.relative_to(root).as_posix(), masks, labels[path.stem], official=PARTS[part])
            for path, masks, part in images
        ]

    @classmethod
    def layout(cls) -> Self:
        """The six folders, with or without the tables."""
        return cls(name="isic2017", path=None, archives=())


def _scan_part(root: Path, part: str) -> list[tuple[Path, tuple[str, ...], str]]:
    images_name, truth = f"ISIC-2017_{part}_Data", f"ISIC-2017_{part}_Part1_GroundTruth"
    images_folder, truth_folder = find_folder(root, [images_name]) / images_name, find_folder(root, [truth]) / truth
    images = files_in(images_folder, ".jpg")
    require_images(images, images_folder, "'ISIC_0000000.jpg'")
    return [(path, existing(root, truth_folder / f"{path.stem}_segmentation.png"), part) for path in images]


def _labels(root: Path, names: list[str]) -> dict[str, str]:
    tables = [root / file for file in files_below(root) if file.endswith("_Part3_GroundTruth.csv")]
    if not tables:
        return dict.fromkeys(names, "lesion")
    rows = [row for table in tables for row in read_table(table, ("image_id", *DIAGNOSES))]
    labels = {row["image_id"]: _diagnosis(row) for row in rows}
    if torn := [row["image_id"] for row in rows if labels[row["image_id"]] != _diagnosis(row)]:
        raise UserError(f"{', '.join(map(str, tables))}: several diagnoses of {shortened(torn)}")
    missing = [name for name in names if name not in labels]
    if missing:
        raise UserError(f"{', '.join(map(str, tables))}: no diagnosis of {shortened(missing)}")
    return labels


def _diagnosis(row: dict[str, str]) -> str:
    values = {name: row[name] for name in DIAGNOSES}
    if not set(values.values()) <= {*YES, *NO} or sum(value in YES for value in values.values()) > 1:
        given = ", ".join(f"{name} = '{value}'" for name, value in values.items())
        raise UserError(f"the diagnosis of {row['image_id']} is none: {given}; one may be 1, the others must be 0")
    return next((name for name, value in values.items() if value in YES), "nevus")
