import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
from numpy.typing import NDArray

from medseg.core.errors import UserError
from medseg.core.parallel import MachineParams
from medseg.data.geometry import Geometry, Patchify, Resize, Scale, sample_count
from medseg.data.image import Image, images_of
from medseg.data.image_io import Pixels
from medseg.data.manifest import ManifestParams, measure
from medseg.data.packed import open_packed
from medseg.data.prepare import prepare, samples_of
from medseg.data.task import UNANNOTATED
from medseg.datasets.record import Region
from medseg.datasets.ucsb import UcsbParams
from medseg.inference.sliding_window import predict_image

MACHINE = MachineParams(workers=2, backend="threading", accelerator="cpu")
RESIZE = Resize(name="resize", channels=1, height=16, width=24, aspect="squash", small_objects="drop")
PATCHES = Patchify(name="patchify", channels=3, patch=16, stride=8, border="pad")


def gradient(root: Path, name: str, height: int, width: int, **changes: Any) -> Image:
    """A written image: red grows downwards, green to the right; the mask is its left half."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.mgrid[0:height, 0:width]
    mask = np.zeros((height, width), np.uint8)
    mask[:, : width // 2] = 1
    return tiny.image(root, f"{name}.png", pixels, mask, label=f"label {name}", **changes)


@pytest.fixture
def images(tmp_path: Path) -> list[Image]:
    """Three images of different sizes under raw/."""
    sizes = {"a": (40, 60), "b": (16, 16), "c": (33, 50)}
    return [gradient(tmp_path / "raw", name, *size) for name, size in sizes.items()]


def digest(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize(
    "geometry",
    [RESIZE, Scale(name="scale", channels=3, factor=0.5, small_objects="drop"), PATCHES],
    ids=lambda geometry: str(geometry.name),
)
def test_any_workers_and_backend_write_the_same_bytes(images: list[Image], tmp_path: Path, geometry: Geometry) -> None:
    found = []
    changes: list[dict[str, Any]] = [{"workers": 1}, {"workers": 2}, {"workers": 4}, {"backend": "loky"}]
    for number, change in enumerate(changes):
        folder = tmp_path / str(number)
        prepare(images, geometry, MACHINE.model_copy(update=change), folder)
        found.append(digest(folder))
    assert all(other == found[0] for other in found[1:])
    assert sorted(found[0]) == ["about.yaml", "images.npy", "index.csv", "masks.npy"]


def test_samples_of_every_geometry() -> None:
    image, mask = np.zeros((40, 50, 1), np.uint8), np.ones((40, 50), np.uint8)
    shapes: dict[Any, tuple[int, ...]] = {
        Resize(name="resize", channels=1, height=32, width=24, aspect="keep", small_objects="drop"): (1, 32, 24, 1),
        Scale(name="scale", channels=1, factor=0.5, small_objects="drop"): (1, 20, 25, 1),
        PATCHES.model_copy(update={"stride": 16}): (12, 16, 16, 3),
        PATCHES.model_copy(update={"stride": 16, "border": "drop"}): (6, 16, 16, 3),
        PATCHES.model_copy(update={"patch": 64, "border": "drop"}): (0, 64, 64, 3),
    }
    for geometry, shape in shapes.items():
        parts = list(samples_of(image, mask, Region(0, 0, 40, 50), geometry, (shape[1], shape[2])))
        assert sum(len(images) for images, _ in parts) == shape[0] == sample_count(40, 50, geometry)
        for images, masks in parts:
            assert images.shape[1:] == shape[1:]
            assert masks.shape == images.shape[:3]
            assert masks.dtype == images.dtype == np.uint8


GEOMETRIES = [
    RESIZE,
    tiny.frame(16, 24, "keep", channels=3),
    tiny.frame(64, 64, "squash"),
    Scale(name="scale", channels=3, factor=0.5, small_objects="drop"),
    Scale(name="scale", channels=1, factor=1.7, small_objects="drop"),
    PATCHES,
    PATCHES.model_copy(update={"border": "drop"}),
]
WINDOWS = [Region(0, 0, 40, 48), Region(7, 9, 31, 40), Region(29, 35, 40, 48), Region(20, 20, 25, 27)]


def seen_by_network(image: Pixels, geometry: Geometry) -> list[Pixels]:
    """What evaluation and prediction feed the network of an image."""
    seen: list[Pixels] = []

    def forward(pixels: Pixels) -> NDArray[np.float32]:
        seen.extend(pixels)
        return np.zeros((len(pixels), 1, *pixels.shape[1:3]), np.float32)

    predict_image(forward, image, geometry, overlap=0.5, batch_size=4)
    return seen


@pytest.mark.parametrize("geometry", GEOMETRIES[:-1], ids=str)
def test_training_and_prediction_see_the_same(geometry: Geometry, tmp_path: Path) -> None:
    """The pixels that a network gets of an image are those of its samples."""
    image = gradient(tmp_path, "a", 40, 48)
    prepare([image], geometry, MACHINE, tmp_path / "train")
    np.testing.assert_array_equal(seen_by_network(image.read()[0], geometry), open_packed(tmp_path / "train").images)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_what_is_annotated_is_trained_on_as_evaluation_feeds_it(
    geometry: Geometry, window: Region, tmp_path: Path
) -> None:
    """Every sample lies somewhere in what the network gets of the whole image, whatever window is annotated."""
    mask = np.random.default_rng(3).integers(0, 2, (40, 48), np.uint8)
    image = tiny.image(tmp_path, "a.png", tiny.noise(40, 48, 3), mask, region=window)
    try:
        prepare([image], geometry, MACHINE, tmp_path / "train")
    except UserError:
        assert isinstance(geometry, Patchify)
        assert geometry.border == "drop"
        assert min(window.size) < geometry.patch
        return
    if isinstance(geometry, Patchify):  # tiles of one pixel's stride, so that each patch is one of them
        seen = seen_by_network(image.read()[0], geometry.model_copy(update={"patch": 64}))
        whole = np.pad(image.read()[0], [(0, 24), (0, 24), (0, 0)], mode="symmetric")
        np.testing.assert_array_equal(seen[0], whole[:64, :64])
        seen = [whole]
    else:
        seen = seen_by_network(image.read()[0], geometry)
    store = open_packed(tmp_path / "train")
    for sample, truth in zip(store.images, store.masks, strict=True):
        height, width = sample.shape[:2]
        places = [
            part
            for whole in seen
            for part in np.lib.stride_tricks.sliding_window_view(whole, (height, width), (0, 1)).reshape(
                -1, sample.shape[2], height, width
            )
        ]
        assert any(np.array_equal(part, sample.transpose(2, 0, 1)) for part in places)
        assert (truth != UNANNOTATED).any()


@pytest.mark.parametrize("geometry", GEOMETRIES[:-1], ids=str)
def test_nothing_outside_the_annotated_window_is_truth(geometry: Geometry, tmp_path: Path) -> None:
    window = Region(8, 10, 32, 40)
    outside = np.ones((40, 48), np.uint8)
    window.crop(outside)[...] = 0
    images = [
        tiny.image(tmp_path, f"{name}.png", tiny.noise(40, 48), mask, region=window)
        for name, mask in (("full", np.ones_like(outside)), ("none", outside))
    ]
    prepare(images, geometry, MACHINE, tmp_path / "train")
    store = open_packed(tmp_path / "train")
    full, none = (store.masks[(store.index["file"] == f"{name}.png").to_numpy()] for name in ("full", "none"))
    assert set(np.unique(full)) <= {1, UNANNOTATED}
    assert set(np.unique(none)) <= {0, UNANNOTATED}
    np.testing.assert_array_equal(full == UNANNOTATED, none == UNANNOTATED)


def test_resized_images_stand_in_the_manifest_s_order(images: list[Image], tmp_path: Path) -> None:
    prepare(images, RESIZE, MACHINE, tmp_path / "train")
    store = open_packed(tmp_path / "train")
    assert store.images.shape == (3, 16, 24, 1)
    assert list(store.index["file"]) == ["a.png", "b.png", "c.png"]
    assert list(store.index["label"]) == ["label a", "label b", "label c"]
    assert (store.index[["top", "left", "variant"]] == 0).all(axis=None)
    assert store.masks[:, :, :12].all()
    assert not store.masks[:2, :, 12:].any()
    assert store.geometry == RESIZE


def test_smaller_scaled_images_are_padded_with_black(images: list[Image], tmp_path: Path) -> None:
    prepare(images, Scale(name="scale", channels=3, factor=0.5, small_objects="drop"), MACHINE, tmp_path / "train")
    store = open_packed(tmp_path / "train")
    assert store.images.shape == (3, 20, 30, 3)
    assert store.images[1, :8, :8].any()
    assert not store.images[1, 8:].any()
    assert not store.images[1, :, 8:].any()
    assert int((store.masks[1] == 1).sum()) == 8 * 4
    assert (store.masks[1, 8:] == UNANNOTATED).all()
    assert (store.masks[1, :, 8:] == UNANNOTATED).all()


def test_patches_hold_what_their_index_says(images: list[Image], tmp_path: Path) -> None:
    prepare(images, PATCHES, MACHINE, tmp_path / "train")
    store = open_packed(tmp_path / "train")
    assert store.index["file"].value_counts().to_dict() == {"a.png": 4 * 7, "b.png": 1, "c.png": 4 * 6}
    assert len(store.images) == 53
    row: Any
    for number, row in enumerate(store.index.itertuples()):
        assert store.images[number, 0, 0, :2].tolist() == [row.top, row.left]


def test_only_what_is_annotated_is_prepared(tmp_path: Path) -> None:
    image = gradient(tmp_path / "raw", "a", 100, 120, region=Region(30, 40, 62, 72))
    prepare([image], PATCHES.model_copy(update={"stride": 16}), MACHINE, tmp_path / "train")
    store = open_packed(tmp_path / "train")
    assert [tuple(corner) for corner in store.index[["top", "left"]].to_numpy()] == [(0, 0), (0, 16), (16, 0), (16, 16)]
    assert [patch[0, 0, :2].tolist() for patch in store.images] == [[30, 40], [30, 56], [46, 40], [46, 56]]
    assert store.images[..., 0].min() == 30
    assert store.images[..., 0].max() == 61


def whole(patches: Pixels, index: pd.DataFrame, height: int, width: int) -> Pixels:
    canvas = np.zeros((height, width, *patches.shape[3:]), np.uint8)
    for patch, (top, left) in zip(patches, index[["top", "left"]].to_numpy(), strict=True):
        part = canvas[top : top + 128, left : left + 128]
        part[...] = patch[: part.shape[0], : part.shape[1]]
    return canvas


def test_tissue_is_cut_inside_its_annotated_window_alone(samples: Path, tmp_path: Path) -> None:
    root = samples / "ucsb"
    table, _ = measure(
        UcsbParams.layout().scan(root), root, ManifestParams(bad_files="fail", duplicate_distance=14), MACHINE
    )
    geometry = Patchify(name="patchify", channels=3, patch=128, stride=64, border="pad")
    images = images_of(table.assign(split="train").head(2), root)
    prepare(images, geometry, MACHINE, tmp_path)
    store = open_packed(tmp_path)
    for image in images:
        mine = (store.index["file"] == image.file).to_numpy()
        pixels, mask = image.read_region()
        index = store.index[mine]
        np.testing.assert_array_equal(whole(store.images[mine], index, *mask.shape), pixels)
        np.testing.assert_array_equal(whole(store.masks[mine], index, *mask.shape), mask)


def test_images_smaller_than_a_patch_are_left_out_and_none_at_all_is_a_mistake(
    images: list[Image], tmp_path: Path
) -> None:
    dropping = Patchify(name="patchify", channels=1, patch=32, stride=32, border="drop")
    prepare(images, dropping, MACHINE, tmp_path / "train")
    assert list(open_packed(tmp_path / "train").index["file"]) == ["a.png", "c.png"]
    with pytest.raises(UserError, match="no image of val is as large as a patch"):
        prepare([image for image in images if image.file == "b.png"], dropping, MACHINE, tmp_path / "val")
    assert not (tmp_path / "val").exists()


def test_an_image_that_is_gone_since_is_named(images: list[Image], tmp_path: Path) -> None:
    (tmp_path / "raw" / "b.png").unlink()
    with pytest.raises(UserError, match=r"b\.png: no such file"):
        prepare(images, RESIZE, MACHINE, tmp_path / "train")
