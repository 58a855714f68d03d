"""The stage `train` from its command line to its outputs, on a handful of samples."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml

from medseg.bundle import load_bundle
from medseg.console import run_stage
from medseg.errors import UserError
from stages.train import main

SECTIONS: dict[str, Any] = {
    "model": tiny.unet().model_dump(),
    "loss": {"name": "bce_dice", "bce_weight": 0.5, "dice_weight": 0.5, "smooth": 1.0},
    "optimizer": {"name": "adam", "learning_rate": 0.003},
    "scheduler": {"name": "plateau", "monitor": "val/dice", "factor": 0.1, "patience": 2},
    "train": {
        "epochs": 1,
        "batch_size": 2,
        "patience": 2,
        "gradient_clip": 1.0,
        "precision": "32-true",
        "deterministic": True,
        "tensorboard": False,
    },
    "machine": {"workers": 1, "backend": "threading", "accelerator": "cpu"},
    "name": "default",
    "seed": 0,
}
NAMES = ("params.yaml", "augmented", "val", "weights", "models/network", "metrics/train", "tensorboard")


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """The arguments of the stage, with inputs in place."""
    tiny.write_store(tmp_path / "augmented", 4)
    tiny.write_store(tmp_path / "val", 2, seed=1)
    (tmp_path / "weights").mkdir()
    paths = [tmp_path / name for name in NAMES]
    write_params(paths[0])
    return paths


def write_params(path: Path, section: str = "seed", **changes: Any) -> None:
    changed = {**SECTIONS[section], **changes} if changes else SECTIONS[section]
    path.write_text(yaml.safe_dump(SECTIONS | {section: changed}))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_network_and_its_curves_come_out(paths: list[Path]) -> None:
    main(*paths)
    _, description = load_bundle(paths[4])
    assert description.training.samples == 4
    assert description.threshold == 0.5
    assert (paths[5] / "metrics.json").is_file()
    assert (paths[5] / "plots/metrics/val/dice.tsv").is_file()
    assert not paths[6].exists()  # no TensorBoard unless asked for


def test_an_older_network_is_replaced_whole(paths: list[Path]) -> None:
    paths[4].mkdir(parents=True)
    (paths[4] / "stale").touch()
    main(*paths)
    assert names(paths[4]) == {"model.yaml", "weights.safetensors"}


@pytest.mark.parametrize(
    ("section", "change", "named"),
    [
        ("model", {"encoder_weights": "yes"}, r"model\.encoder_weights"),
        ("loss", {"name": "hinge"}, r"loss\.name"),
        ("optimizer", {"learning_rate": -1.0}, r"optimizer\.learning_rate"),
        ("scheduler", {"factor": 2.0}, r"scheduler\.factor"),
        ("train", {"epochs": 0}, r"train\.epochs"),
        ("train", {"precision": "8"}, r"train\.precision"),
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


def test_an_unknown_encoder_stops_before_any_work(paths: list[Path]) -> None:
    write_params(paths[0], "model", encoder="resnet81")
    before = names(paths[0].parent)
    with pytest.raises(UserError, match=r"model\.encoder = 'resnet81'"):
        main(*paths)
    assert names(paths[0].parent) == before


def test_missing_arrays_are_named(paths: list[Path]) -> None:
    (paths[2] / "masks.npy").unlink()
    with pytest.raises(UserError, match=str(paths[2])):
        main(*paths)


def test_training_that_fails_leaves_no_network(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("medseg.bundle.write_text", interrupted)  # the last thing that is written
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
