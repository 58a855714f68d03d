import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from sections import whole

from medseg.core.errors import UserError
from medseg.core.parallel import MachineParams
from medseg.data.image_io import read_image
from medseg.data.intensity import Window
from medseg.data.manifest import ManifestParams, measure, write_manifest
from medseg.data.packed import open_packed
from medseg.datasets.record import Record
from stages.prepare import main

MACHINE = {"workers": 1, "backend": "threading", "accelerator": "cpu"}
RESIZE = {"name": "resize", "channels": 1, "height": 16, "width": 24, "aspect": "squash", "small_objects": "drop"}
PATCHES = {"name": "patchify", "channels": 1, "patch": 36, "stride": 36, "border": "drop"}
SPLITS = ["train", "val", "test", "train", "dropped", "train"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with six images of noise under raw/ and their manifest; that of val is the smallest."""
    (tmp_path / "raw").mkdir()
    rng = np.random.default_rng(0)
    for number, split in enumerate(SPLITS):
        pixels = rng.integers(0, 256, (32 if split == "val" else 40, 40), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "raw" / f"{number}.png")
        Image.fromarray(np.indices(pixels.shape)[1] < 20).save(tmp_path / "raw" / f"{number}_mask.png")
    records = [Record(f"{number}.png", (f"{number}_mask.png",), "lesion") for number in range(6)]
    settings = ManifestParams(bad_files="fail", duplicate_distance=0)
    machine = MachineParams(workers=1, backend="threading", accelerator="cpu")
    table, _ = measure(records, tmp_path / "raw", settings, machine)
    table.insert(4, "split", pd.Series(SPLITS))
    write_manifest(table, tmp_path / "manifest.csv")
    write_params(tmp_path, RESIZE)
    return tmp_path


def write_params(folder: Path, prepare: dict[str, Any], **machine: Any) -> None:
    (folder / "params.yaml").write_text(whole({"prepare": prepare, "machine": {**MACHINE, **machine}}))


def arguments(folder: Path) -> list[Path]:
    return [folder / name for name in ("params.yaml", "raw", "manifest.csv", "out/prepared", "out/plots/samples.png")]


def content(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted((folder / "out").rglob("*")) if path.is_file()]
    return {path.relative_to(folder / "out").as_posix(): path.read_bytes() for path in files}


def test_it_packs_train_and_val_and_leaves_the_test_images_alone(place: Path) -> None:
    main(*arguments(place))
    parts = ("about.yaml", "images.npy", "index.csv", "masks.npy")
    assert list(content(place)) == [
        "plots/samples.png",
        *(f"prepared/{s}/{p}" for s in ("train", "val") for p in parts),
    ]
    stores = {split: open_packed(place / "out" / "prepared" / split) for split in ("train", "val")}
    assert list(stores["train"].index["file"]) == ["0.png", "3.png", "5.png"]
    assert list(stores["val"].index["file"]) == ["1.png"]
    assert stores["train"].images.shape == (3, 16, 24, 1)
    assert stores["train"].masks.any()
    assert read_image(place / "out" / "plots" / "samples.png").shape == (128 + 8, 8 * 132 + 4, 3)


def test_it_writes_the_same_bytes_each_time_on_any_machine(place: Path) -> None:
    main(*arguments(place))
    before = content(place)
    write_params(place, RESIZE, workers=4)
    main(*arguments(place))
    assert content(place) == before


def test_a_run_that_fails_leaves_what_was_there(place: Path) -> None:
    main(*arguments(place))
    before = content(place)
    write_params(place, PATCHES)
    with pytest.raises(UserError, match="no image of val is as large as a patch"):
        main(*arguments(place))  # train is done by then, val has none
    assert content(place) == before


def test_an_image_that_is_gone_is_named_and_no_half_is_left(place: Path) -> None:
    (place / "raw" / "1.png").unlink()
    with pytest.raises(UserError, match=rf"^{place}/raw/1\.png: "):
        main(*arguments(place))
    assert content(place) == {}
    assert not list((place / "out").iterdir())


def test_as_a_command_it_is_silent_when_all_is_well(project: Path, place: Path) -> None:
    done = run(project, place)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(content(place)) == 9


def run(project: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stages.prepare", *map(str, arguments(folder))]
    environment = {**os.environ, "PYTHONPATH": "src"}
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


def test_a_file_of_another_depth_is_refused_before_training_whatever_its_split(place: Path) -> None:
    params = yaml.safe_load((place / "params.yaml").read_text())
    params["intensity"] = {"name": "window", "bits": 8, "low": 10, "high": 200}
    (place / "params.yaml").write_text(yaml.safe_dump(params))
    main(*arguments(place))
    assert open_packed(place / "out" / "prepared" / "val").intensity == Window(**params["intensity"])
    Image.fromarray(np.full((40, 40), 9000, np.uint16)).save(place / "raw" / "2.png")  # of test
    with pytest.raises(UserError, match=r"2\.png: holds 16-bit values, and the range .* 10 to 200, is of 8-bit files"):
        main(*arguments(place))
