"""`medseg evaluate`: a model against images that it knows nothing of."""

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

from medseg.cli import app, main
from medseg.core.errors import UserError
from medseg.core.params import read_yaml
from medseg.data.image_io import write_png
from medseg.data.manifest import read_manifest
from medseg.data.task import Multiclass
from medseg.data.training_images import no_images, training_images, write_training_images
from medseg.datasets import LAYOUTS
from medseg.evaluation.evaluate import evaluate
from medseg.evaluation.external import (
    BATCH_SIZE,
    DUPLICATE_DISTANCE,
    WRITTEN,
    evaluate_external,
    folder_data,
)
from medseg.inference.onnx_export import export
from medseg.inference.predictor import Predictor
from medseg.inference.settings import SegmenterDescription
from medseg.inference.torch_backend import network_forward
from medseg.models.checkpoint import load_bundle
from medseg.models.network import build_model

SIZES = {"a": (40, 50), "b": (33, 35), "c": (64, 48), "d": (50, 60)}
IMAGES, MASKS = "images/{name}.png", "masks/{name}*.png"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def write_model(folder: Path, **choices: Any) -> Path:
    """A segmenter with a small network of random weights."""
    torch.manual_seed(0)
    description = tiny.segmenter(uncertainty="flips", **choices)
    tiny.save_model(folder, build_model(tiny.unet(), 1, description.task.logits), description)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model", threshold=0.45, fill_holes=True)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four images; nothing is annotated in the last one, and the mask of the second lies in two files."""
    folder = tmp_path / "study"
    for number, (name, size) in enumerate(SIZES.items()):
        pixels, mask = tiny.square(number, *size)
        write_png(folder / "images" / f"{name}.png", pixels)
        mask *= np.uint8(0 if name == "d" else 255)
        parts = np.array_split(mask, 2) if name == "b" else [mask]
        for part, rows in enumerate(parts):
            whole = np.zeros_like(mask)
            start = sum(len(above) for above in parts[:part])
            whole[start : start + len(rows)] = rows
            write_png(folder / "masks" / f"{name}_{part}.png", whole)
    return folder


def score(model: Path, data: Path, out: Path, **changes: Any) -> str:
    images, masks = changes.pop("images", IMAGES), changes.pop("masks", MASKS)
    source = folder_data(images, masks, changes.pop("label", None), changes.pop("patient", None))
    return evaluate_external(model, source, data, out, changes.pop("skip_bad", False), "cpu")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_scores_are_those_of_the_evaluation_of_the_same_images(model: Path, data: Path, tmp_path: Path) -> None:
    text = score(model, data, tmp_path / "out")
    images = []
    for number, (name, size) in enumerate(SIZES.items()):
        pixels, mask = tiny.square(number, *size)
        images.append(tiny.image(tmp_path / "raw", f"images/{name}.png", pixels, mask * np.uint8(name != "d")))
    network, description = load_bundle(model, SegmenterDescription)
    segmenter = Predictor(description, network_forward(network, description.task, torch.device("cpu")))
    found = evaluate(segmenter, images, 3, tmp_path / "expected")
    table = pd.read_csv(tmp_path / "out" / "per_image.csv")
    own = ["label", "group"]  # that rows of a test are given, and scanned ones find
    pd.testing.assert_frame_equal(table.drop(columns=own), found.table.drop(columns=own), check_dtype=False)
    masks = [tmp_path / place / "masks" / "images" / "b.png" for place in ("out", "expected")]
    assert masks[0].read_bytes() == masks[1].read_bytes()
    dice = found.table["dice"].mean()
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["dice"] == pytest.approx(dice, abs=1e-6)
    assert f"| all | 3 | 3 | {int((found.table['recall'] == 0).sum())} | {dice:.3f} (" in text


def test_images_are_read_in_the_range_that_the_model_records(model: Path, data: Path, tmp_path: Path) -> None:
    deep, recorded = tmp_path / "deep", tmp_path / "recorded"
    shutil.copytree(data, deep)
    for path in (deep / "images").iterdir():
        values = np.asarray(Image.open(path)).astype(np.uint16) * 4
        path.unlink()
        Image.fromarray(values).save(path)
    shutil.copytree(model, recorded)
    description = read_yaml(recorded / "model.yaml") | {
        "intensity": {"name": "window", "bits": 16, "low": 0, "high": 1020}
    }
    (recorded / "model.yaml").write_text(yaml.safe_dump(description))
    for place, ours, images in (("expected", model, data), ("out", recorded, deep)):
        score(ours, images, tmp_path / place)
    assert contents(tmp_path / "out" / "masks") == contents(tmp_path / "expected" / "masks")
    found, expected = (pd.read_csv(tmp_path / place / "per_image.csv") for place in ("out", "expected"))
    pd.testing.assert_frame_equal(found.drop(columns="group"), expected.drop(columns="group"))


def test_all_that_is_written_has_its_place_and_equal_bytes(model: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    first = score(model, data, out)
    assert names(out) == WRITTEN | {"uncertainty"}
    assert names(out / "masks" / "images") == names(out / "uncertainty" / "images") == {f"{name}.png" for name in SIZES}
    assert pd.read_csv(out / "plots" / "thresholds.csv").empty
    manifest = read_manifest(out / "manifest.csv")
    assert manifest["split"].unique().tolist() == ["test"]
    assert manifest["mask"].tolist()[1] == "masks/b_0.png;masks/b_1.png"
    before = contents(out)
    assert score(model, data, out) == first  # a previous evaluation is replaced
    assert contents(out) == before
    assert names(out.parent) == {"out"}


@pytest.mark.parametrize("place", ["file", "file/out", "loop", "x" * 300])
def test_a_place_that_can_be_no_folder_is_refused_before_anything_is_read(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("a file")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match=f"^--out {tmp_path / place}: "):
        score(tmp_path / "no model", tmp_path / "no data", tmp_path / place)


def test_the_summary_tells_groups_empties_and_tolerances(model: Path, data: Path, tmp_path: Path) -> None:
    write_png(data / "images" / "e.png", tiny.square(0, 40, 50)[0])
    write_png(data / "masks" / "e_0.png", tiny.square(0, 40, 50)[1] * np.uint8(255))
    text = score(model, data, tmp_path / "out", label="a|b")
    assert text.startswith("folder: 5 images. Means over those in which something is annotated")
    assert "| NSD at 1 px | NSD at 1 % of the diagonal |" in text
    assert "| all | 4 | 3 |" in text  # e is a again
    assert "| a\\|b | 4 | 3 |" in text
    assert "Images with nothing annotated: 1." in text
    assert "None of them was recognised" in text
    assert "Left out" not in text
    assert pd.read_csv(tmp_path / "out" / "summary.csv")["groups"].max() == 3


def test_without_any_annotated_image_means_are_absent(model: Path, data: Path, tmp_path: Path) -> None:
    for name in "abc":
        (data / "images" / f"{name}.png").unlink()
    text = score(model, data, tmp_path / "out")
    absent = "\N{EN DASH} (\N{EN DASH})"
    assert f"| all | 0 | 0 | 0 | {absent} | {absent} |" in text
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["dice"] is None


def test_bad_images_are_named_or_listed(model: Path, data: Path, tmp_path: Path) -> None:
    write_png(data / "masks" / "a_0.png", np.zeros((3, 4), np.uint8))
    (data / "images" / "z_0.png").write_bytes(b"no image")
    with pytest.raises(UserError) as error:
        score(model, data, tmp_path / "out")
    told = str(error.value)
    assert "2 images can't be used" in told
    assert "--skip-bad" in told
    assert "images/a.png: the mask masks/a_0.png measures 4x3, the image 50x40" in told
    assert "images/z_0.png: has no mask" in told
    assert not (tmp_path / "out").exists()
    text = score(model, data, tmp_path / "out", skip_bad=True)
    assert "folder: 3 images" in text
    assert "Left out as unusable: 2" in text
    assert "- images/z\\_0.png: has no mask" in text
    skipped = json.loads((tmp_path / "out" / "audit.json").read_text())["skipped_files"]
    assert [fault["file"] for fault in skipped] == ["images/a.png", "images/z_0.png"]


def test_masks_that_look_inverted_are_named_and_scored_as_they_are(model: Path, data: Path, tmp_path: Path) -> None:
    mask = np.full((40, 50), 255, np.uint8)
    mask[10:20, 10:20] = 0
    write_png(data / "masks" / "a_0.png", mask)
    text = score(model, data, tmp_path / "out")
    assert "Masks that look inverted, as if the background had been annotated: 1 (images/a.png)" in text
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["inverted_mask_files"] == ["images/a.png"]


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("model/weights.safetensors", r"model/weights\.safetensors"),
        ("model/model.yaml", r"model/model\.yaml: no such file"),
        ("model", "--model .*model: no such model folder"),
        ("study/images", "study: no file matches"),
        ("study", "--data .*study: no such folder"),
    ],
)
def test_what_is_missing_is_named_and_nothing_written(
    model: Path, data: Path, tmp_path: Path, missing: str, told: str
) -> None:
    (tmp_path / missing).rename(tmp_path / "away")
    with pytest.raises(UserError, match=told):
        score(model, data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_labels_give_the_classes_of_a_network_that_knows_several(data: Path, tmp_path: Path) -> None:
    task = Multiclass(name="multiclass", background="d", labels=["a", "b", "c"])
    model = write_model(tmp_path / "model", task=task)
    with pytest.raises(UserError, match="--label: 'image' is no class of the network, which knows d, a, b, c"):
        score(model, data, tmp_path / "out")
    text = score(model, data, tmp_path / "out", label="{name}")
    assert "\n| b | 1 | 1 |" in text
    assert list(json.loads((tmp_path / "out" / "metrics.json").read_text())["classes"]) == ["a", "b", "c"]


def test_what_holds_something_else_is_never_replaced(model: Path, data: Path, tmp_path: Path) -> None:
    score(model, data, tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    (tmp_path / "half" / "masks").mkdir(parents=True)
    (tmp_path / "file").write_text("mine")
    for out in ("out", "half", "file", "study", "."):
        before = contents(tmp_path)
        with pytest.raises(UserError, match=r"holds something else than an evaluation|no folder"):
            score(model, data, tmp_path / out)
        assert contents(tmp_path) == before


def test_data_inside_a_previous_evaluation_are_not_replaced(model: Path, data: Path, tmp_path: Path) -> None:
    score(model, data, tmp_path / "out")
    inside = tmp_path / "out" / "masks" / "study"
    data.rename(inside)
    with pytest.raises(UserError, match="the data lie in it"):
        score(model, inside, tmp_path / "out")
    assert (inside / "images" / "a.png").is_file()


def test_its_values_are_the_pipeline_s_defaults(project: Path) -> None:
    def default(name: str) -> Any:
        return yaml.safe_load((project / "conf" / name).read_text())

    assert default("manifest/default.yaml")["duplicate_distance"] == DUPLICATE_DISTANCE
    assert default("evaluate/default.yaml")["batch_size"] == BATCH_SIZE


def test_real_images_are_scored_in_their_own_layout(samples: Path, tmp_path: Path) -> None:
    source, root = samples / "busi" / "Dataset_BUSI_with_GT", tmp_path / "busi"
    for label, number in (("benign", 1), ("benign", 25), ("malignant", 3), ("normal", 6)):
        (root / label).mkdir(parents=True, exist_ok=True)
        for path in source.glob(f"{label}/{label} ({number})*.png"):
            shutil.copy(path, root / label)
    model = write_model(tmp_path / "model", threshold=0.45)
    text = evaluate_external(model, LAYOUTS["busi"], root, tmp_path / "out", False, "cpu")
    assert "busi: 4 images" in text
    table = pd.read_csv(tmp_path / "out" / "per_image.csv").set_index("file")
    manifest = read_manifest(tmp_path / "out" / "manifest.csv")
    assert manifest["mask"].str.count(";").tolist() == [0, 1, 0, 0]  # benign (25) has two lesions
    for file, mask in zip(manifest["file"], manifest["mask"], strict=True):
        found = np.asarray(Image.open(tmp_path / "out" / "masks" / file)) > 0
        truth = np.any([np.asarray(Image.open(root / name).convert("L")) > 127 for name in mask.split(";")], axis=0)
        expected = 2 * (found & truth).sum() / (found.sum() + truth.sum()) if truth.any() else np.nan
        assert table.loc[file, "dice"] == pytest.approx(expected, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_finds_the_images_of_its_data_set(samples: Path, layout: str) -> None:
    records = LAYOUTS[layout].scan(samples / layout)
    assert len(records) > 1
    assert all(record.masks for record in records)


def seen(model: Path, files: list[Path], **patients: str) -> None:
    """Let `files` have trained the model, and images of `patients` (by the digit of their hash) too."""
    rows = [(file.name, hashlib.sha256(file.read_bytes()).hexdigest(), "") for file in files]
    rows += [(digit, digit * 64, patient) for digit, patient in patients.items()]
    index = pd.DataFrame(rows, columns=["file", "sha256", "patient"]).assign(phash="f" * 16)
    write_training_images(training_images(index, index.iloc[:0], no_images()), model)


@pytest.mark.parametrize("kind", ["folder", "onnx"])
def test_images_that_trained_the_model_are_counted_and_named(
    model: Path, data: Path, tmp_path: Path, kind: str
) -> None:
    seen(model, [data / "images/b.png"])
    if kind == "onnx":
        export(model, tmp_path / "model.onnx")
    text = score(tmp_path / "model.onnx" if kind == "onnx" else model, data, tmp_path / "out")
    assert "**Warning.** 1 of the 4 images were recognised" in text
    assert "(images/b.png: same file)" in text
    assert (tmp_path / "out/summary.md").read_text() == text + "\n"
    audited = json.loads((tmp_path / "out/audit.json").read_text())
    assert audited["seen_in_training"] == {"images/b.png": "same file"}


def test_a_near_duplicate_of_a_training_image_is_counted_too(model: Path, data: Path, tmp_path: Path) -> None:
    score(model, data, tmp_path / "first")
    known = read_manifest(tmp_path / "first/manifest.csv").iloc[:1].assign(sha256="9" * 64)
    write_training_images(training_images(known, known.iloc[:0], no_images()), model)
    assert "images/a.png: near-duplicate" in score(model, data, tmp_path / "out")


def test_images_of_one_patient_are_one_group_and_known_patients_are_told(model: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("Ada-1", "Ada-2", "Bo-1", "Cy-1")):
        pixels, mask = tiny.square(number, 40, 50)
        write_png(tmp_path / "study/images" / f"{name}.png", pixels)
        write_png(tmp_path / "study/masks" / f"{name}.png", mask * np.uint8(255))
    seen(model, [tmp_path / "study/images/Bo-1.png"], e="Cy", f="Di")
    patterns = {"images": "images/{who}-{scan}.png", "masks": "masks/{who}-{scan}.png", "patient": "{who}"}
    text = score(model, tmp_path / "study", tmp_path / "out", **patterns)
    groups = pd.read_csv(tmp_path / "out/per_image.csv").set_index("file")["group"]
    assert groups["images/Ada-1.png"] == groups["images/Ada-2.png"]
    assert groups.nunique() == 3
    assert "2 of the 4 images" in text
    assert "(images/Bo-1.png: same file, images/Cy-1.png: same patient)" in text


def test_a_model_that_does_not_know_its_images_is_refused(model: Path, data: Path, tmp_path: Path) -> None:
    (model / "training_images.csv").unlink()
    with pytest.raises(UserError, match=r"training_images\.csv: no such file"):
        score(model, data, tmp_path / "out")


def test_an_exported_model_is_scored_too(model: Path, data: Path, tmp_path: Path) -> None:
    export(model, tmp_path / "model.onnx")
    score(model, data, tmp_path / "out")
    score(tmp_path / "model.onnx", data, tmp_path / "by_onnx")
    dice, by_onnx = (pd.read_csv(tmp_path / name / "per_image.csv")["dice"] for name in ("out", "by_onnx"))
    np.testing.assert_allclose(dice, by_onnx, rtol=0, atol=0.01)


def medseg(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["evaluate", *arguments])


def test_the_command_prints_the_summary(model: Path, data: Path, tmp_path: Path) -> None:
    paths = ["--model", str(model), "--data", str(data), "--out", str(tmp_path / "out")]
    done = medseg(*paths, "--images", IMAGES, "--masks", MASKS, "--label", "{name}", "--accelerator", "cpu")
    assert done.exit_code == 0, done.output
    assert done.stdout == score(model, data, tmp_path / "again", label="{name}") + "\n"


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--images", IMAGES),
        ("--layout", "busi", "--masks", MASKS),
        ("--layout", "busi", "--label", "x"),
        ("--patient", "x"),
    ],
    ids=["nothing", "half", "both", "label", "patient"],
)
def test_patterns_or_a_layout_are_asked_for(options: tuple[str, ...]) -> None:
    done = medseg("--model", "m", "--data", "d", "--out", "o", *options)
    assert done.exit_code == 2
    assert "--images and" in done.stderr  # and further on, wrapped to the terminal


def test_a_mistake_is_one_message_and_exit_code_1(
    model: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = ["--model", str(model), "--data", str(data), "--out", str(data)]
    monkeypatch.setattr(sys, "argv", ["medseg", "evaluate", *paths, "--images", IMAGES, "--masks", "masks/{x}.png"])
    with pytest.raises(SystemExit) as end:
        main()
    told = capsys.readouterr().err
    assert end.value.code == 1
    assert told.startswith("error: --images, --masks, --label")
    assert "'images' has no field x" in told
    assert len(told.splitlines()) == 1
