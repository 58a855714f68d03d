"""One training run: the trainer, what it logs, and the epoch that is kept."""

import importlib.metadata
import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytorch_lightning as pl
import torch
from dvclive.lightning import DVCLiveLogger
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pydantic import Field
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import Logger, TensorBoardLogger

from medseg.description import Description, Training
from medseg.errors import UserError
from medseg.loading import Batches, training_batches, validation_batches
from medseg.losses import LossParams, build_loss
from medseg.machine import MachineParams
from medseg.models.network import Network, build_model
from medseg.models.params import ModelParams
from medseg.monitoring import ValidationPictures
from medseg.optimisation import OptimizerParams, SchedulerParams, build_optimizer, build_scheduler
from medseg.params import Section
from medseg.store import Store
from medseg.task import SegmentationTask
from medseg.weights import Origin, RandomWeightsWarning, load_encoder_weights

BEST = "val/dice"
CLASSES = 1
NOISE: tuple[tuple[type[Warning], str], ...] = (  # the start of each message
    (UserWarning, r"The '\w+_dataloader' does not have many workers"),  # one copy out of a memory map needs none
    (FutureWarning, r"`isinstance\(treespec, LeafSpec\)` is deprecated"),  # torch to Lightning
    (FutureWarning, r"The pynvml package is deprecated"),
)
RECORDED_PACKAGES = ("torch", "pytorch-lightning", "segmentation-models-pytorch", "albumentations", "numpy")


class TrainParams(Section):
    """The section `train`."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    patience: int = Field(ge=1)  # epochs without a better val/dice before training ends
    gradient_clip: float = Field(ge=0)  # largest norm of the gradient; 0: not clipped
    precision: Literal["32-true", "16-mixed", "bf16-mixed"]
    deterministic: bool
    tensorboard: bool


@dataclass(frozen=True)
class Recipe:
    """All sections that say how to train, read once."""

    model: ModelParams
    loss: LossParams
    optimizer: OptimizerParams
    scheduler: SchedulerParams
    train: TrainParams
    seed: int


@dataclass(frozen=True)
class Places:
    """The folders that training reads and writes beside the arrays."""

    weights: Path  # first weights placed by hand
    metrics: Path  # DVCLive's
    tensorboard: Path


def fit(
    train: Store, val: Store, recipe: Recipe, places: Places, machine: MachineParams
) -> tuple[Network, Description]:
    """Train a network on packed arrays, log to `places.metrics`, and return it as it was at its best epoch on val.

    Equal inputs, seed, versions and kind of device give equal weights where `train.deterministic` is on.
    """
    pl.seed_everything(recipe.seed, verbose=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        network, origin = _start(recipe.model, train, places.weights)
    notes = [str(warning.message) for warning in caught if warning.category is RandomWeightsWarning]
    for note in notes:
        print(f"warning: {note}")
    print(
        f"training {_title(recipe.model)} on {len(train.images)} samples of {_size(train)}, {len(val.images)} to choose"
    )
    best_epoch, val_dice, epochs = _run(network, train, val, recipe, places, machine)
    record = Training(
        encoder_weights=origin,
        warnings=notes,
        best_epoch=best_epoch,
        epochs=epochs,
        val_dice=round(val_dice, 6),
        samples=len(train.images),
        packages={name: importlib.metadata.version(name) for name in RECORDED_PACKAGES},
    )
    channels: Literal[1, 3] = train.geometry.channels
    description = Description(
        model=recipe.model, channels=channels, classes=CLASSES, geometry=train.geometry, threshold=0.5, training=record
    )
    return network.eval(), description


def _start(params: ModelParams, train: Store, placed: Path) -> tuple[Network, Origin]:
    network = build_model(params, train.geometry.channels, CLASSES)
    encoder = network.core.get_submodule("encoder")
    return network, load_encoder_weights(encoder, params.encoder, params.encoder_weights, placed)


def _run(
    network: Network, train: Store, val: Store, recipe: Recipe, places: Places, machine: MachineParams
) -> tuple[int, float, int]:
    """Train `network` in place; give the best epoch (from 1), its val/dice, and the number of epochs."""
    optimizer = build_optimizer(recipe.optimizer, network.parameters())
    scheduler = build_scheduler(recipe.scheduler, optimizer)
    monitor = getattr(recipe.scheduler, "monitor", BEST)
    task = SegmentationTask(network, build_loss(recipe.loss), optimizer, scheduler, monitor)
    with tempfile.TemporaryDirectory(prefix="medseg-") as folder, _quiet():
        keeper = ModelCheckpoint(folder, monitor=BEST, mode="max", save_weights_only=True, filename="best")
        trainer = _trainer(recipe.train, machine, places, keeper, val)
        batches = training_batches(train, recipe.train.batch_size, recipe.seed)
        _fit_or_explain(trainer, task, batches, validation_batches(val, recipe.train.batch_size))
        best = torch.load(keeper.best_model_path, map_location="cpu", weights_only=True)
    task.cpu().load_state_dict(best["state_dict"])
    return int(best["epoch"]) + 1, float(keeper.best_model_score or 0), trainer.current_epoch


def _fit_or_explain(trainer: pl.Trainer, task: SegmentationTask, train: Batches, val: Batches) -> None:
    try:
        trainer.fit(task, train, val)
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from None
    except torch.OutOfMemoryError as error:
        raise UserError("params.yaml: train.batch_size: such batches do not fit the GPU's memory; lower it") from error
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            "params.yaml: train.batch_size: a batch of one small sample can't be trained on, since batch "
            "normalisation needs more than one value per channel; raise it, or prepare larger samples"
        ) from error


def _trainer(
    params: TrainParams, machine: MachineParams, places: Places, keeper: ModelCheckpoint, val: Store
) -> pl.Trainer:
    has_bar = sys.stdout.isatty()
    loggers: list[Logger] = [_dvclive(places.metrics)]
    callbacks: list[pl.Callback] = [
        keeper,
        EarlyStopping(BEST, mode="max", patience=params.patience),
        *([_ProgressBar(refresh_rate=10)] if has_bar else []),
    ]
    if params.tensorboard:
        board = TensorBoardLogger(str(places.tensorboard), name="")
        loggers.append(board)
        callbacks.append(ValidationPictures(val, board))
    try:
        return pl.Trainer(
            accelerator=machine.accelerator,
            devices=1,
            precision=params.precision,
            max_epochs=params.epochs,
            gradient_clip_val=params.gradient_clip or None,
            deterministic=params.deterministic,
            logger=loggers,
            callbacks=callbacks,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            enable_model_summary=False,
            enable_progress_bar=has_bar,
        )
    except MisconfigurationException as error:
        raise UserError(f"params.yaml: machine.accelerator = {machine.accelerator}: {error}") from error


class _ProgressBar(TQDMProgressBar):
    """Lightning's bar without the version of the logger, which says nothing here."""

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """The figures beside the bar."""
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what Lightning tells every user and none can act on; every other warning passes."""
    log = logging.getLogger("pytorch_lightning.utilities.rank_zero")  # devices found, products to install
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for category, message in NOISE:
                warnings.filterwarnings("ignore", message, category)
            yield
    finally:
        log.setLevel(level)


def _dvclive(folder: Path) -> DVCLiveLogger:
    """DVCLive that writes to `folder` alone: by default it would rewrite `dvc.yaml` and save an experiment."""
    shutil.rmtree(folder, ignore_errors=True)
    return DVCLiveLogger(dir=str(folder), dvcyaml=None, save_dvc_exp=False, report=None)


def _title(params: ModelParams) -> str:
    return f"{params.name} with {params.encoder}"


def _size(store: Store) -> str:
    _, height, width, channels = store.images.shape
    return f"{width}x{height}x{channels}"
