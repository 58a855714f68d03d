"""The stage `train` from its command line to its outputs, on a handful of samples."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny
from sections import whole
from train_sections import NAMES, SECTIONS

from medseg.core.app import run_stage
from medseg.core.errors import UserError
from medseg.data.training_images import read_training_images
from medseg.models.checkpoint import load_bundle
from medseg.models.model_yaml import Description
from stages.train import main

NETWORK = {"model.yaml", "weights.safetensors", "training.yaml", "training_images.csv", "optimizer.safetensors"}


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The arguments of the stage, with inputs in place; no project is there to keep the state of training in."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    tiny.write_packed(tmp_path / "augmented", 4)
    tiny.write_packed(tmp_path / "val", 2, seed=1)
    (tmp_path / "weights").mkdir()
    write_overlap(tmp_path)
    paths = [tmp_path / name for name in NAMES]
    write_params(paths[0])
    return paths


def write_params(path: Path, section: str = "seed", **changes: Any) -> None:
    changed = {**SECTIONS[section], **changes} if changes else SECTIONS[section]
    write_sections(path, {section: changed})


def write_sections(path: Path, sections: dict[str, Any]) -> None:
    path.write_text(whole(SECTIONS | sections))


def write_overlap(folder: Path, *rows: str) -> None:
    (folder / "overlap.csv").write_text("\n".join(["network,file,split,reason", *rows]) + "\n")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_network_and_its_curves_come_out(paths: list[Path]) -> None:
    main(*paths)
    _, description = load_bundle(paths[5], Description)
    assert description.training.samples == 4
    assert (paths[6] / "plots/metrics/val/dice.tsv").is_file()
    assert json.loads(paths[7].read_text()) == {"val/dice": description.training.val_dice, "epoch": 1}
    assert not paths[8].exists()  # no further logger unless asked for
    assert list(json.loads(paths[9].read_text())) == ["train"]


def test_the_logger_that_is_chosen_writes_to_its_folder(paths: list[Path]) -> None:
    write_params(paths[0], "logger", name="csv")
    main(*paths)
    assert len(list(paths[8].rglob("metrics.csv"))) == 1


def test_an_older_network_is_replaced_whole(paths: list[Path]) -> None:
    paths[5].mkdir(parents=True)
    (paths[5] / "stale").touch()
    main(*paths)
    assert names(paths[5]) == NETWORK


@pytest.mark.parametrize(
    ("section", "change", "named"),
    [
        ("model", {"encoder": "resnet81"}, r"model\.encoder = 'resnet81'"),
        ("loss", {"head_weights": [1.0, 0.5]}, r"loss\.head_weights"),
        ("optimizer", {"learning_rate": -1.0}, r"optimizer\.learning_rate"),
        ("scheduler", {"factor": 2.0}, r"scheduler\.factor"),
        ("sampling", {"share": 0.5}, r"sampling\.share"),
        ("online", {"vertical_flip": 2.0}, r"online\.vertical_flip = 2\.0"),
        ("train", {"epochs": 0}, r"train\.epochs"),
        ("train", {"init_from": "gone"}, r"weights/gone"),
        ("logger", {"name": "wandb"}, r"logger\.name = 'wandb'"),
        ("machine", {"accelerator": "tpu"}, r"machine\.accelerator"),
    ],
)
def test_a_wrong_value_stops_before_any_work(
    paths: list[Path], section: str, change: dict[str, Any], named: str
) -> None:
    write_params(paths[0], section, **change)
    before = names(paths[0].parent)
    with pytest.raises(UserError, match=named):
        main(*paths)
    assert names(paths[0].parent) == before


LESIONS: dict[str, Any] = {
    "task": tiny.LESIONS.model_dump(),
    "loss": {"name": "cross_entropy", "head_weights": [1.0]},
}


def test_labels_that_do_not_fit_the_task_stop_before_any_work(paths: list[Path]) -> None:
    write_sections(paths[0], LESIONS)
    before = names(paths[0].parent)
    with pytest.raises(UserError, match=r"task\.labels"):
        main(*paths)
    assert names(paths[0].parent) == before


def test_several_classes_come_out_with_their_names(paths: list[Path]) -> None:
    for folder, seed in ((paths[1], 0), (paths[2], 1)):
        tiny.write_packed(folder, 3, seed=seed, labels=["normal", "benign", "malignant"])
    write_sections(paths[0], LESIONS)
    main(*paths)
    _, description = load_bundle(paths[5], Description)
    assert description.task == tiny.LESIONS


def test_a_network_placed_as_it_came_out_is_trained_further(paths: list[Path]) -> None:
    main(*paths)
    shutil.copytree(paths[5], paths[3] / "first")
    digest = hashlib.sha256((paths[5] / "weights.safetensors").read_bytes()).hexdigest()
    write_params(paths[0], "train", continue_from="first")
    main(*paths)
    _, description = load_bundle(paths[5], Description)
    initial_network = {"name": "first", "weights_sha256": digest, "continued": True, "epochs_before": 1}
    assert description.training.initial_network is not None
    assert description.training.initial_network.model_dump() == initial_network
    assert names(paths[5]) == NETWORK


OVERLAP = ("first,a (1).png,test,same file", "first,b.png,test,same patient", "first,c.png,val,near-duplicate")


def test_an_initial_network_that_has_seen_images_of_test_stops_before_any_work(paths: list[Path]) -> None:
    main(*paths)
    shutil.move(paths[5], paths[3] / "first")
    write_overlap(paths[0].parent, *OVERLAP, "other,d.png,test,same file")
    for key in ("init_from", "continue_from"):
        write_params(paths[0], "train", **{key: "first"})
        with pytest.raises(UserError, match=r"2 images of test \(a \(1\)\.png: same file, b\.png") as told:
            main(*paths)
        assert f"train.{key}" in str(told.value)
        assert "1 image of val (c.png: near-duplicate)" in str(told.value)
        assert "train.initial_overlap=warn" in str(told.value)
        assert not paths[5].exists()


def test_an_overlap_that_is_allowed_is_told_wherever_the_model_goes(
    paths: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    main(*paths)
    shutil.move(paths[5], paths[3] / "first")
    write_overlap(paths[0].parent, *OVERLAP)
    write_params(paths[0], "train", init_from="first", initial_overlap="warn")
    main(*paths)
    _, description = load_bundle(paths[5], Description)
    warning = description.training.warnings[0]
    assert warning.startswith("the initial network first has seen 2 images of test (a (1).png: same file, b.png")
    assert f"warning: {warning}\n" in capsys.readouterr().out


def test_the_images_that_trained_a_network_stay_with_those_that_it_trains_after(paths: list[Path]) -> None:
    first = [f"{number}" * 64 for number in range(2)]
    set_hashes(paths[1], first[0])
    set_hashes(paths[2], first[1])
    main(*paths)
    shutil.move(paths[5], paths[3] / "first")
    second = [f"{number}" * 64 for number in range(2, 4)]
    set_hashes(paths[1], second[0])
    set_hashes(paths[2], second[1])
    write_params(paths[0], "train", init_from="first")
    main(*paths)
    seen = read_training_images(paths[5])
    assert list(zip(seen["use"], seen["sha256"], strict=True)) == [
        *(("train", second[0]), ("val", second[1])),
        *(("train", first[0]), ("val", first[1])),
    ]
    assert b"Ada" not in (paths[5] / "training_images.csv").read_bytes()


def set_hashes(folder: Path, sha256: str) -> None:
    """All samples of packed arrays come from one image of one patient."""
    index = pd.read_csv(folder / "index.csv", dtype=str)
    index.assign(file="a.png", sha256=sha256, patient="Ada").to_csv(folder / "index.csv", index=False)


def test_a_network_without_its_table_of_images_is_refused(paths: list[Path]) -> None:
    main(*paths)
    shutil.move(paths[5], paths[3] / "first")
    (paths[3] / "first/training_images.csv").unlink()
    write_params(paths[0], "train", init_from="first")
    with pytest.raises(UserError, match=r"first/training_images\.csv: no such file"):
        main(*paths)


def test_weights_of_another_architecture_are_told(paths: list[Path]) -> None:
    main(*paths)
    paths[5].rename(paths[3] / "first")
    model = {"name": "segnet", "init_features": 4, "input_mean": [0.5], "input_std": [0.5]}
    write_sections(paths[0], {"model": model, "train": SECTIONS["train"] | {"init_from": "first"}})
    with pytest.raises(UserError, match=r"first/weights\.safetensors: "):
        main(*paths)
    assert not paths[5].exists()


def test_missing_arrays_are_named(paths: list[Path]) -> None:
    (paths[2] / "masks.npy").unlink()
    with pytest.raises(UserError, match=str(paths[2])):
        main(*paths)


def test_training_that_fails_leaves_no_network(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("medseg.models.checkpoint.write_text", interrupted)  # the last thing that is written
    with pytest.raises(KeyboardInterrupt):
        main(*paths)
    assert not paths[5].exists()
    assert names(paths[5].parent) == set()


def test_the_command_line_tells_mistakes_without_a_traceback(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_params(paths[0], "train", batch_size=0)
    monkeypatch.setattr("sys.argv", ["stages.train", *map(str, paths)])
    with pytest.raises(SystemExit, match="1"):
        run_stage(main)
    assert "train.batch_size = 0" in capsys.readouterr().err
