"""The stage `train` from its command line to its outputs, on a handful of samples."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
from sections import whole
from train_sections import NAMES, SECTIONS

from medseg.core.app import run_stage
from medseg.core.errors import UserError
from medseg.models.checkpoint import load_bundle
from medseg.models.model_yaml import Description
from stages.train import main

NETWORK = {"model.yaml", "weights.safetensors", "training.yaml", "optimizer.safetensors"}


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The arguments of the stage, with inputs in place; no project is there to keep the state of training in."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    tiny.write_packed(tmp_path / "augmented", 4)
    tiny.write_packed(tmp_path / "val", 2, seed=1)
    (tmp_path / "weights").mkdir()
    paths = [tmp_path / name for name in NAMES]
    write_params(paths[0])
    return paths


def write_params(path: Path, section: str = "seed", **changes: Any) -> None:
    changed = {**SECTIONS[section], **changes} if changes else SECTIONS[section]
    write_sections(path, {section: changed})


def write_sections(path: Path, sections: dict[str, Any]) -> None:
    path.write_text(whole(SECTIONS | sections))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_network_and_its_curves_come_out(paths: list[Path]) -> None:
    main(*paths)
    _, description = load_bundle(paths[4], Description)
    assert description.training.samples == 4
    assert (paths[5] / "plots/metrics/val/dice.tsv").is_file()
    assert json.loads(paths[6].read_text()) == {"val/dice": description.training.val_dice, "epoch": 1}
    assert not paths[7].exists()  # no further logger unless asked for
    assert list(json.loads(paths[8].read_text())) == ["train"]


def test_the_logger_that_is_chosen_writes_to_its_folder(paths: list[Path]) -> None:
    write_params(paths[0], "logger", name="csv")
    main(*paths)
    assert len(list(paths[7].rglob("metrics.csv"))) == 1


def test_an_older_network_is_replaced_whole(paths: list[Path]) -> None:
    paths[4].mkdir(parents=True)
    (paths[4] / "stale").touch()
    main(*paths)
    assert names(paths[4]) == NETWORK


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
    _, description = load_bundle(paths[4], Description)
    assert description.task == tiny.LESIONS


def test_a_network_placed_as_it_came_out_is_trained_further(paths: list[Path]) -> None:
    main(*paths)
    shutil.copytree(paths[4], paths[3] / "first")
    digest = hashlib.sha256((paths[4] / "weights.safetensors").read_bytes()).hexdigest()
    write_params(paths[0], "train", continue_from="first")
    main(*paths)
    _, description = load_bundle(paths[4], Description)
    initial_network = {"name": "first", "weights_sha256": digest, "continued": True, "epochs_before": 1}
    assert description.training.initial_network is not None
    assert description.training.initial_network.model_dump() == initial_network
    assert names(paths[4]) == NETWORK


def test_weights_of_another_architecture_are_told(paths: list[Path]) -> None:
    main(*paths)
    paths[4].rename(paths[3] / "first")
    model = {"name": "segnet", "init_features": 4, "input_mean": [0.5], "input_std": [0.5]}
    write_sections(paths[0], {"model": model, "train": SECTIONS["train"] | {"init_from": "first"}})
    with pytest.raises(UserError, match=r"first/weights\.safetensors: "):
        main(*paths)
    assert not paths[4].exists()


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
    assert not paths[4].exists()
    assert names(paths[4].parent) == set()


def test_the_command_line_tells_mistakes_without_a_traceback(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_params(paths[0], "train", batch_size=0)
    monkeypatch.setattr("sys.argv", ["stages.train", *map(str, paths)])
    with pytest.raises(SystemExit, match="1"):
        run_stage(main)
    assert "train.batch_size = 0" in capsys.readouterr().err
