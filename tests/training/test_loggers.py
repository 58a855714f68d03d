"""What each logger writes of a short run, and what is printed."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import tiny
import torch
from small_training import recipe, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from torch import Tensor, nn

from medseg.core.errors import UserError
from medseg.data.packed import Packed
from medseg.data.task import TaskParams
from medseg.training.loggers import GAP, SHOWN, ValidationImages, build_loggers
from medseg.training.params import Csv, Mlflow, TensorBoard

LOGGED = {"train/loss", "val/loss", "val/dice", "learning_rate"}


def test_tensorboard_gets_metrics_and_images(stores: tuple[Packed, Packed], tmp_path: Path) -> None:
    train(stores, recipe(epochs=2), tmp_path, logger=TensorBoard(name="tensorboard"))
    (file,) = (tmp_path / "logs").rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file)).Reload()
    assert set(events.Tags()["scalars"]) >= LOGGED
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2]
    assert [event.step for event in events.Images("val")] == [1, 2]
    assert (tmp_path / "metrics/train/plots/metrics/val/dice.tsv").is_file()  # DVCLive's, too


def test_csv_gets_metrics(stores: tuple[Packed, Packed], tmp_path: Path) -> None:
    train(stores, recipe(epochs=2), tmp_path, logger=Csv(name="csv"))
    (file,) = (tmp_path / "logs").rglob("metrics.csv")
    table = pd.read_csv(file)
    assert set(table) >= LOGGED
    assert sorted(table["step"].unique()) == [1, 2]


def test_without_mlflow_the_message_says_how_to_install_it(
    stores: tuple[Packed, Packed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytorch_lightning.loggers.mlflow._MLFLOW_AVAILABLE", False)
    with pytest.raises(UserError, match="pip install mlflow"):
        train(stores, recipe(), tmp_path, logger=Mlflow(name="mlflow", experiment="medseg"))


LINE = re.compile(r"epoch (\d)/2: train loss \d\.\d{3}, val loss \d\.\d{3}, val Dice [01]\.\d{3}, \d+ s")


def test_each_epoch_is_a_line_where_there_is_no_terminal(
    stores: tuple[Packed, Packed], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train(stores, recipe(epochs=2), tmp_path)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    matches = [LINE.fullmatch(line) for line in lines]
    assert [match and match[1] for match in matches] == ["1", "2"]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    train(stores, recipe(epochs=1), tmp_path)
    assert not any(LINE.fullmatch(line) for line in capsys.readouterr().out.splitlines())


class Writer:
    """Keeps what TensorBoard would draw."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Tensor, int]] = []

    def add_images(self, tag: str, images: Tensor, step: int) -> None:
        self.calls.append((tag, images, step))


class Halves(nn.Module):
    """Predicts background above and the last class below."""

    def __init__(self, logits: int) -> None:
        super().__init__()
        self.channels = logits

    def forward(self, pixels: Tensor) -> Tensor:
        logits = torch.full((len(pixels), self.channels, *pixels.shape[2:]), -9.0)
        half = pixels.shape[2] // 2
        if self.channels > 1:
            logits[:, 0, :half] = 9.0
        logits[:, -1, half:] = 9.0
        return logits


class Module(pl.LightningModule):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


def drawn(folder: Path, task: TaskParams, count: int, **store: Any) -> tuple[Packed, Tensor]:
    writer = Writer()
    val = tiny.write_packed(folder, count, **store)
    images = ValidationImages(val, task, cast(Any, SimpleNamespace(experiment=writer)))
    trainer = cast(pl.Trainer, SimpleNamespace(current_epoch=0, is_global_zero=True))
    images.on_validation_epoch_end(trainer, Module(Halves(task.logits)))
    ((tag, pixels, step),) = writer.calls
    assert (tag, step, pixels.dtype) == ("val", 1, torch.uint8)
    return val, pixels


def changed(images: Tensor, plain: Tensor, colour: tuple[int, int, int]) -> Tensor:
    """Where `colour` lies over the plain image."""
    return (images - plain.float() / 2 - torch.tensor(colour).view(-1, 1, 1) / 2).abs().amax(dim=-3) <= 1


@pytest.mark.parametrize(("count", "shown"), [(20, SHOWN), (3, 3)])
def test_a_few_images_are_drawn_in_colour_truth_beside_prediction(tmp_path: Path, count: int, shown: int) -> None:
    assert drawn(tmp_path, tiny.BINARY, count)[1].shape == (shown, 3, 32, 32 + GAP + 32)


def test_truth_and_prediction_have_the_colour_of_their_class(tmp_path: Path) -> None:
    task = tiny.LESIONS
    val, images = drawn(tmp_path, task, 2, labels=("benign", "malignant"))
    plain = torch.from_numpy(np.array(val.images)).permute(0, 3, 1, 2).expand(-1, 3, -1, -1)
    truth, predicted = images[..., :32], images[..., 32 + GAP :]
    for number, colour in enumerate(task.colours):
        assert torch.equal(
            changed(truth[number], plain[number], colour), torch.from_numpy(np.array(val.masks[number] > 0))
        )
    assert torch.equal(predicted[:, :, :16], plain[:, :, :16])
    assert changed(predicted[:, :, 16:], plain[:, :, 16:], task.colours[1]).all()


def test_an_address_of_mlflow_with_a_password_is_refused_without_showing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:pass@host")
    val, logger = tiny.write_packed(tmp_path / "val", 1), Mlflow(name="mlflow", experiment="e")
    with pytest.raises(UserError, match="MLFLOW_TRACKING_USERNAME") as caught:
        build_loggers(logger, tmp_path / "metrics", tmp_path / "logs", False, val, tiny.BINARY)
    assert "pass@" not in str(caught.value)
