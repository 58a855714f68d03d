import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import ExifTags, Image

from medseg.core.errors import UserError
from medseg.core.parallel import MachineParams
from medseg.data.image import images_of
from medseg.data.manifest import (
    Fault,
    ManifestParams,
    measure,
    read_manifest,
    write_manifest,
)
from medseg.datasets.busi import scan_busi_layout
from medseg.datasets.record import Record
from medseg.datasets.ucsb import UcsbParams

MACHINE = MachineParams(workers=2, backend="threading", accelerator="cpu")
FAIL = ManifestParams(bad_files="fail", duplicate_distance=14)
SKIP = ManifestParams(bad_files="skip", duplicate_distance=14)


def paint(path: Path, *sizes: int, seed: int = 0, channels: int = 3) -> None:
    """An image of noise, height and width given."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*sizes, channels), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels if channels == 3 else pixels[..., 0]).save(path)


def paint_mask(path: Path, height: int, width: int, rows: int = 0) -> None:
    """A mask whose first `rows` rows are foreground."""
    pixels = np.zeros((height, width), np.uint8)
    pixels[:rows] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def record(name: str, masks: int = 1, **more: Any) -> Record:
    return Record(f"{name}.png", tuple(f"{name}_mask{number}.png" for number in range(masks)), "lesion", **more)


@pytest.fixture(scope="module")
def busi(samples: Path) -> pd.DataFrame:
    """The manifest of the BUSI sample, without splits."""
    root = samples / "busi"
    table, faults = measure(scan_busi_layout(root), root, FAIL, MACHINE)
    assert faults == []
    return table


def test_a_row_by_hand(tmp_path: Path) -> None:
    paint(tmp_path / "a.png", 20, 30, channels=1)
    paint_mask(tmp_path / "a_mask0.png", 20, 30, rows=5)
    paint_mask(tmp_path / "a_mask1.png", 20, 30, rows=10)
    table, _ = measure([record("a", masks=2, patient="p1", official="val")], tmp_path, FAIL, MACHINE)
    row = table.iloc[0].to_dict()
    assert len(row.pop("sha256")) == len(row.pop("mask_sha256")) == 64
    assert len(row.pop("phash")) == 16
    assert row == {
        "file": "a.png",
        "mask": "a_mask0.png;a_mask1.png",
        "label": "lesion",
        "group": "g00000",
        "height": 20,
        "width": 30,
        "channels": 1,
        "foreground": 0.5,
        "chained": False,
        "region": "0:0:20:30",
        "patient": "p1",
        "official": "val",
    }


def test_the_busi_sample(busi: pd.DataFrame) -> None:
    assert len(busi) == 150
    assert busi["label"].value_counts().to_dict() == {"benign": 50, "malignant": 50, "normal": 50}
    assert busi["mask"].str.split(";").explode().str.contains("benign").sum() == 52
    several = busi.loc[busi["mask"].str.contains(";"), "file"].str.rsplit("/", n=1).str[-1]
    assert sorted(several) == ["benign (25).png", "benign (4).png"]
    assert (busi["foreground"] == 0).sum() == 50
    assert busi["sha256"].is_unique
    assert busi[["height", "width"]].agg(["min", "max"]).to_numpy().tolist() == [[310, 273], [709, 1048]]


def test_the_foreground_of_united_masks_is_the_share_of_their_union(busi: pd.DataFrame, samples: Path) -> None:
    row: Any = next(row for row in busi.itertuples() if str(row.file).endswith("benign (4).png"))
    parts = [np.asarray(Image.open(samples / "busi" / name).convert("RGB")).any(axis=2) for name in row.mask.split(";")]
    assert row.foreground == pytest.approx(np.mean(parts[0] | parts[1]), abs=1e-6)


def test_near_duplicates_of_the_busi_sample_share_a_group(busi: pd.DataFrame) -> None:
    names = busi["file"].str.rsplit("/", n=1).str[-1].str.removesuffix(".png")
    groups = dict(zip(names, busi["group"], strict=True))
    for same in (["malignant (4)", "malignant (5)"], [f"malignant ({number})" for number in (7, 8, 9)]):
        assert len({groups[name] for name in same}) == 1
    assert len({groups[f"normal ({number})"] for number in (42, 45, 49)}) == 1
    assert busi.groupby("group")["label"].nunique().max() == 1
    sizes = busi["group"].value_counts()
    assert (sizes[sizes > 1].sum(), sizes.max()) == (22, 5)  # all of them looked at
    assert not busi["chained"].any()


def test_the_annotated_window_of_tissue_is_what_counts(samples: Path) -> None:
    root = samples / "ucsb"
    table, _ = measure(UcsbParams.layout().scan(root), root, FAIL, MACHINE)
    table["split"] = "train"
    images = images_of(table, root)
    assert len(images) == 6
    for image in images:
        pixels, mask = image.read()
        assert (pixels.shape[:2], mask.shape) == ((768, 896), (768, 896))
        assert 150 < image.region.size[0] < 270
        inside = image.crop(mask)
        assert inside.sum() == mask.sum()
        assert image.foreground == pytest.approx(inside.mean(), abs=1e-6)
        assert image.foreground > 0.1


def test_an_image_that_exif_turns_away_from_its_mask_is_told(tmp_path: Path) -> None:
    for name in ("turned", "flat"):
        paint_mask(tmp_path / f"{name}_mask0.png", 20, 30)
    paint(tmp_path / "flat.png", 20, 31)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "turned.png", exif=exif)
    paint(tmp_path / "good.png", 20, 30)
    paint_mask(tmp_path / "good_mask0.png", 20, 30)
    _, faults = measure([record("turned"), record("flat"), record("good")], tmp_path, SKIP, MACHINE)
    assert faults == [
        Fault(
            "turned.png",
            "the mask turned_mask0.png measures 30x20, the image 20x30; EXIF data turn the image and not the mask",
        ),
        Fault("flat.png", "the mask flat_mask0.png measures 30x20, the image 31x20"),
    ]


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    for name in ("good", "cut", "unmasked", "small", "grades", "gone;2"):
        paint(tmp_path / f"{name}.png", 20, 30)
        paint_mask(tmp_path / f"{name}_mask0.png", 20, 30)
    cut = tmp_path / "cut.png"
    cut.write_bytes(cut.read_bytes()[:500])
    paint_mask(tmp_path / "small_mask0.png", 10, 30)
    paint(tmp_path / "grades_mask0.png", 20, 30)
    records = [record("good"), record("cut"), record("unmasked", masks=0), record("small"), record("grades")]
    records += [record("gone;2"), record("absent")]
    with pytest.raises(UserError) as caught:
        measure(records, tmp_path, FAIL, MACHINE)
    message = str(caught.value)
    assert message.startswith("6 images")
    assert "manifest.bad_files" in message
    for told in (
        f"cut.png: {tmp_path}/cut.png: not readable as an image",
        "unmasked.png: ",
        "small.png: the mask small_mask0.png measures 30x10",
        f"grades.png: {tmp_path}/grades_mask0.png: ",
        "gone;2.png: ",
        f"absent.png: {tmp_path}/absent.png: ",
    ):
        assert told in message
    table, faults = measure(records, tmp_path, SKIP, MACHINE)
    assert list(table["file"]) == ["good.png"]
    assert [fault.file for fault in faults] == [entry.file for entry in records[1:]]
    assert faults[1] == Fault("unmasked.png", "has no mask")


def test_a_long_list_of_faults_is_cut_and_skipping_all_is_refused(tmp_path: Path) -> None:
    records = [record(str(number), masks=0) for number in range(25)]
    with pytest.raises(UserError, match=r"\.\.\. and 5 more$"):
        measure(records, tmp_path, FAIL, MACHINE)
    with pytest.raises(UserError, match="none of its 25 images can be used"):
        measure(records, tmp_path, SKIP, MACHINE)


@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (1, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_thinnest_images_are_measured_too(tmp_path: Path, shape: tuple[int, int], channels: int) -> None:
    paint(tmp_path / "a.png", *shape, channels=channels)
    paint_mask(tmp_path / "a_mask0.png", *shape, rows=1)
    table, _ = measure([record("a")], tmp_path, FAIL, MACHINE)
    assert table[["height", "width", "channels"]].to_numpy().tolist() == [[*shape, channels]]


def test_both_backends_and_any_worker_count_measure_the_same(samples: Path) -> None:
    root = samples / "busi"
    records = scan_busi_layout(root)[:8]
    machines = [MACHINE.model_copy(update={"workers": workers}) for workers in (1, 4)]
    machines.append(MACHINE.model_copy(update={"backend": "loky"}))
    tables = [measure(records, root, FAIL, machine)[0] for machine in machines]
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])


@pytest.fixture
def written(tmp_path: Path) -> tuple[pd.DataFrame, Path]:
    """A manifest of three images and its file; labels and names that a CSV reader may take for something else."""
    names = ("00", "nan", "a, \"b\" 'c' ü")
    for seed, name in enumerate(names):
        paint(tmp_path / f"{name}.png", 8, 8, seed=seed)
        paint_mask(tmp_path / f"{name}_mask0.png", 8, 8, rows=8)
    records = [
        Record(f"{name}.png", (f"{name}_mask0.png",), label)
        for name, label in zip(names, ("1", "NA", "x"), strict=True)
    ]
    table, _ = measure(records, tmp_path, FAIL, MACHINE)
    table.insert(4, "split", ["train", "val", "dropped"])
    write_manifest(table, tmp_path / "manifest.csv")
    return table, tmp_path / "manifest.csv"


def test_the_table_reads_back_as_it_was_written(written: tuple[pd.DataFrame, Path]) -> None:
    table, path = written
    back = read_manifest(path)
    pd.testing.assert_frame_equal(back, table)
    write_manifest(back, path.with_name("again.csv"))
    assert path.with_name("again.csv").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("train", "trian", "split"),
        ("height", "tallness", "tallness"),
        (",8,8,3,", ",8,0,3,", "width"),
        (",8,8,3,", ",8,wide,3,", "width"),
        (",8,8,3,1.0", ",8,8,3,1.5", "foreground"),
        ("00.png", "nan.png", "file"),
        (",region", "", ""),
    ],
)
def test_a_broken_table_is_refused(written: tuple[pd.DataFrame, Path], old: str, new: str, told: str) -> None:
    _, path = written
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=r"manifest\.csv: not a manifest that this project wrote") as caught:
        read_manifest(path)
    assert told in str(caught.value)


def test_a_table_that_is_absent_empty_or_no_text_is_refused(tmp_path: Path) -> None:
    for content in (None, b"", b"\xff\xfe\x00"):
        if content is not None:
            (tmp_path / "manifest.csv").write_bytes(content)
        with pytest.raises(UserError, match=r"manifest\.csv"):
            read_manifest(tmp_path / "manifest.csv")


def test_a_wrong_table_is_never_written(written: tuple[pd.DataFrame, Path]) -> None:
    table, path = written
    before = path.read_bytes()
    with pytest.raises(Exception, match="foreground"):
        write_manifest(table.assign(foreground=2.0), path)
    assert path.read_bytes() == before


def test_equal_files_have_equal_sums(tmp_path: Path) -> None:
    paint(tmp_path / "a.png", 8, 8)
    shutil.copy(tmp_path / "a.png", tmp_path / "b.png")
    for name in "ab":
        paint_mask(tmp_path / f"{name}_mask0.png", 8, 8)
    table, _ = measure([record("a"), record("b")], tmp_path, FAIL, MACHINE)
    assert table["sha256"].nunique() == table["mask_sha256"].nunique() == table["group"].nunique() == 1


def test_names_that_lists_and_table_could_not_give_back_are_faults(tmp_path: Path) -> None:
    for name in ("a\nb", "a\tb", "c;d", "e\udcff", " f"):
        with pytest.raises(UserError, match=r"can't stand in the manifest; rename the file") as caught:
            measure([Record(f"{name}.png", ("m.png",), "a")], tmp_path, FAIL, MACHINE)
        str(caught.value).encode()  # can be printed anywhere


@pytest.mark.parametrize("change", [{"label": "=HYPERLINK(1)"}, {"patient": "@x"}, {"file": "=x.png"}])
def test_what_a_spreadsheet_would_run_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    odd = replace(record("a"), **change)
    paint(tmp_path / odd.file, 20, 30)
    paint_mask(tmp_path / "a_mask0.png", 20, 30, rows=5)
    with pytest.raises(UserError, match=r"which a spreadsheet would run|a spreadsheet would run its label or patient"):
        measure([odd], tmp_path, FAIL, MACHINE)
