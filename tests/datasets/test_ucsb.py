from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medseg.core.errors import UserError
from medseg.datasets.record import Record, Region
from medseg.datasets.ucsb import scan_ucsb


def write(root: Path, name: str, mask_name: str, *foreground: tuple[int, int]) -> None:
    mask = np.zeros((40, 60), np.uint8)
    for row, column in foreground:
        mask[row, column] = 255
    for folder, file in (("Images", name), ("Masks", mask_name)):
        (root / folder).mkdir(exist_ok=True)
        Image.fromarray(mask).save(root / folder / file, format="TIFF")


def test_names_labels_and_windows_of_the_real_sample(samples: Path) -> None:
    expected = {
        "ytma10_010704_benign1": Region(137, 155, 342, 382),
        "ytma10_010704_malignant1": Region(110, 112, 352, 337),
        "ytma12_010804_benign2": Region(385, 454, 569, 677),
        "ytma23_022103_malignant3": Region(372, 174, 608, 407),
        "ytma49_042403_benign2": Region(412, 230, 634, 466),
        "ytma55_030603_benign5": Region(294, 413, 550, 658),
    }
    assert scan_ucsb(samples / "ucsb") == [
        Record(
            file=f"Images/{name}_ccd.tif",
            masks=(f"Masks/{name}.TIF",),
            label="malignant" if "malignant" in name else "benign",
            region=region,
        )
        for name, region in expected.items()
    ]


def test_the_window_ends_behind_the_last_foreground(tmp_path: Path) -> None:
    write(tmp_path, "a_benign1_ccd.tif", "a_benign1.TIF", (3, 50), (20, 7))
    assert scan_ucsb(tmp_path)[0].region == Region(top=3, left=7, bottom=21, right=51)


def test_names_pair_in_any_case(tmp_path: Path) -> None:
    write(tmp_path, "YTMA1_Benign1_ccd.TIF", "ytma1_benign1.tif", (1, 1))
    assert scan_ucsb(tmp_path) == [
        Record("Images/YTMA1_Benign1_ccd.TIF", ("Masks/ytma1_benign1.tif",), "benign", region=Region(1, 1, 2, 2))
    ]


def test_a_missing_or_unreadable_mask_is_left_to_the_manifest(tmp_path: Path) -> None:
    write(tmp_path, "a_benign1_ccd.tif", "a_benign1.TIF", (1, 1))
    write(tmp_path, "b_benign1_ccd.tif", "other_benign1.TIF", (1, 1))
    (tmp_path / "Masks" / "a_benign1.TIF").write_bytes(b"no image")
    first, second = scan_ucsb(tmp_path)
    assert (first.masks, first.region) == (("Masks/a_benign1.TIF",), None)
    assert (second.masks, second.region) == ((), None)


def test_the_window_counts_every_colour_and_depth(tmp_path: Path) -> None:
    write(tmp_path, "a_benign1_ccd.tif", "a_benign1.TIF", (1, 1))
    blue = np.zeros((40, 60, 3), np.uint8)
    blue[3, 50] = (0, 0, 1)
    deep = blue[..., 2].astype(np.uint16)
    for values in (blue, deep):
        Image.fromarray(values).save(tmp_path / "Masks" / "a_benign1.TIF", format="TIFF")
        assert scan_ucsb(tmp_path)[0].region == Region(3, 50, 4, 51)


def test_masks_whose_names_differ_in_case_alone_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "a_benign1_ccd.tif", "a_benign1.TIF", (1, 1))
    (tmp_path / "Masks" / "A_Benign1.tif").touch()
    with pytest.raises(
        UserError,
        match=r"a_benign1\.TIF: its name differs from A_Benign1\.tif in case alone|"
        r"A_Benign1\.tif: its name differs from a_benign1\.TIF in case alone",
    ):
        scan_ucsb(tmp_path)


def test_an_empty_mask_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a_benign1_ccd.tif", "a_benign1.TIF")
    with pytest.raises(UserError, match=r"a_benign1\.TIF: empty, so nothing says which window is annotated"):
        scan_ucsb(tmp_path)


def test_a_name_without_label_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a_ccd.tif", "a.TIF", (1, 1))
    with pytest.raises(UserError, match=r"a_ccd\.tif: the name holds neither 'benign' nor 'malignant'"):
        scan_ucsb(tmp_path)
