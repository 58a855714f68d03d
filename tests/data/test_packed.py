from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medseg.core.errors import UserError
from medseg.data.geometry import Geometry, Patchify, Resize, Scale
from medseg.data.packed import create_arrays, describe_arrays, open_packed

PATCHES = Patchify(name="patchify", channels=3, patch=16, stride=8, border="pad")


def fill(folder: Path, geometry: Geometry = PATCHES, count: int = 3) -> pd.DataFrame:
    images, masks = create_arrays(folder, count, 8, 10, 3)
    images[1] = 7
    masks[2] = 1
    index = pd.DataFrame(
        {"file": [f"{number}.png" for number in range(count)], "label": "01", "group": "1e5"}
        | {"sha256": "1" * 64, "phash": "00000000000001e5", "patient": "007", "top": 0, "left": 5}
    )
    index["variant"] = 0
    describe_arrays(folder, index, geometry)
    return index


@pytest.mark.parametrize(
    "geometry",
    [
        PATCHES,
        Scale(name="scale", channels=1, factor=0.1, small_objects="drop"),
        Resize(name="resize", channels=1, height=8, width=10, aspect="keep", small_objects="drop"),
    ],
    ids=lambda geometry: str(geometry.name),
)
def test_what_was_written_opens_as_it_was(tmp_path: Path, geometry: Geometry) -> None:
    index = fill(tmp_path / "train", geometry)
    store = open_packed(tmp_path / "train")
    assert store.images.shape == (3, 8, 10, 3)
    assert store.masks.shape == (3, 8, 10)
    assert store.images.dtype == store.masks.dtype == np.uint8
    assert [int(image.max()) for image in store.images] == [0, 7, 0]
    assert [int(mask.min()) for mask in store.masks] == [0, 0, 1]
    pd.testing.assert_frame_equal(store.index, index)
    assert store.geometry == geometry


def test_arrays_are_mapped_and_cannot_be_written_to_by_accident(tmp_path: Path) -> None:
    fill(tmp_path)
    store = open_packed(tmp_path)
    assert isinstance(store.images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        store.masks[0] = 1


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    for name in "ab":
        fill(tmp_path / name)
    for file in ("images.npy", "masks.npy", "index.csv", "about.yaml"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("file", ["images.npy", "masks.npy", "index.csv", "about.yaml"])
@pytest.mark.parametrize("kept", [None, 0.3])
def test_a_part_that_is_missing_or_cut_is_named(tmp_path: Path, file: str, kept: float | None) -> None:
    fill(tmp_path, count=40)
    path = tmp_path / file
    content = path.read_bytes()
    path.unlink()
    if kept is not None:
        path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(UserError, match=str(tmp_path)):
        open_packed(tmp_path)


def test_no_pickle_is_loaded(tmp_path: Path) -> None:
    fill(tmp_path)
    np.save(tmp_path / "images.npy", np.array([object()] * 3), allow_pickle=True)
    with pytest.raises(UserError, match="no complete packed arrays"):
        open_packed(tmp_path)


def test_an_unknown_geometry_is_refused_with_what_is_allowed(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "about.yaml").write_text("geometry: {name: warp}\n")
    with pytest.raises(UserError, match=r"about\.yaml\.geometry\.name = 'warp': must be one of 'resize'"):
        open_packed(tmp_path)
    (tmp_path / "about.yaml").write_text("other: 1\n")
    with pytest.raises(UserError, match=r"about\.yaml\.geometry is missing"):
        open_packed(tmp_path)


def test_arrays_of_another_kind_are_refused(tmp_path: Path) -> None:
    fill(tmp_path)
    images = np.load(tmp_path / "images.npy")
    for other in (images.astype(np.float32), images[..., 0], images[:, 1:]):
        np.save(tmp_path / "images.npy", other)
        with pytest.raises(UserError, match=r"not uint8 \(N, H, W, C\) and \(N, H, W\)"):
            open_packed(tmp_path)


def test_an_index_that_lacks_a_column_is_refused(tmp_path: Path) -> None:
    fill(tmp_path)
    index = tmp_path / "index.csv"
    index.write_text(index.read_text().replace("label", "name", 1))
    with pytest.raises(UserError, match=r"index\.csv: lacks the columns label"):
        open_packed(tmp_path)
