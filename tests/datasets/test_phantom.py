"""The simulated data set: its layout, that it is reproducible, that its parameters are checked, that it is no toy."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage.filters import threshold_otsu

from medseg.core.errors import UserError
from medseg.core.parallel import MachineParams
from medseg.core.params import read_yaml, validate
from medseg.datasets.phantom import PhantomParams

MACHINE = MachineParams(workers=1, backend="threading", accelerator="cpu")
VALUES: dict[str, Any] = {
    "name": "phantom",
    "seed": 3,
    "benign": 2,
    "malignant": 2,
    "normal": 2,
    "width": [96, 128],
    "contrast": [8.0, 20.0],
    "looks": 2,
}
THRESHOLDS = range(0, 256, 5)


def params(**changes: Any) -> PhantomParams:
    checked: PhantomParams = validate({**VALUES, **changes}, PhantomParams, "data")
    return checked


def digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*.png")
    }


def read(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path))


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantom")
    params().fetch(root, MACHINE)
    return root


def test_the_layout_is_busi(written: Path) -> None:
    benign = {path.name for path in (written / "Dataset_BUSI_with_GT" / "benign").iterdir()}
    assert {"benign (1).png", "benign (1)_mask.png", "benign (2).png", "benign (2)_mask.png"} <= benign
    for path in written.rglob("*_mask*.png"):
        image = read(path.with_name(path.name.split("_mask")[0] + ".png"))
        mask = read(path)
        assert image.dtype == mask.dtype == np.uint8
        assert image.shape == mask.shape
        assert set(np.unique(mask)) == ({0} if "normal" in path.name else {0, 255})


def test_scan_finds_what_fetch_wrote(written: Path) -> None:
    records = params().scan(written)
    assert [record.label for record in records] == ["benign"] * 2 + ["malignant"] * 2 + ["normal"] * 2
    assert records[0].file == "Dataset_BUSI_with_GT/benign/benign (1).png"
    assert all(record.masks for record in records)


def test_a_second_lesion_has_a_mask_of_its_own(tmp_path: Path) -> None:
    params(benign=16, malignant=1, normal=1).fetch(tmp_path, MACHINE)
    doubles = [record for record in params().scan(tmp_path) if len(record.masks) == 2]
    assert doubles
    for record in doubles:
        first, second = (read(tmp_path / mask) > 0 for mask in record.masks)
        assert not (first & second).any()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_images(written: Path, tmp_path: Path) -> None:
    params().fetch(tmp_path / "same", MACHINE)
    params(seed=4).fetch(tmp_path / "other", MACHINE)
    assert digests(tmp_path / "same") == digests(written)
    same, other = digests(written), digests(tmp_path / "other")
    assert all(same[name] != other[name] for name in same if "_mask" not in name)


def test_workers_and_other_images_change_no_byte(written: Path, tmp_path: Path) -> None:
    params(benign=3).fetch(tmp_path, MACHINE.model_copy(update={"workers": 2, "backend": "loky"}))
    more = digests(tmp_path)
    assert {name: more[name] for name in digests(written)} == digests(written)


def test_widths_vary_within_their_range(written: Path) -> None:
    widths = {read(path).shape[1] for path in written.rglob("*.png")}
    assert len(widths) > 1
    assert min(widths) >= 96
    assert max(widths) <= 128


@pytest.fixture(scope="module")
def lesions(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """Image and union of the masks of 16 images of the default data, but for their number."""
    root = tmp_path_factory.mktemp("default")
    values = {**read_yaml(project / "conf" / "data" / "phantom.yaml"), "benign": 8, "malignant": 8, "normal": 1}
    chosen = validate(values, PhantomParams, "data")
    chosen.fetch(root, MACHINE)
    return [
        (read(root / record.file), np.any([read(root / mask) > 0 for mask in record.masks], axis=0))
        for record in params().scan(root)
        if record.label != "normal"
    ]


def test_no_otsu_threshold_finds_the_lesions(lesions: list[tuple[NDArray[np.uint8], NDArray[np.bool_]]]) -> None:
    assert np.mean([dice(image <= threshold_otsu(image), truth) for image, truth in lesions]) < 0.5  # type: ignore[no-untyped-call]


def test_no_fixed_threshold_finds_the_lesions(lesions: list[tuple[NDArray[np.uint8], NDArray[np.bool_]]]) -> None:
    scores = [np.mean([dice(image <= grey, truth) for image, truth in lesions]) for grey in THRESHOLDS]
    assert max(scores) < 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"benign": -1}, "data.benign = -1"),
        ({"width": [400, 250]}, "width = [400, 250]"),
        ({"contrast": [9.0, 3.0]}, "contrast = [9.0, 3.0]"),
        ({"width": [10, 250]}, "data.width.0 = 10"),
        ({"colour": "red"}, "data.colour is no known key"),
    ],
)
def test_a_wrong_value_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        params(**changes)
    assert message in str(error.value)
