from pathlib import Path

import pytest

from medseg.core.errors import UserError
from medseg.datasets.cryonuseg import CryonusegParams
from medseg.datasets.record import Record


def params(images: str = "tissue_images", masks: str = "mask binary") -> CryonusegParams:
    return CryonusegParams(name="cryonuseg", path=None, archives=(), images=images, masks=masks)


def test_labels_and_pairs_of_the_real_sample(samples: Path) -> None:
    names = [("0", "01"), ("2", "01"), ("3", "02"), ("6", "02"), ("7", "03")]
    assert params().scan(samples / "cryonuseg") == [
        Record(
            file=f"tissue_images/Human_Tissue{organ}_{number}.tif",
            masks=(f"mask binary/Human_Tissue{organ}_{number}.png",),
            label=f"Human_Tissue{organ}",
        )
        for organ, number in names
    ]


def test_one_annotator_is_chosen_by_the_path_of_the_masks(tmp_path: Path) -> None:
    for folder in ("tissue images", "Annotator 1/mask binary", "Annotator 2/mask binary"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "tissue images" / "Human_Liver_01.tif").touch()
    (tmp_path / "Annotator 1" / "mask binary" / "Human_Liver_01.png").touch()
    first = params("tissue images", "Annotator 1/mask binary").scan(tmp_path)
    second = params("tissue images", "Annotator 2/mask binary").scan(tmp_path)
    assert [record.masks for record in first] == [("Annotator 1/mask binary/Human_Liver_01.png",)]
    assert [record.masks for record in second] == [()]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "tissue_images").mkdir()
    with pytest.raises(UserError, match=r"mask binary: no such folder; correct 'data\.masks'"):
        params().scan(tmp_path)
    (tmp_path / "mask binary").mkdir()
    with pytest.raises(UserError, match="tissue_images: holds no image"):
        params().scan(tmp_path)
