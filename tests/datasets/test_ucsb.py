from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from medseg.core.errors import UserError
from medseg.data.manifest import Fault, ManifestParams, measure
from medseg.datasets.record import Record
from medseg.datasets.ucsb import UcsbParams

SOURCE = UcsbParams.layout()


def write(root: Path, name: str, mask_name: str, *foreground: tuple[int, int]) -> None:
    mask = np.zeros((40, 60), np.uint8)
    for row, column in foreground:
        mask[row, column] = 255
    for folder, file in (("Images", name), ("Masks", mask_name)):
        (root / folder).mkdir(exist_ok=True)
        Image.fromarray(mask).save(root / folder / file, format="TIFF")


def regions(root: Path) -> tuple[list[str], list[Fault]]:
    """The regions in the manifest, and the images that can't be used."""
    table, faults = measure(SOURCE.scan(root), root, ManifestParams(bad_files="skip", duplicate_distance=0), tiny.CPU)
    return list(table["region"]), faults


def test_names_labels_and_regions_of_the_real_sample(samples: Path) -> None:
    expected = {
        "ytma10_010704_benign1": "137:155:342:382",
        "ytma10_010704_malignant1": "110:112:352:337",
        "ytma12_010804_benign2": "385:454:569:677",
        "ytma23_022103_malignant3": "372:174:608:407",
        "ytma49_042403_benign2": "412:230:634:466",
        "ytma55_030603_benign5": "294:413:550:658",
    }
    assert SOURCE.scan(samples / "ucsb") == [
        Record(
            file=f"Images/{name}_ccd.tif",
            masks=(f"Masks/{name}.TIF",),
            label="malignant" if "malignant" in name else "benign",
            region="foreground",
        )
        for name in expected
    ]
    assert regions(samples / "ucsb") == (list(expected.values()), [])


def test_the_region_ends_behind_the_last_foreground_and_an_empty_mask_is_a_fault(tmp_path: Path) -> None:
    write(tmp_path, "a_benign1_ccd.tif", "a_benign1.TIF", (3, 50), (20, 7))
    write(tmp_path, "b_benign1_ccd.tif", "b_benign1.TIF")
    found, faults = regions(tmp_path)
    assert found == ["3:7:21:51"]
    assert [fault.file for fault in faults] == ["Images/b_benign1_ccd.tif"]
    assert "b_benign1.TIF is empty" in faults[0].reason


def test_names_pair_in_any_case(tmp_path: Path) -> None:
    write(tmp_path, "YTMA1_Benign1_ccd.TIF", "ytma1_benign1.tif", (1, 1))
    assert [(record.file, record.masks, record.label) for record in SOURCE.scan(tmp_path)] == [
        ("Images/YTMA1_Benign1_ccd.TIF", ("Masks/ytma1_benign1.tif",), "benign")
    ]


def test_a_missing_mask_is_left_to_the_manifest(tmp_path: Path) -> None:
    write(tmp_path, "b_benign1_ccd.tif", "other_benign1.TIF", (1, 1))
    assert SOURCE.scan(tmp_path)[0].masks == ()


def test_masks_whose_names_differ_in_case_alone_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "a_benign1_ccd.tif", "a_benign1.TIF", (1, 1))
    (tmp_path / "Masks" / "A_Benign1.tif").touch()
    with pytest.raises(
        UserError,
        match=r"a_benign1\.TIF: its name differs from A_Benign1\.tif in case alone|"
        r"A_Benign1\.tif: its name differs from a_benign1\.TIF in case alone",
    ):
        SOURCE.scan(tmp_path)


def test_a_name_without_label_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a_ccd.tif", "a.TIF", (1, 1))
    with pytest.raises(UserError, match=r"a_ccd\.tif: the name holds neither 'benign' nor 'malignant'"):
        SOURCE.scan(tmp_path)
