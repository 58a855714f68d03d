"""`medseg predict`: which images, what is written for each, and what happens to those that fail."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import tiny
from PIL import Image
from small_predictors import PLAIN, TILES, bright

from medseg.core.errors import UserError
from medseg.data.colours import PREDICTION
from medseg.data.image import images_of
from medseg.data.image_io import FORMATS, SUFFIXES, Pixels, write_png
from medseg.data.intensity import Window
from medseg.data.task import TaskParams
from medseg.evaluation.evaluate import evaluate
from medseg.inference.backends import open_model
from medseg.inference.crf import CrfParams
from medseg.inference.onnx_export import export
from medseg.inference.postprocess import Probabilities
from medseg.inference.predict import check_out, find_images, name_images, predict_images
from medseg.inference.prediction_files import read_prediction
from medseg.inference.predictor import Predictor
from medseg.metrics.counting import CountingParams
from medseg.models.checkpoint import save_bundle
from medseg.models.model_yaml import DESCRIPTION, WEIGHTS
from medseg.models.network import build_model
from medseg.models.params import UnetPlain

FOLDERS = ["contours", "masks", "overlays", "probabilities"]


def three(pixels: Pixels) -> Probabilities:
    """Malignant where it is bright, benign where it is grey."""
    probability = bright(pixels)
    grey = np.where((probability > 0.3) & (probability < 0.7), np.float32(0.6), np.float32(0))
    malignant = np.where(probability >= 0.7, np.float32(0.8), np.float32(0))
    return np.concatenate([1 - grey - malignant, grey, malignant], axis=1)


def model(task: TaskParams = tiny.BINARY, **choices: Any) -> Predictor:
    """A network that needs no training, on tiles of 32 pixels."""
    return Predictor(tiny.segmenter(TILES, task=task, **choices), bright if task.logits == 1 else three)


def draw(path: Path, height: int = 40, width: int = 60) -> Path:
    """A black image with a white square of 100 pixels."""
    image = np.zeros((height, width, 1), np.uint8)
    image[5:15, 20:30] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image[..., 0]).save(path)
    return path


def table(out: Path) -> list[dict[str, str]]:
    with (out / "predictions.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_an_image_gives_mask_probabilities_contours_overlay_and_a_row(tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_images(model(), [draw(tmp_path / "a.png")], out)
    assert files(out) == [
        "contours/a.geojson",
        "masks/a.png",
        "overlays/a.png",
        "predictions.csv",
        "probabilities/a.png",
    ]
    expected = np.zeros((40, 60), np.uint8)
    expected[5:15, 20:30] = 1
    np.testing.assert_array_equal(np.asarray(Image.open(out / "masks/a.png")), expected * 255)
    np.testing.assert_array_equal(np.asarray(Image.open(out / "probabilities/a.png")), expected.astype(int) * 65535)
    [feature] = json.loads((out / "contours/a.geojson").read_text())["features"]
    assert feature["geometry"]["coordinates"] == [[[20, 5], [30, 5], [30, 15], [20, 15], [20, 5]]]
    overlay = np.asarray(Image.open(out / "overlays/a.png"))
    assert overlay.shape == (40, 60, 3)
    assert int((overlay == PREDICTION).all(axis=-1).sum()) == 4 * 9  # the border of a square of 10 x 10
    assert table(out) == [
        {"file": str(tmp_path / "a.png"), "name": "a", "width": "60", "height": "40"}
        | {
            "foreground_pixels": "100",
            "foreground_share": "0.041667",
            "foreground_objects": "1",
            "foreground_counted": "1",
        }
    ]


def test_several_classes_have_codes_and_columns_of_their_own(tmp_path: Path) -> None:
    image = np.zeros((32, 64, 1), np.uint8)
    image[:8, :8], image[20:, 40:50], image[0, 60] = 128, 255, 128
    write_png(tmp_path / "a.png", image)
    out = tmp_path / "out"
    predict_images(model(tiny.LESIONS), [tmp_path / "a.png"], out)
    codes = read_prediction(out / "masks/a.png", tiny.LESIONS)
    assert [int((codes == code).sum()) for code in (1, 2)] == [65, 120]
    [row] = table(out)
    assert [row[f"{name}_pixels"] for name in ("benign", "malignant")] == ["65", "120"]
    assert [row[f"{name}_objects"] for name in ("benign", "malignant")] == ["2", "1"]
    for code, value in ((1, 0.6), (2, 0.8)):
        plane = np.asarray(Image.open(out / f"probabilities/{code}/a.png"))
        assert set(np.unique(plane[codes == code])) == {round(value * 65535)}
        assert set(np.unique(plane[codes == 0])) == {0}


@pytest.mark.parametrize("kind", ["grey", "colour", "alpha", "16 bits", "16-bit tiff", "palette", "jpeg"])
def test_images_of_every_kind_and_size_are_predicted(kind: str, tmp_path: Path) -> None:
    image: Image.Image = Image.open(draw(tmp_path / "drawn.png", 37, 101))
    modes = {"colour": "RGB", "alpha": "RGBA", "palette": "P"}
    if kind.startswith("16"):
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    path = tmp_path / {"jpeg": "a.jpg", "16-bit tiff": "a.tif"}.get(kind, "a.png")
    image.convert(modes.get(kind, image.mode)).save(path)
    predict_images(model(), [path], tmp_path / "out")
    [row] = table(tmp_path / "out")
    assert (row["width"], row["height"], row["foreground_objects"]) == ("101", "37", "1")
    assert abs(int(row["foreground_pixels"]) - 100) <= (20 if kind == "jpeg" else 0)


def test_a_large_image_has_a_small_overlay_and_a_whole_mask(tmp_path: Path) -> None:
    predict_images(model(), [draw(tmp_path / "a.png", 20, 3200)], tmp_path / "out")
    assert Image.open(tmp_path / "out/overlays/a.png").size == (1600, 10)
    assert Image.open(tmp_path / "out/masks/a.png").size == (3200, 20)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (1, 70)])
def test_the_smallest_images_are_predicted(size: tuple[int, int], tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.full((*size, 3), 255, np.uint8))
    predict_images(model(), [tmp_path / "a.png"], tmp_path / "out")
    [row] = table(tmp_path / "out")
    assert (row["width"], row["height"]) == (str(size[1]), str(size[0]))
    assert (row["foreground_share"], row["foreground_objects"]) == ("1.0", "1")


def test_masks_are_made_as_val_chose(tmp_path: Path) -> None:
    image = np.zeros((40, 60), np.uint8)
    image[5:15, 20:30], image[8, 25], image[30:33, 30:33], image[36:39, 40:45] = 255, 0, 255, 120
    write_png(tmp_path / "a.png", image)
    chosen = model(threshold=0.4, fill_holes=True, smallest_object=10, test_time_augmentation="flips_and_turns")
    predict_images(chosen, [tmp_path / "a.png"], tmp_path / "out")
    expected = np.zeros((40, 60), np.uint8)
    expected[5:15, 20:30] = expected[36:39, 40:45] = 1  # the hole is filled, 9 pixels are dropped, 120 of 255 found
    np.testing.assert_array_equal(read_prediction(tmp_path / "out/masks/a.png", tiny.BINARY), expected)


def test_a_mask_is_the_one_that_evaluation_scores(tmp_path: Path) -> None:
    chosen = model(threshold=0.3, largest_component=True, test_time_augmentation="flips")
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 1), np.uint8)
    rows = pd.DataFrame([tiny.row(tmp_path, "a.png", noise, np.ones((50, 70), np.uint8))])
    evaluate(chosen, images_of(rows, tmp_path), 3, tmp_path / "scored")
    predict_images(chosen, [tmp_path / "a.png"], tmp_path / "out")
    assert (tmp_path / "out/masks/a.png").read_bytes() == (tmp_path / "scored/masks/a.png").read_bytes()


def test_images_are_read_in_the_range_that_the_model_records(tmp_path: Path) -> None:
    shades = np.random.default_rng(0).integers(0, 256, (40, 60), np.uint16)
    for name, values in (("8 bits", shades.astype(np.uint8)), ("12 bits", shades * 16 + 9)):
        (tmp_path / name).mkdir()
        Image.fromarray(values).save(tmp_path / name / "a.png")
    plain = model(threshold=0.4)
    declared = Window(name="window", bits=16, low=9, high=9 + 16 * 255)
    recorded = Predictor(plain.description.model_copy(update={"intensity": declared}), bright)
    predict_images(plain, [tmp_path / "8 bits" / "a.png"], tmp_path / "expected")
    predict_images(recorded, [tmp_path / "12 bits" / "a.png"], tmp_path / "out")
    for part in ("masks/a.png", "probabilities/a.png", "overlays/a.png", "contours/a.geojson"):
        assert (tmp_path / "out" / part).read_bytes() == (tmp_path / "expected" / part).read_bytes()
    with pytest.raises(
        UserError, match=r"a\.png: holds 8-bit values, and the range of intensities, 9 to 4089, is of 16"
    ):
        predict_images(recorded, [tmp_path / "8 bits" / "a.png"], tmp_path / "out")


def test_objects_are_counted_by_the_rule_for_predictions(tmp_path: Path) -> None:
    image = np.zeros((60, 90), np.uint8)
    cv2.circle(image, (20, 30), 12, (255,), cv2.FILLED)
    cv2.circle(image, (40, 30), 12, (255,), cv2.FILLED)  # touches the first
    image[50:52, 80:82] = 255
    write_png(tmp_path / "a.png", image)
    plain = model().description
    rule = CountingParams(smallest=10, split=True, depth=1.0)
    counting = plain.scoring.counting.model_copy(update={"prediction": rule})
    described = plain.model_copy(update={"scoring": plain.scoring.model_copy(update={"counting": counting})})
    predict_images(Predictor(described, bright), [tmp_path / "a.png"], tmp_path / "out")
    [row] = table(tmp_path / "out")
    assert (row["foreground_objects"], row["foreground_counted"]) == ("2", "2")
    assert int(row["foreground_pixels"]) == int((image > 0).sum())


def test_a_package_for_a_chosen_step_that_is_missing_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    crf = CrfParams(
        iterations=1,
        gaussian_sigma=3,
        gaussian_weight=3,
        bilateral_sigma=40,
        bilateral_colour=10,
        bilateral_weight=5,
    )
    with pytest.raises(UserError, match="pydensecrf2"):
        predict_images(model(crf=crf), [draw(tmp_path / "a.png"), draw(tmp_path / "b.png")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_image_that_fails_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    images = [draw(tmp_path / "a.png"), tmp_path / "b.png", tmp_path / "c.png", draw(tmp_path / "d.png")]
    images[1].write_bytes(b"no image")
    images[2].write_bytes(images[0].read_bytes()[:60])
    with pytest.raises(UserError) as raised:
        predict_images(model(), images, tmp_path / "out")
    first, *faults = str(raised.value).splitlines()
    assert first.startswith("2 of 4 images failed")
    assert [fault.split(":")[0].strip() for fault in faults] == [str(path) for path in images[1:3]]
    assert [row["name"] for row in table(tmp_path / "out")] == ["a", "d"]


def test_lack_of_memory_for_one_image_does_not_end_the_others(tmp_path: Path) -> None:
    def forward(pixels: Pixels) -> Probabilities:
        if pixels.shape[0] > 1:
            raise RuntimeError("out of memory")
        return bright(pixels)

    images = [draw(tmp_path / "large.png", 200, 200), draw(tmp_path / "small.png", 30, 31)]
    with pytest.raises(UserError, match=r"1 of 2 images failed(.|\n)*large\.png: out of memory"):
        predict_images(Predictor(model().description, forward), images, tmp_path / "out")
    assert [row["name"] for row in table(tmp_path / "out")] == ["small"]


def test_a_name_that_the_table_cannot_hold_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    good, bad = draw(tmp_path / "good.png"), Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.png"))
    shutil.copy(good, bad)
    with pytest.raises(UserError, match=r"1 of 2 images failed(.|\n)*its name is no UTF-8"):
        predict_images(model(), [bad, good], tmp_path / "out")
    assert [row["name"] for row in table(tmp_path / "out")] == ["good"]


def test_the_longest_names_are_predicted(tmp_path: Path) -> None:
    image = draw(tmp_path / f"{'é' * 123}.png")  # 250 bytes
    predict_images(model(), [image], tmp_path / "out")
    assert len(files(tmp_path / "out")) == 5


def test_images_with_one_stem_do_not_overwrite_one_another(tmp_path: Path) -> None:
    names = ["a.png", "a.tif", "a.tif.png", "deep/a.png", "deep/b.png"]  # more in tests/data/test_output_names.py
    images = [draw(tmp_path / name, 40 + number) for number, name in enumerate(names)]
    predict_images(model(), images, tmp_path / "out")
    rows = table(tmp_path / "out")
    assert len({row["name"] for row in rows}) == 5
    for number, row in enumerate(rows):
        assert Image.open(tmp_path / "out/masks" / f"{row['name']}.png").size == (60, 40 + number)
    assert name_images(images)[images[4]] == "deep/b"


def test_names_begin_below_the_folder_that_all_images_share(tmp_path: Path) -> None:
    images = [tmp_path / "x" / "day1" / "a.png", tmp_path / "x" / "day2" / "a.png"]
    assert list(name_images(images).values()) == ["day1/a", "day2/a"]
    assert name_images(images[:1]) == {images[0]: "a"}


def test_folders_are_searched_to_any_depth_for_images_alone(tmp_path: Path) -> None:
    wanted = [draw(tmp_path / name) for name in ("B.PNG", "a.png", "deep/er/c.tif")]
    draw(tmp_path / ".hidden" / "d.png")
    draw(tmp_path / "._a.png")
    (tmp_path / "notes.txt").write_text("no image")
    assert find_images([str(tmp_path)], tmp_path / "out") == wanted


def test_files_and_patterns_are_taken_as_they_are_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [draw(tmp_path / name) for name in ("a.png", "b.png", "deep/a.png", "odd[1].png")]
    (tmp_path / "scan").write_bytes(paths[0].read_bytes())
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    assert find_images(["*.png"], out) == [paths[0], paths[1], paths[3]]
    assert find_images(["**/a.png", str(tmp_path / "*" / "a.png"), "deep/../a.png"], out) == [paths[0], paths[2]]
    assert find_images(["scan", "odd[1].png"], out) == [paths[3], tmp_path / "scan"]


def test_linked_folders_are_searched_and_an_image_is_taken_once_however_it_is_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans, far = tmp_path / "scans", tmp_path / "far"
    wanted = [draw(scans / "a.png"), draw(far / "deep/b.png")]
    (scans / "linked").symlink_to(far)
    (scans / "z.png").symlink_to(wanted[0])  # a link to a file is an image of its own
    inside = [scans / "a.png", scans / "linked/deep/b.png", scans / "z.png"]
    monkeypatch.chdir(tmp_path)
    for arguments in (
        ["scans"],
        ["scans/**/*.png"],
        ["scans", "scans/linked", "scans/linked/../scans/a.png", "**/?.png"],
    ):
        assert sorted(map(os.path.realpath, find_images(arguments, tmp_path / "out"))) == sorted(
            map(os.path.realpath, inside)
        )
    assert find_images(["scans"], tmp_path / "out") == inside
    (far / "back").symlink_to(scans)
    with pytest.raises(UserError, match="leads back"):
        find_images(["scans"], tmp_path / "out")


def test_every_kind_of_image_that_can_be_read_is_found_in_a_folder(tmp_path: Path) -> None:
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS}
    assert known - SUFFIXES == {".apng", ".pfm"}  # animated; floating-point
    assert known >= SUFFIXES
    for suffix in SUFFIXES:
        draw(tmp_path / f"a{suffix}")
    assert len(find_images([str(tmp_path)], tmp_path / "out")) == len(SUFFIXES)


@pytest.mark.parametrize("place", ["scans", "link", "link/deep"])
def test_images_that_lie_in_the_folder_to_write_to_are_not_predicted_and_it_is_told(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as the truth in scans/masks, which masks would replace."""
    images = [draw(tmp_path / "scans/deep" / name) for name in ("images/a.png", "masks/a.png")]
    before = [image.read_bytes() for image in images]
    (tmp_path / "link").symlink_to("scans")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"scans/deep: all images lie in --out {place}"):
        find_images(["scans/deep"], Path(place))
    with pytest.raises(UserError, match="holds masks that no prediction wrote"):
        predict_images(model(), images, tmp_path / "link/deep")
    assert [image.read_bytes() for image in images] == before


def test_no_image_is_replaced_through_a_link_among_earlier_predictions(tmp_path: Path) -> None:
    image, out = draw(tmp_path / "scans/a.png"), tmp_path / "out"
    predict_images(model(), [image], out)
    shutil.rmtree(out / "masks")
    (out / "masks").symlink_to(image.parent)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.png").symlink_to(image)  # the same image by another way
    before = image.read_bytes()
    for path in (image, tmp_path / "elsewhere/a.png"):
        with pytest.raises(UserError, match=f"--out: {out}/masks/a.png is one of the images"):
            predict_images(model(), [path], out)
        assert image.read_bytes() == before
    assert [row["name"] for row in table(out)] == ["a"]


def test_two_processes_do_not_mix_what_they_write(tmp_path: Path) -> None:
    image, out = draw(tmp_path / "a.png"), tmp_path / "out"
    told = []

    def forward(pixels: Pixels) -> Probabilities:
        """While this predicts, another one comes."""
        with pytest.raises(UserError) as raised:
            predict_images(model(), [image], out)
        told.append(str(raised.value))
        return bright(pixels)

    predict_images(Predictor(model().description, forward), [image], out)
    assert told
    assert {line.split(";")[0] for line in told} == {f"{out}: another process is writing there"}
    assert len(files(out)) == 5


def test_until_all_are_done_the_table_says_nothing(tmp_path: Path) -> None:
    images, out = [draw(tmp_path / "a.png"), draw(tmp_path / "b.png")], tmp_path / "out"
    predict_images(model(), images, out)

    def forward(_: Pixels) -> Probabilities:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_images(Predictor(model().description, forward), images, out)
    assert table(out) == []
    predict_images(model(), images, out)
    assert len(table(out)) == 2


@pytest.mark.parametrize("place", ["a.png", "a.png/out", "loop", "x" * 300])
def test_a_place_that_can_be_no_folder_is_refused_before_the_model_is_read(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path / "a.png")
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"^--out {place}: "):
        check_out(Path(place))
    with pytest.raises(UserError, match=f"^--out {place}: "):
        predict_images(model(), [tmp_path / "a.png"], Path(place))


def test_what_was_predicted_is_not_predicted_again(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    out = tmp_path / "out"
    predict_images(model(), find_images([str(tmp_path)], out), out)
    before = files(out)
    assert find_images([str(tmp_path)], out) == [tmp_path / "a.png"]
    predict_images(model(), find_images([str(tmp_path)], out), out)
    assert files(out) == before


@pytest.mark.parametrize("argument", ["missing.png", "*.tif", "empty", "", "x" * 300, "loop"])
def test_no_image_is_one_message(argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    draw(tmp_path / "a.png")  # which an empty name would find
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no image found|no such image|name too long"):
        find_images([argument], tmp_path / "out")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder and, beside it, the same as ONNX."""
    root = tmp_path_factory.mktemp("trained")
    tiny.save_model(root / "segmenter", build_model(PLAIN, 1, 1).eval(), tiny.segmenter(model=PLAIN))
    export(root / "segmenter", root / "segmenter.onnx")
    return root


@pytest.mark.parametrize("part", [WEIGHTS, DESCRIPTION])
def test_a_model_folder_that_lacks_a_file_is_told(part: str, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "segmenter", tmp_path / "model")
    (tmp_path / "model" / part).unlink()
    with pytest.raises(UserError, match=part):
        open_model(tmp_path / "model", None, "cpu")


def test_the_weights_of_another_network_are_told(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "segmenter", tmp_path / "model")
    wider = UnetPlain(name="unet_plain", init_features=3, input_mean=[0.5], input_std=[0.5])
    save_bundle(tmp_path / "other", build_model(wider, 1, 1), tiny.segmenter(model=wider))
    shutil.copy(tmp_path / "other" / WEIGHTS, tmp_path / "model")
    with pytest.raises(UserError, match=r"does not fit the network of model\.yaml: layer"):
        open_model(tmp_path / "model", None, "cpu")


def test_a_network_without_choices_is_no_model_to_predict_with(tmp_path: Path) -> None:
    save_bundle(tmp_path / "network", build_model(PLAIN, 1, 1), tiny.description(model=PLAIN))
    with pytest.raises(UserError, match=r"describes a network alone.*models/segmenter"):
        open_model(tmp_path / "network", None, "cpu")


@pytest.mark.parametrize(
    ("name", "content", "runtime", "message"),
    [
        ("none", None, None, "no such model folder or ONNX file"),
        ("a.onnx", b"", None, "not readable as ONNX"),
        ("a.onnx", b"nothing of the kind", None, "not readable as ONNX"),
        ("a.onnx", b"", "torch", "a file runs with --runtime onnx"),
        (".", None, "onnx", "holds 0 ONNX files"),
    ],
)
def test_no_model_is_one_message(tmp_path: Path, name: str, content: bytes | None, runtime: Any, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        open_model(tmp_path / name, runtime, "cpu")


def test_a_folder_runs_by_torch_and_by_the_onnx_file_in_it(trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained / "segmenter", tmp_path / "model")
    shutil.copy(trained / "segmenter.onnx", folder)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 1), np.uint8)
    found = [open_model(folder, runtime, "cpu").forward(pixels) for runtime in (None, "torch", "onnx")]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], found[2], rtol=0, atol=1e-4)


def medseg(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys\n"
        "from medseg.cli import app\n"
        "app(standalone_mode=False)\n"
        "print([name for name in ('torch', 'torchvision', 'pandas', 'joblib') if name in sys.modules])\n"
    )
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_an_onnx_file_runs_without_torch_and_pandas_and_writes_nothing_elsewhere(trained: Path, tmp_path: Path) -> None:
    draw(tmp_path / "in" / "a.png")
    path = shutil.copy(trained / "segmenter.onnx", tmp_path)
    done = medseg("predict", "in", "--model", str(path), "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["1 image predicted, written to out", "[]"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out", "segmenter.onnx"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*FOLDERS, "predictions.csv"])
    assert files(tmp_path / "in") == ["a.png"]


def test_a_failed_image_ends_the_command_with_1(trained: Path, tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    arguments = ["-m", "medseg", "predict", ".", "--model", str(trained / "segmenter.onnx"), "--out", "out"]
    done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "error: 1 of 2 images failed" in done.stderr
    assert "b.png: not readable as an image" in done.stderr
    assert "Traceback" not in done.stderr
    assert [row["name"] for row in table(tmp_path / "out")] == ["a"]


def test_a_table_that_no_prediction_wrote_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "predictions.csv").write_text("patient,age\n1,50\n")
    with pytest.raises(UserError, match=r"its predictions\.csv is none that a prediction wrote"):
        check_out(tmp_path)
    (tmp_path / "predictions.csv").write_text("")  # of one that did not end
    check_out(tmp_path)
