from collections import Counter
from pathlib import Path

import pytest

from medseg.core.errors import UserError
from medseg.datasets.busi import scan_busi_layout
from medseg.datasets.record import Record

TOP = "Dataset_BUSI_with_GT"


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    for label in ("benign", "malignant", "normal"):
        (tmp_path / label).mkdir()
        (tmp_path / label / f"{label} (1).png").touch()
        (tmp_path / label / f"{label} (1)_mask.png").touch()
    return tmp_path


def test_labels_masks_and_order_of_the_real_sample(samples: Path) -> None:
    records = scan_busi_layout(samples / "busi")
    assert Counter(record.label for record in records) == {"benign": 50, "malignant": 50, "normal": 50}
    assert [record.file for record in records] == [
        f"{TOP}/{label}/{label} ({number}).png"
        for label in ("benign", "malignant", "normal")
        for number in range(1, 51)
    ]
    two = {record.file: record.masks for record in records if len(record.masks) != 1}
    assert two == {
        f"{TOP}/benign/benign ({number}).png": (
            f"{TOP}/benign/benign ({number})_mask.png",
            f"{TOP}/benign/benign ({number})_mask_1.png",
        )
        for number in (4, 25)
    }
    assert {record.masks[0] == record.file.replace(".png", "_mask.png") for record in records} == {True}


def test_the_root_itself_may_be_the_data_set(layout: Path) -> None:
    assert scan_busi_layout(layout)[0] == Record("benign/benign (1).png", ("benign/benign (1)_mask.png",), "benign")


def test_an_image_without_mask_is_recorded_without(layout: Path) -> None:
    (layout / "normal" / "normal (1)_mask.png").unlink()
    assert [record.masks for record in scan_busi_layout(layout)][2] == ()


def test_masks_belong_to_the_image_with_exactly_their_name(layout: Path) -> None:
    for name in ("benign (10).png", "benign (10)_mask.png", "benign (10)_mask_2.png", "benign (10)_masked.png"):
        (layout / "benign" / name).touch()
    records = [record for record in scan_busi_layout(layout) if record.label == "benign"]
    assert {record.file: len(record.masks) for record in records} == {
        "benign/benign (1).png": 1,
        "benign/benign (10).png": 2,
        "benign/benign (10)_masked.png": 0,
    }


def test_a_missing_or_empty_label_is_named(layout: Path) -> None:
    for file in (layout / "normal").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"normal: holds no image; expected files like 'normal \(1\)\.png'"):
        scan_busi_layout(layout)
    (layout / "normal").rmdir()
    with pytest.raises(UserError, match="expected a folder that holds 'benign', 'malignant', 'normal'"):
        scan_busi_layout(layout)
