import hashlib
import random
from pathlib import Path
from typing import Any

import albumentations as A  # noqa: N812
import cv2
import numpy as np
import pandas as pd
import pytest
import tiny
import yaml

from medseg.core.errors import UserError
from medseg.core.parallel import MachineParams
from medseg.core.params import validate
from medseg.data.augment import AugmentParams, augment, build_transform, make_variant
from medseg.data.geometry import Resize
from medseg.data.image_io import Pixels
from medseg.data.packed import create_arrays, describe_arrays, open_packed

NOTHING: dict[str, Any] = {"seed": 0, "factor": 7, **tiny.STILL}
GEOMETRIC = ("horizontal_flip", "vertical_flip", "quarter_turns", "rotate", "scale", "elastic")
PHOTOMETRIC = ("brightness_contrast", "gamma", "gaussian_noise", "blur")


def params(probability: float = 1.0, *steps: str, **values: Any) -> AugmentParams:
    """All off but `steps`, which act with `probability`."""
    changed = {
        step: {**NOTHING[step], "p": probability} if isinstance(NOTHING[step], dict) else probability for step in steps
    }
    checked: AugmentParams = validate({**NOTHING, **changed, **values}, AugmentParams, "augment")
    return checked


def blobs(side: int = 64, seed: int = 0) -> tuple[Pixels, Pixels]:
    """A grey image (side, side, 1) of dark and bright blobs, and as its mask what is bright in it."""
    coarse = np.random.default_rng(seed).random((side // 16, side // 16)) > 0.5
    mask = coarse.repeat(16, axis=0).repeat(16, axis=1).astype(np.uint8)
    return (40 + 180 * mask)[..., None].astype(np.uint8), mask


def prepared(folder: Path, count: int, height: int = 64, width: int = 64) -> Path:
    """Packed arrays of `count` samples."""
    images, masks = create_arrays(folder / "prepared", count, height, width, 1)
    for number in range(count):
        image, mask = blobs(width, number)
        images[number], masks[number] = image[:height], mask[:height]
    columns = {"label": "x", "group": "g", **tiny.UNKNOWN, "top": 0, "left": 0}
    index = pd.DataFrame({"file": [f"{number}.png" for number in range(count)], **columns})
    geometry = Resize(name="resize", channels=1, height=height, width=width, aspect="squash", small_objects="drop")
    describe_arrays(folder / "prepared", index.assign(variant=0), geometry)
    return folder / "prepared"


def machine(workers: int) -> MachineParams:
    return MachineParams(workers=workers, backend="threading", accelerator="cpu")


def digest(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def variants(chosen: AugmentParams, count: int, side: int = 64) -> list[tuple[Pixels, Pixels]]:
    transform = build_transform(chosen)
    image, mask = blobs(side)
    return [make_variant(transform, image, mask, chosen.seed, 0, variant) for variant in range(1, count + 1)]


def test_every_sample_gives_its_variants_side_by_side_the_first_as_it_was(tmp_path: Path) -> None:
    augment(prepared(tmp_path, 3), params(1.0, *GEOMETRIC, *PHOTOMETRIC), machine(1), tmp_path / "out")
    source, store = open_packed(tmp_path / "prepared"), open_packed(tmp_path / "out")
    assert store.images.shape == (21, 64, 64, 1)
    assert list(store.index["variant"]) == [0, 1, 2, 3, 4, 5, 6] * 3
    assert list(store.index["file"]) == ["0.png"] * 7 + ["1.png"] * 7 + ["2.png"] * 7
    np.testing.assert_array_equal(store.images[::7], source.images)
    np.testing.assert_array_equal(store.masks[::7], source.masks)
    assert len({image.tobytes() for image in store.images}) == 21
    assert np.unique(store.masks).tolist() == [0, 1]
    assert store.geometry == source.geometry


def test_any_number_of_workers_writes_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    source = prepared(tmp_path, 200, 32, 32)  # several chunks
    chosen = params(0.7, *GEOMETRIC, *PHOTOMETRIC, factor=3)
    runs: list[tuple[AugmentParams, int]] = [(chosen, 1), (chosen, 8), (chosen, 3)]
    runs.append((chosen.model_copy(update={"seed": 1}), 8))
    found = []
    for number, (values, workers) in enumerate(runs):
        np.random.seed(number)  # global random states must not matter
        augment(source, values, machine(workers), tmp_path / str(number))
        found.append(digest(tmp_path / str(number)))
    assert found[0] == found[1] == found[2]
    assert found[3]["images.npy"] != found[0]["images.npy"]
    assert found[3]["masks.npy"] != found[0]["masks.npy"]
    assert found[3]["index.csv"] == found[0]["index.csv"]


@pytest.mark.parametrize("channels", [1, 3])
def test_rotation_and_zoom_are_those_of_albumentations(channels: int) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 56, channels), dtype=np.uint8)
    mask = (image[..., 0] > 100).astype(np.uint8)
    theirs = [
        A.Rotate(limit=30, border_mode=cv2.BORDER_REFLECT_101, p=1),
        A.Affine(scale=(0.7, 1.3), keep_ratio=True, border_mode=cv2.BORDER_REFLECT_101, p=1),
    ]
    for step, own in zip(theirs, ("rotate", "scale"), strict=True):
        for number in range(10):
            found = make_variant(build_transform(params(1.0, own)), image, mask, 0, 0, number + 1)
            place = {"rotate": 3, "scale": 4}[own]  # in build_transform's order, which decides the stream
            state = np.random.SeedSequence((0, 0, number + 1)).generate_state(10)[place]
            step.py_random = random.Random(int(state))
            expected = step(image=image, mask=mask)
            np.testing.assert_array_equal(found[0], expected["image"])
            np.testing.assert_array_equal(found[1], expected["mask"])


def test_a_variant_can_be_made_again_alone(tmp_path: Path) -> None:
    source = open_packed(prepared(tmp_path, 4))
    chosen = params(0.5, *GEOMETRIC, *PHOTOMETRIC)
    augment(tmp_path / "prepared", chosen, machine(2), tmp_path / "out")
    image, mask = make_variant(build_transform(chosen), source.images[3], source.masks[3], chosen.seed, 3, 5)
    store = open_packed(tmp_path / "out")
    np.testing.assert_array_equal(image, store.images[3 * 7 + 5])
    np.testing.assert_array_equal(mask, store.masks[3 * 7 + 5])


def test_with_all_probabilities_zero_all_variants_are_the_original() -> None:
    image, mask = blobs()
    for changed, changed_mask in variants(params(), 6):
        np.testing.assert_array_equal(changed, image)
        np.testing.assert_array_equal(changed_mask, mask)


@pytest.mark.parametrize("step", GEOMETRIC)
def test_geometric_steps_move_image_and_mask_alike(step: str) -> None:
    image, mask = blobs()
    found = variants(params(1.0, step), 12)
    assert any((changed_mask != mask).any() for _, changed_mask in found)
    for changed, changed_mask in found:
        assert (changed.shape, changed_mask.shape) == (image.shape, mask.shape)
        agreeing = (changed[..., 0] > 130) == (changed_mask == 1)
        assert agreeing.mean() > 0.97  # edges fall on either side where the image is interpolated
        assert set(np.unique(changed_mask)) <= {0, 1}


@pytest.mark.parametrize("step", ["horizontal_flip", "vertical_flip", "quarter_turns"])
def test_flips_and_turns_only_move_pixels(step: str) -> None:
    image, _ = blobs()
    expected = {
        "horizontal_flip": [image[:, ::-1]],
        "vertical_flip": [image[::-1]],
        "quarter_turns": [np.rot90(image, turns) for turns in range(4)],
    }[step]
    for changed, changed_mask in variants(params(1.0, step), 8):
        assert any(np.array_equal(changed, wanted) for wanted in expected)
        np.testing.assert_array_equal(changed[..., 0] == 220, changed_mask == 1)


@pytest.mark.parametrize("step", PHOTOMETRIC)
def test_photometric_steps_leave_the_mask_alone_and_change_the_image(step: str) -> None:
    image, mask = blobs()
    found = variants(params(1.0, step), 6)
    assert any((changed != image).any() for changed, _ in found)
    for changed, changed_mask in found:
        assert changed.shape == image.shape
        assert changed.dtype == np.uint8
        np.testing.assert_array_equal(changed_mask, mask)


def test_every_step_is_drawn_on_its_own() -> None:
    """Steps of equal probability act independently: each pair acts together about a quarter of the time."""
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)[..., None]
    transform = build_transform(params(0.5, "horizontal_flip", "vertical_flip"))
    ways = {"none": image, "left-right": image[:, ::-1], "up-down": image[::-1], "both": image[::-1, ::-1]}
    counts = dict.fromkeys(ways, 0)
    for variant in range(1, 801):
        changed, _ = make_variant(transform, image, image[..., 0], 0, 0, variant)
        counts[next(name for name, wanted in ways.items() if np.array_equal(changed, wanted))] += 1
    assert all(150 < count < 250 for count in counts.values()), counts  # 200 expected, deviation 12


def test_turning_a_step_off_leaves_the_draws_of_the_others() -> None:
    both = variants(params(0.5, "horizontal_flip", "gaussian_noise"), 20)
    flip = variants(params(0.5, "horizontal_flip"), 20)
    assert all(np.array_equal(mask, other) for (_, mask), (_, other) in zip(both, flip, strict=True))


def test_probabilities_are_met() -> None:
    image, _ = blobs()
    acted = sum((changed != image).any() for changed, _ in variants(params(0.3, "brightness_contrast"), 400))
    assert 80 < acted < 160  # 120 expected, deviation 9


def test_limits_are_kept() -> None:
    grey = np.full((64, 64, 1), 100, np.uint8)
    square = np.zeros((65, 65), np.uint8)
    square[22:43, 22:43] = 1
    for variant in range(1, 30):
        bright = params(1.0, "brightness_contrast", brightness_contrast={"p": 1.0, "brightness": 0.2, "contrast": 0.0})
        changed, _ = make_variant(build_transform(bright), grey, grey[..., 0], 0, 0, variant)
        assert abs(int(changed[0, 0, 0]) - 100) <= 0.2 * 255 + 1
        _, zoomed = make_variant(build_transform(params(1.0, "scale")), square[..., None], square, 0, 0, variant)
        rows, columns = np.flatnonzero(zoomed.any(axis=1)), np.flatnonzero(zoomed.any(axis=0))
        assert abs(len(rows) - len(columns)) <= 1  # one factor for both sides
        assert 0.7 * 21 - 1 <= len(rows) <= 1.3 * 21 + 1
        assert abs(rows.mean() - 32) <= 1


def test_noise_has_at_most_the_deviation_asked_for() -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)
    transform = build_transform(params(1.0, "gaussian_noise"))
    found = [make_variant(transform, grey, grey[..., 0], 0, 0, variant)[0] for variant in range(1, 30)]
    deviations = [float(changed.astype(float).std()) for changed in found]
    assert max(deviations) <= 0.1 * 255 * 1.05
    assert max(deviations) > 0.05 * 255
    assert abs(np.mean([changed.mean() for changed in found]) - 128) < 1


def test_elastic_moves_pixels_as_far_as_its_docstring_says() -> None:
    """Pixels of a ramp move by what their values change: alpha / (15 sigma) pixels in the root mean square."""
    ramp = np.tile(np.arange(20, 220, 2, dtype=np.uint8), (100, 1))[..., None]
    chosen = params(1.0, "elastic", elastic={"p": 1.0, "alpha": 270, "sigma": 6})
    moved = np.stack([changed for changed, _ in (_variant(chosen, ramp, number) for number in range(1, 9))]).astype(
        float
    )
    inside = (moved - ramp)[:, 20:80, 20:80] / 2
    assert 2 < float(np.sqrt((inside**2).mean())) < 5  # 3 by the formula


def _variant(chosen: AugmentParams, image: Pixels, number: int) -> tuple[Pixels, Pixels]:
    return make_variant(build_transform(chosen), image, image[..., 0], 0, 0, number)


def test_quarter_turns_of_images_that_are_not_square_are_refused(tmp_path: Path) -> None:
    oblong = prepared(tmp_path, 2, height=32)
    with pytest.raises(UserError, match=r"augment\.quarter_turns = 0\.5: must be 0 .* not square \(64x32\)"):
        augment(oblong, params(0.5, "quarter_turns"), machine(1), tmp_path / "out")
    augment(oblong, params(0.5, "vertical_flip"), machine(1), tmp_path / "out")


@pytest.mark.parametrize(
    ("section", "extremes"),
    [
        ("rotate", [{"degrees": 0}, {"degrees": 180}]),
        ("scale", [{"share": 0}, {"share": 0.99}]),
        ("elastic", [{"alpha": 0.01, "sigma": 1}, {"alpha": 1000, "sigma": 50}]),
        ("brightness_contrast", [{"brightness": 0, "contrast": 0}, {"brightness": 1, "contrast": 1}]),
        ("gamma", [{"percent": 1}, {"percent": 99}]),
        ("gaussian_noise", [{"deviation": 0}, {"deviation": 1}]),
        ("blur", [{"sigma": 0.1}, {"sigma": 16}]),
    ],
)
@pytest.mark.filterwarnings("error")
def test_the_ends_of_every_range_work_without_a_warning(section: str, extremes: list[dict[str, float]]) -> None:
    for values in extremes:
        changed, mask = _variant(params(1.0, section, **{section: {"p": 1.0, **values}}), blobs()[0], 1)
        assert changed.shape == (64, 64, 1)
        assert mask.shape == (64, 64)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("factor", 0),
        ("horizontal_flip", 1.1),
        ("elastic", {"p": 0.5, "alpha": 30, "sigma": 0.5}),
        ("blur", {"p": 0.5, "sigma": 0.05}),
        ("gamma", {"p": 0.5, "percent": 100}),
        ("scale", {"p": 0.5, "share": 1}),
        ("rotate", {"p": -0.1, "degrees": 5}),
        ("seed", -1),
    ],
)
def test_values_out_of_range_are_refused_before_any_work(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"^augment.{key}"):
        params(**{key: value})


@pytest.mark.filterwarnings("error")
def test_the_project_s_own_choices_are_valid(project: Path) -> None:
    for path in (project / "conf" / "augment").glob("*.yaml"):
        build_transform(validate(yaml.safe_load(path.read_text()), AugmentParams, path.name))
