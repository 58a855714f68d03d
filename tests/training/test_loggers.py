"""The images that TensorBoard gets."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import tiny
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn

from medseg.data.colours import PREDICTION, TRUTH, class_colours
from medseg.training.loggers import SHOWN, ValidationImages


class Writer:
    """Keeps what TensorBoard would draw."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any, int, str]] = []

    def add_images(self, tag: str, images: Any, step: int, dataformats: str) -> None:
        self.calls.append((tag, images, step, dataformats))


class Nothing(nn.Module):
    """Predicts background."""

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.full_like(pixels[:, :1], -1.0, dtype=torch.float32)


class Everything(nn.Module):
    """Predicts foreground."""

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.ones_like(pixels[:, :1], dtype=torch.float32)


class Halves(nn.Module):
    """Predicts the first class above and the second one below."""

    def forward(self, pixels: Tensor) -> Tensor:
        logits = torch.zeros(len(pixels), 3, *pixels.shape[2:])
        half = pixels.shape[2] // 2
        logits[:, 1, :half] = logits[:, 2, half:] = 9.0
        return logits


class Module(pl.LightningModule):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


def drawn(folder: Path, count: int, network: nn.Module, epoch: int) -> tuple[str, Any, int, str]:
    writer = Writer()
    board = cast(TensorBoardLogger, SimpleNamespace(experiment=writer))
    images = ValidationImages(tiny.write_packed(folder, count), board)
    images.on_validation_epoch_end(
        cast(pl.Trainer, SimpleNamespace(current_epoch=epoch, is_global_zero=True)), Module(network)
    )
    (call,) = writer.calls
    return call


def test_a_few_samples_are_drawn_in_colour_at_epochs_counted_from_1(tmp_path: Path) -> None:
    tag, images, step, layout = drawn(tmp_path, 20, Nothing(), epoch=0)
    assert (tag, step, layout) == ("val", 1, "NHWC")
    assert images.shape == (SHOWN, 32, 32, 3)
    assert images.dtype == np.uint8


def test_fewer_samples_are_all_drawn(tmp_path: Path) -> None:
    assert len(drawn(tmp_path, 3, Nothing(), epoch=4)[1]) == 3


def test_truth_is_outlined_and_prediction_where_there_is_one(tmp_path: Path) -> None:
    without, all_over = (drawn(tmp_path / str(kind), 2, kind(), epoch=0)[1] for kind in (Nothing, Everything))
    assert (without == TRUTH).all(axis=-1).any()
    assert not (without == PREDICTION).all(axis=-1).any()
    assert (all_over[:, 0] == PREDICTION).all()  # the frame


def test_each_class_is_outlined_in_its_colour(tmp_path: Path) -> None:
    images = drawn(tmp_path, 2, Halves(), epoch=0)[1]
    first, second = class_colours(2)
    assert first != second
    assert (images[:, 0] == first).all()  # the frame above and below
    assert (images[:, -1] == second).all()
    assert not (images == PREDICTION).all(axis=-1).any()
    assert (images == TRUTH).all(axis=-1).any()
