import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sections import whole

from medseg.core.errors import UserError
from medseg.data.manifest import read_manifest
from medseg.data.training_images import no_images, training_images, write_training_images
from stages.manifest import main

SECTIONS: dict[str, Any] = {
    "data": {
        "name": "folder",
        "path": None,
        "archives": [],
        "images": "images/{stem}.png",
        "masks": "masks/{stem}.png",
        "label": {"name": "text", "text": "lesion"},
        "patient": None,
        "official": None,
    },
    "manifest": {"bad_files": "fail", "duplicate_distance": 14},
    "split": {"name": "fraction", "seed": 0, "val": 0.25, "test": 0.25},
    "machine": {"workers": 1, "backend": "threading", "accelerator": "cpu"},
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with params.yaml and, under raw/, eight images of noise."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / "raw" / kind).mkdir(parents=True)
    for number in range(8):
        pixels = rng.integers(0, 256, (32, 40), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "raw" / "images" / f"{number}.png")
        Image.fromarray(pixels > 127).save(tmp_path / "raw" / "masks" / f"{number}.png")
    write_params(tmp_path)
    return tmp_path


def write_params(folder: Path, **changes: dict[str, Any]) -> None:
    sections = {name: {**section, **changes.get(name, {})} for name, section in SECTIONS.items()}
    (folder / "params.yaml").write_text(whole(sections))


def arguments(folder: Path) -> list[Path]:
    inputs = ("params.yaml", "raw", "lists", "weights")
    outputs = ("manifest.csv", "splits", "overlap.csv", "metrics/manifest.json")
    return [*(folder / name for name in inputs), *(folder / "out" / name for name in outputs)]


def written(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in (folder / "out").rglob("*") if path.is_file())


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in written(folder)}


def test_it_writes_table_lists_and_audit(place: Path) -> None:
    main(*arguments(place))
    assert written(place) == [
        "out/manifest.csv",
        "out/metrics/manifest.json",
        "out/overlap.csv",
        *(f"out/splits/{split}.txt" for split in ("test", "train", "val")),
    ]
    table = read_manifest(place / "out" / "manifest.csv")
    assert len(table) == 8
    assert table["split"].value_counts().to_dict() == {"train": 4, "val": 2, "test": 2}
    for split in ("train", "val", "test"):
        listed = (place / "out" / "splits" / f"{split}.txt").read_text().splitlines()
        assert listed == list(table.loc[table["split"] == split, "file"])
    audit = json.loads((place / "out" / "metrics" / "manifest.json").read_text())
    assert (audit["data"], audit["images"], audit["skipped"]) == ("folder", 8, 0)
    assert audit["splits"] == {"test": 2, "train": 4, "val": 2}


def test_it_writes_the_same_bytes_each_time_on_any_machine(place: Path) -> None:
    main(*arguments(place))
    before = content(place)
    write_params(place, machine={"workers": 4})
    main(*arguments(place))
    assert content(place) == before


def test_its_lists_read_back_as_the_same_split(place: Path) -> None:
    main(*arguments(place))
    first = read_manifest(place / "out" / "manifest.csv")["split"]
    (place / "lists").mkdir()
    (place / "out" / "splits").rename(place / "lists" / "mine")
    sections = {**SECTIONS, "split": {"name": "lists", "folder": "mine", "straddling": "keep"}}
    (place / "params.yaml").write_text(whole(sections))
    main(*arguments(place))
    assert list(read_manifest(place / "out" / "manifest.csv")["split"]) == list(first)


def test_skipped_files_stand_in_the_audit(place: Path) -> None:
    (place / "raw" / "masks" / "3.png").unlink()
    cut = place / "raw" / "images" / "5.png"
    cut.write_bytes(cut.read_bytes()[:300])
    with pytest.raises(UserError, match="2 images can't be used"):
        main(*arguments(place))
    assert not (place / "out").exists()
    write_params(place, manifest={"bad_files": "skip"})
    main(*arguments(place))
    audit = json.loads((place / "out" / "metrics" / "manifest.json").read_text())
    assert audit["skipped"] == 2
    assert [skipped["file"] for skipped in audit["skipped_files"]] == ["images/3.png", "images/5.png"]
    assert audit["skipped_files"][0]["reason"] == "has no mask"


def run(project: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stages.manifest", *map(str, arguments(folder))]
    environment = {**os.environ, "PYTHONPATH": "src"}
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


def test_as_a_command_it_is_silent_when_all_is_well(project: Path, place: Path) -> None:
    done = run(project, place)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(written(place)) == 6


def test_a_group_that_holds_a_fifth_is_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("images", "masks"):
        (place / "raw" / kind / "7.png").write_bytes((place / "raw" / kind / "0.png").read_bytes())
    main(*arguments(place))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("warning: one group of near-duplicates or of one patient holds 2 images, 25% of all")
    audit = json.loads((place / "out" / "metrics" / "manifest.json").read_text())
    assert audit["large_groups"] == [["images/0.png", "images/7.png"]]


def test_a_mistake_leaves_nothing(place: Path) -> None:
    write_params(place, split={"val": 0.01})
    with pytest.raises(UserError, match=r"split: .*'val'"):
        main(*arguments(place))
    assert not (place / "out").exists()


def test_a_task_that_does_not_fit_the_data_is_told_before_any_sample_is_made(place: Path) -> None:
    task = {"name": "multiclass", "background": "normal", "labels": ["benign", "malignant"]}
    (place / "params.yaml").write_text(whole({**SECTIONS, "task": task}))
    with pytest.raises(UserError, match=r"task\.labels = .*the data also hold the label"):
        main(*arguments(place))
    assert not (place / "out").exists()


def test_images_of_val_and_test_that_a_placed_network_has_seen_are_told(place: Path) -> None:
    """Whatever split that network had: here it was trained on all images but one."""
    main(*arguments(place))
    table = read_manifest(place / "out/manifest.csv")
    assert (place / "out/overlap.csv").read_text() == "network,file,split,reason\n"
    held_out = table["split"] == "test"
    left_out = table[held_out].head(1)
    known = training_images(table.drop(left_out.index), left_out.iloc[:0], no_images())
    write_training_images(known, place / "weights/first")
    main(*arguments(place))
    told = pd.read_csv(place / "out/overlap.csv")
    expected = table[table["split"].isin(["val", "test"])].drop(left_out.index)
    assert set(zip(told["file"], told["split"], strict=True)) == set(
        zip(expected["file"], expected["split"], strict=True)
    )
    assert set(told["network"]) == {"first"}
    assert set(told["reason"]) == {"same file"}


def test_a_pixel_of_a_large_image_is_annotated(place: Path) -> None:
    mask = np.zeros((1500, 1500), np.uint8)
    mask[7, 9] = 255
    Image.fromarray(mask).save(place / "raw/masks/0.png")
    Image.fromarray(np.full_like(mask, 90)).save(place / "raw/images/0.png")
    main(*arguments(place))
    row = read_manifest(place / "out/manifest.csv").set_index("file").loc["images/0.png"]
    assert 0 < row["foreground"] < 1e-6
