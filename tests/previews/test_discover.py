"""Folders as people keep them: what is taken for images and masks, how they pair, and what the two files then say."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import square

from medseg.core.errors import UserError
from medseg.core.params import read_section, read_yaml, validate
from medseg.data.image_io import write_png
from medseg.data.intensity import IntensityParams
from medseg.datasets import DataParams
from medseg.experiments.compose import compose
from medseg.experiments.new_data import new_data
from medseg.previews.discover import discover


def place(root: Path, pairs: dict[str, list[str]]) -> None:
    """Write an image and its masks for each pair of names."""
    for number, (image, masks) in enumerate(pairs.items()):
        pixels, mask = square(number, 40, 48, 1)
        write_png(root / image, pixels)
        for name in masks:
            write_png(root / name, mask * np.uint8(255))


LAYOUTS: dict[str, tuple[dict[str, list[str]], str, str]] = {
    "two folders": (
        {f"images/{n}.png": [f"masks/{n}.png"] for n in "abc"}, "images/{stem}.png", "masks/{stem}.png",
    ),
    "one folder": ({f"{n}.png": [f"{n}_mask.png"] for n in "abc"}, "{stem}.png", "{stem}_mask.png"),
    "several masks": (
        {"a.png": ["a_mask.png", "a_mask_1.png"], "b.png": ["b_mask.png"]}, "{stem}.png", "{stem}_mask*.png",
    ),
    "classes as folders, a word for masks above all": (
        {f"study_with_GT/{c}/{c}{n}.png": [f"study_with_GT/{c}/{c}{n}_seg.png"] for c in "xy" for n in (1, 2)},
        "study_with_GT/{folder1}/{stem}.png",
        "study_with_GT/{folder1}/{stem}_seg.png",
    ),
    "other words in front": (
        {f"img/{n}.png": [f"gt/label_{n}.png"] for n in "abc"}, "img/{stem}.png", "gt/label_{stem}.png",
    ),
    "a word of their own behind": (
        {f"HE/slide{n}.tif.png": [f"manual annotations/slide{n}.tif_nuclei.png"] for n in (1, 10, 2)},
        "HE/{stem}.png",
        "manual annotations/{stem}_nuclei.png",
    ),
    "sets as folders": (
        {f"{s}/images/1.png": [f"{s}/masks/1.png"] for s in ("train", "valid", "test")},
        "{split}/images/{stem}.png",
        "{split}/masks/{stem}.png",
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_patterns_pair_every_image(layout: str, tmp_path: Path) -> None:
    pairs, images, masks = LAYOUTS[layout]
    place(tmp_path, pairs)
    found = discover(tmp_path)
    assert (found.params.images, found.params.masks) == (images, masks)
    assert (found.images, found.masks, found.unpaired) == (len(pairs), sum(map(len, pairs.values())), [])


def test_sets_and_classes_come_from_folders_and_patients_from_a_table(tmp_path: Path) -> None:
    place(tmp_path / "sets", LAYOUTS["sets as folders"][0])
    assert discover(tmp_path / "sets").splits == {"test": 1, "train": 1, "val": 1}
    place(tmp_path / "classes", LAYOUTS["classes as folders, a word for masks above all"][0])
    assert discover(tmp_path / "classes").labels == {"x": 2, "y": 2}
    place(tmp_path / "table", LAYOUTS["one folder"][0])
    (tmp_path / "table/people.csv").write_text("name,patient,diagnosis\na,p1,good\nb,p1,bad\nc,p2,bad\n")
    found = discover(tmp_path / "table")
    assert (found.labels, found.patients) == ({"bad": 2, "good": 1}, 2)
    assert any("column patient of people.csv" in line for line in found.lines)


def test_grey_images_that_were_kept_as_colour_jpeg_are_grey(tmp_path: Path) -> None:
    for name, channels in (("grey", (1, 1, 1)), ("stained", (1.0, 0.6, 0.8))):
        pixels, mask = square(1, 40, 48, 1)
        (tmp_path / name / "images").mkdir(parents=True)
        Image.fromarray((pixels * np.array(channels)).astype(np.uint8)).save(tmp_path / name / "images/a.jpg")
        write_png(tmp_path / name / "masks/a.png", mask * np.uint8(255))
    assert [discover(tmp_path / name).channels for name in ("grey", "stained")] == [1, 3]


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        ({"images/a.png": ["masks/b.png"]}, "nearest to images/a.png is masks/b.png"),
        ({"a.png": [], "b.png": []}, "a.png, b.png"),
    ],
)
def test_what_pairs_nothing_is_told_with_the_nearest_file(
    pairs: dict[str, list[str]], told: str, tmp_path: Path
) -> None:
    place(tmp_path, pairs)
    with pytest.raises(UserError, match=told):
        discover(tmp_path)


def test_a_label_map_is_refused_by_its_file(tmp_path: Path) -> None:
    place(tmp_path, {"images/a.png": ["masks/a.png"]})
    write_png(tmp_path / "masks/a.png", (np.arange(40 * 48).reshape(40, 48) % 3).astype(np.uint8))
    with pytest.raises(UserError, match=r"masks/a\.png"):
        discover(tmp_path)


def test_the_two_files_compose_and_validate(project: Path, tmp_path: Path, copied: Callable[[Path], Path]) -> None:
    place(tmp_path / "it's ${oc.env:HOME}", LAYOUTS["sets as folders"][0])
    conf = copied(project / "conf")
    lines = new_data("mine", tmp_path / "it's ${oc.env:HOME}", conf, tmp_path / "sheet.png")
    assert any("train 1" in line for line in lines)
    compose(conf, tmp_path / "params.yaml", ["experiment=mine"])
    data = read_section(tmp_path / "params.yaml", "data", DataParams)
    assert Path(data.path) == tmp_path / "it's ${oc.env:HOME}"
    assert read_yaml(tmp_path / "params.yaml")["split"]["name"] == "official"
    validate(read_yaml(conf / "data/mine.yaml"), DataParams, "data")
    with pytest.raises(UserError, match="is there already"):
        new_data("mine", tmp_path / "it's ${oc.env:HOME}", conf, tmp_path / "sheet.png")
    with pytest.raises(UserError, match="a word of small letters"):
        new_data("../x", tmp_path / "it's ${oc.env:HOME}", conf, tmp_path / "sheet.png")


@pytest.mark.parametrize(("greatest", "high"), [(250, 255), (900, 1023), (3900, 4095), (9000, 16383), (40000, None)])
def test_the_range_of_16_bit_files_is_proposed(
    greatest: int, high: int | None, project: Path, tmp_path: Path, copied: Callable[[Path], Path]
) -> None:
    place(tmp_path / "study", LAYOUTS["two folders"][0])
    for path in (tmp_path / "study" / "images").iterdir():
        Image.fromarray(np.linspace(0, greatest, 40 * 48).astype(np.uint16).reshape(40, 48)).save(path)
    conf = copied(project / "conf")
    lines = new_data("mine", tmp_path / "study", conf, tmp_path / "sheet.png")
    assert any(f"files of 16 bits with values up to {greatest}" in line for line in lines)
    compose(conf, tmp_path / "params.yaml", ["experiment=mine"])
    intensity = read_section(tmp_path / "params.yaml", "intensity", IntensityParams)
    assert getattr(intensity, "high", None) == high


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Path], Path]:
    import shutil

    return lambda folder: Path(shutil.copytree(folder, tmp_path / "copied"))


def test_a_name_with_a_line_break_is_refused_for_the_files_that_would_hold_it(tmp_path: Path) -> None:
    """Behind the break it would be a line of YAML of its own."""
    folder = tmp_path / "a\nname: mine"
    place(folder, {"x.png": ["x_mask.png"], "y.png": ["y_mask.png"]})
    with pytest.raises(UserError, match="holds a line break"):
        new_data("mine", folder, tmp_path / "conf", tmp_path / "sheet.png")
    assert not (tmp_path / "conf").exists()
