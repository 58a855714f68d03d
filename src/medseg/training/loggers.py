"""Where training logs to: DVCLive always, one further logger by name (the section `logger`), and standard output."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from dvclive.lightning import DVCLiveLogger
from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger
from torch import Tensor
from torchvision.utils import draw_segmentation_masks  # type: ignore[import-untyped]  # torchvision has no types

from medseg.core.credentials import has_credentials
from medseg.core.errors import UserError
from medseg.data.packed import Packed, evenly_spaced
from medseg.data.task import TaskParams
from medseg.training.dataloader import class_codes
from medseg.training.lightning_module import predicted_codes
from medseg.training.params import Csv, LoggerParams, Mlflow, TensorBoard

SHOWN = 8  # validation images in TensorBoard
GAP = 2  # pixels between an image with its truth and the same with its prediction
ALPHA = 0.5  # opacity of drawn masks


def build_loggers(
    params: LoggerParams, dvclive: Path, logs: Path, resumed: bool, val: Packed, task: TaskParams
) -> tuple[list[Logger], list[pl.Callback]]:
    """Build Lightning's loggers, and the callbacks that log what is no metric.

    DVCLive writes to `dvclive`, and appends there if the run is `resumed`; the further logger writes to `logs`. Raises
    `UserError` where a package is missing.
    """
    # By default DVCLive would rewrite `dvc.yaml` and save an experiment.
    loggers: list[Logger] = [
        DVCLiveLogger(dir=str(dvclive), resume=resumed, dvcyaml=None, save_dvc_exp=False, report=None)
    ]
    match params:
        case TensorBoard():
            board = TensorBoardLogger(str(logs), name="")
            return [*loggers, board], [ValidationImages(val, task, board)]
        case Csv():
            loggers.append(CSVLogger(str(logs), name=""))
        case Mlflow():
            loggers.append(_mlflow(params, logs))
    return loggers, []


def _mlflow(params: Mlflow, logs: Path) -> MLFlowLogger:
    # Lightning's own default, a folder of files, is refused by MLflow 3.
    address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{logs.absolute() / 'mlflow.db'}"
    if has_credentials(address):  # MLflow shows it in its messages
        raise UserError(
            "MLFLOW_TRACKING_URI holds a user's name, password or token; give the address alone, and name and password "
            "in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or a token in MLFLOW_TRACKING_TOKEN"
        )
    try:
        logger = MLFlowLogger(params.experiment, tracking_uri=address)
    except ModuleNotFoundError as error:
        raise UserError("params.yaml: logger.name = 'mlflow': the package is missing: pip install mlflow") from error
    logs.mkdir(parents=True, exist_ok=True)  # SQLite makes no folders
    return logger


class EpochLines(pl.Callback):
    """Prints one line per epoch, for output that is no terminal: the log of a queue or a cluster."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Start the clock."""
        self.start = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Print losses, validation Dice and seconds of the epoch with its validation."""
        if trainer.is_global_zero:
            metrics = trainer.callback_metrics
            losses = f"train loss {metrics['train/loss']:.3f}, val loss {metrics['val/loss']:.3f}"
            print(
                f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: {losses}, "
                f"val Dice {metrics['val/dice']:.3f}, {time.monotonic() - self.start:.0f} s",
                flush=True,
            )


class ValidationImages(pl.Callback):
    """After each epoch, the same few validation images: on the left with the ground truth, on the right predicted.

    Both are drawn in the task's colours.
    """

    def __init__(self, val: Packed, task: TaskParams, board: TensorBoardLogger) -> None:
        """`board` gets the images of `val`."""
        chosen = evenly_spaced(len(val.images), SHOWN)
        self.pixels = torch.from_numpy(np.array(val.images[chosen])).permute(0, 3, 1, 2)
        codes = torch.from_numpy(task.codes(val.index["label"].iloc[chosen]))
        self.truth = class_codes(torch.from_numpy(np.array(val.masks[chosen])), codes)
        self.colours = task.colours
        self.board = board

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Predict and log the images; x is the epoch, from 1. Of several ranks the first alone does."""
        if not trainer.is_global_zero:
            return
        with torch.no_grad():
            logits = pl_module.get_submodule("network")(self.pixels.to(pl_module.device))
        sides = [self._drawn(codes) for codes in (self.truth, predicted_codes(logits).cpu())]
        gap = torch.full_like(sides[0][..., :GAP], 255)
        images = torch.cat([sides[0], gap, sides[1]], dim=-1)
        experiment: Any = self.board.experiment
        experiment.add_images("val", images, trainer.current_epoch + 1)

    def _drawn(self, codes: Tensor) -> Tensor:
        """The images with codes (N, H, W) drawn over them, (N, 3, H, W) uint8."""
        classes = torch.arange(1, len(self.colours) + 1).view(-1, 1, 1)
        pairs = zip(self.pixels.expand(-1, 3, -1, -1), codes, strict=True)
        return torch.stack(
            [draw_segmentation_masks(image, code == classes, alpha=ALPHA, colors=self.colours) for image, code in pairs]
        )
