import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import yaml
from sections import whole

from medseg.core.errors import UserError
from medseg.data.geometry import Resize
from medseg.data.image_io import read_image
from medseg.data.packed import create_arrays, describe_arrays, open_packed
from stages.augment import main

MACHINE = {"workers": 1, "backend": "threading", "accelerator": "cpu"}


@pytest.fixture
def place(tmp_path: Path, project: Path) -> Path:
    """A folder with six prepared samples under train/ and the parameters of the sevenfold augmentation."""
    images, masks = create_arrays(tmp_path / "train", 6, 24, 32, 1)
    images[:] = np.random.default_rng(0).integers(0, 256, images.shape)
    masks[:] = images[..., 0] > 127
    files = {"file": [f"{number}.png" for number in range(6)]}
    index = pd.DataFrame(files | {"label": "x", "group": "g"} | tiny.UNKNOWN)
    geometry = Resize(name="resize", channels=1, height=24, width=32, aspect="squash", small_objects="drop")
    describe_arrays(tmp_path / "train", index.assign(top=0, left=0, variant=0), geometry)
    write_params(tmp_path, project)
    return tmp_path


def write_params(folder: Path, project: Path, workers: int = 1, **changes: Any) -> None:
    sevenfold = yaml.safe_load((project / "conf" / "augment" / "sevenfold.yaml").read_text())
    sections = {"augment": {**sevenfold, **changes}, "machine": {**MACHINE, "workers": workers}}
    (folder / "params.yaml").write_text(whole(sections))


def arguments(folder: Path) -> list[Path]:
    return [folder / name for name in ("params.yaml", "train", "out/augmented", "out/plots/variants.png")]


def content(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted((folder / "out").rglob("*")) if path.is_file()]
    return {path.relative_to(folder / "out").as_posix(): path.read_bytes() for path in files}


def test_it_writes_seven_rows_of_every_sample_and_a_sheet(place: Path) -> None:
    main(*arguments(place))
    assert list(content(place)) == [
        *(f"augmented/{name}" for name in ("about.yaml", "images.npy", "index.csv", "masks.npy")),
        "plots/variants.png",
    ]
    store, source = open_packed(place / "out" / "augmented"), open_packed(place / "train")
    assert len(store.images) == 42
    assert list(store.index["file"].unique()) == list(source.index["file"])
    np.testing.assert_array_equal(store.images[::7], source.images)
    assert read_image(place / "out" / "plots" / "variants.png").shape == (5 * 132 + 4, 7 * 132 + 4, 3)


def test_it_writes_the_same_bytes_each_time_on_any_machine_and_others_from_another_seed(
    place: Path, project: Path
) -> None:
    main(*arguments(place))
    before = content(place)
    write_params(place, project, workers=4)
    main(*arguments(place))
    assert content(place) == before
    write_params(place, project, seed=1)
    main(*arguments(place))
    assert content(place)["augmented/images.npy"] != before["augmented/images.npy"]


def test_a_run_that_fails_leaves_what_was_there(place: Path, project: Path) -> None:
    main(*arguments(place))
    before = content(place)
    write_params(place, project, quarter_turns=0.5)
    with pytest.raises(UserError, match=r"augment\.quarter_turns = 0\.5: must be 0"):
        main(*arguments(place))
    assert content(place) == before


def test_as_a_command_it_is_silent_when_all_is_well(project: Path, place: Path) -> None:
    done = run(project, place)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(content(place)) == 5


def test_a_mistake_is_found_before_any_work(project: Path, place: Path) -> None:
    write_params(place, project, horizontal_flip=2)
    with pytest.raises(UserError, match=r"params\.yaml: augment\.horizontal_flip = 2"):
        main(*arguments(place))
    assert not (place / "out").exists()


def test_samples_that_are_not_whole_are_named(place: Path) -> None:
    (place / "train" / "masks.npy").unlink()
    with pytest.raises(UserError, match=f"^{place}/train: "):
        main(*arguments(place))
    assert content(place) == {}


def run(project: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stages.augment", *map(str, arguments(folder))]
    environment = {**os.environ, "PYTHONPATH": "src"}
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
