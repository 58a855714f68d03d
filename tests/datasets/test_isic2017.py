from collections import Counter
from pathlib import Path

import pytest

from medseg.core.errors import UserError
from medseg.datasets.isic2017 import Isic2017Params


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """One image per part: ISIC_1 to train, ISIC_2 to validate, ISIC_3 to test."""
    for number, part in enumerate(("Training", "Validation", "Test_v2"), 1):
        images, masks = tmp_path / f"ISIC-2017_{part}_Data", tmp_path / f"ISIC-2017_{part}_Part1_GroundTruth"
        images.mkdir()
        masks.mkdir()
        (images / f"ISIC_{number}.jpg").touch()
        (images / f"ISIC_{number}_superpixels.png").touch()
        (masks / f"ISIC_{number}_segmentation.png").touch()
    return tmp_path


def write_table(layout: Path, part: str, *rows: str) -> None:
    text = "\r\n".join(("image_id,melanoma,seborrheic_keratosis", *rows, ""))
    (layout / f"ISIC-2017_{part}_Part3_GroundTruth.csv").write_text(text, encoding="utf-8-sig", newline="")


def test_official_parts_and_pairs_of_the_real_sample(samples: Path) -> None:
    records = Isic2017Params.layout().scan(samples / "isic2017")
    assert Counter(record.official for record in records) == {"train": 200, "val": 40, "test": 60}
    assert {record.label for record in records} == {"lesion"}
    for record in records:
        folder, name = record.file.split("/")
        truth = folder.replace("_Data", "_Part1_GroundTruth")
        assert record.masks == (f"{truth}/{name.removesuffix('.jpg')}_segmentation.png",)


def test_superpixels_are_neither_images_nor_masks(layout: Path) -> None:
    records = Isic2017Params.layout().scan(layout)
    assert [len(record.masks) for record in records] == [1, 1, 1]
    assert not any("superpixels" in file for record in records for file in (record.file, *record.masks))


def test_labels_come_from_the_tables(layout: Path) -> None:
    write_table(layout, "Training", "ISIC_1,1.0,0.0")
    write_table(layout, "Validation", "ISIC_2,0,1")
    write_table(layout, "Test_v2", "ISIC_3,0.0,0.0")
    assert [record.label for record in Isic2017Params.layout().scan(layout)] == [
        "melanoma",
        "seborrheic_keratosis",
        "nevus",
    ]


def test_an_image_that_no_table_names_is_reported(layout: Path) -> None:
    write_table(layout, "Training", "ISIC_1,1.0,0.0", "ISIC_3,0,0")
    with pytest.raises(UserError, match=r"Training_Part3_GroundTruth\.csv: no diagnosis of ISIC_2$"):
        Isic2017Params.layout().scan(layout)


@pytest.mark.parametrize("cells", ["yes,0", "1,1", "0"])
def test_a_diagnosis_that_is_none_is_reported(layout: Path, cells: str) -> None:
    write_table(layout, "Training", f"ISIC_0,{cells}")
    with pytest.raises(UserError, match=r"the diagnosis of ISIC_0 is none: melanoma = "):
        Isic2017Params.layout().scan(layout)


def test_diagnoses_that_contradict_each_other_are_reported(layout: Path) -> None:
    write_table(layout, "Training", "ISIC_0,1,0", "ISIC_0,0,1")
    with pytest.raises(UserError, match="several diagnoses of ISIC_0"):
        Isic2017Params.layout().scan(layout)


def test_an_image_without_mask_is_recorded_without(layout: Path) -> None:
    (layout / "ISIC-2017_Validation_Part1_GroundTruth" / "ISIC_2_segmentation.png").unlink()
    assert [len(record.masks) for record in Isic2017Params.layout().scan(layout)] == [1, 0, 1]


def test_a_missing_folder_is_named(layout: Path) -> None:
    (layout / "ISIC-2017_Test_v2_Part1_GroundTruth" / "ISIC_3_segmentation.png").unlink()
    (layout / "ISIC-2017_Test_v2_Part1_GroundTruth").rmdir()
    with pytest.raises(UserError, match="expected a folder that holds 'ISIC-2017_Test_v2_Part1_GroundTruth'"):
        Isic2017Params.layout().scan(layout)
