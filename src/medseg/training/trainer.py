"""One training run: from packed arrays and parameters to the network at its best epoch."""

import hashlib
import importlib.metadata
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import TQDMProgressBar, WeightAveraging
from torch._inductor.exc import InductorError
from torch.optim.swa_utils import get_ema_multi_avg_fn

from medseg.core.errors import UserError
from medseg.core.parallel import MachineParams
from medseg.data.augment import Transforms
from medseg.data.packed import Packed
from medseg.data.task import TaskParams
from medseg.models.model_yaml import Description, InitialNetwork, InitialWeights, Training
from medseg.models.network import Network, build_model
from medseg.models.params import Encoded, Library, ModelParams
from medseg.models.pretrained import RandomWeightsWarning, load_encoder_weights
from medseg.training.checkpointing import Best, Checkpoints, last_epoch, restore_logs
from medseg.training.dataloader import Batches, Rank, training_batches, validation_batches
from medseg.training.distributed import check_nodes, end_with_parent
from medseg.training.initial_network import load_initial_network
from medseg.training.lightning_module import SegmentationModule
from medseg.training.loggers import EpochLines, build_loggers
from medseg.training.losses import build_loss, check_heads
from medseg.training.optim import build_optimizer, build_schedule
from medseg.training.optimizer_state import load_state
from medseg.training.params import (
    LoggerParams,
    LossParams,
    NoLogger,
    OptimizerParams,
    RmsProp,
    SamplingParams,
    SchedulerParams,
    TrainParams,
)
from medseg.training.sampler import Sampling, annotated_shares

IGNORED_WARNINGS: tuple[tuple[type[Warning], str], ...] = (  # the start of each message
    (UserWarning, r"The '\w+_dataloader' does not have many workers"),  # a copy from a memory map needs none
    (FutureWarning, r"`isinstance\(treespec, LeafSpec\)` is deprecated"),  # torch to Lightning
    (FutureWarning, r"The pynvml package is deprecated"),
    (UserWarning, r"It is recommended to use `self\.log"),  # of metrics that are equal on all ranks
    (UserWarning, r"Grad strides do not match bucket view strides"),
)
QUIETED_LOGS = (  # about devices found, products to install, ranks that joined
    "pytorch_lightning.utilities.rank_zero",
    "lightning_fabric.utilities.distributed",
)
NO_LOGGER = NoLogger(name="none")
RECORDED_PACKAGES = ("torch", "pytorch-lightning", "segmentation-models-pytorch", "albumentations", "numpy")


@dataclass(frozen=True)
class Recipe:
    """All sections that decide the result of training."""

    task: TaskParams
    model: ModelParams
    loss: LossParams
    optimizer: OptimizerParams
    scheduler: SchedulerParams
    sampling: SamplingParams
    online: Transforms
    train: TrainParams
    seed: int


@dataclass(frozen=True)
class Folders:
    """The folders that training reads and writes beside the arrays."""

    weights: Path  # pretrained weights and initial networks, brought there by hand
    metrics: Path  # DVCLive's
    logs: Path  # the further logger's
    state: Path | None = None  # from which a killed run is resumed; None: a killed run starts anew


@dataclass(frozen=True)
class Trained:
    """The result of training, as it was at the best epoch on the validation set."""

    network: Network
    description: Description
    optimizer_state: dict[str, Any]
    scheduler_state: dict[str, Any] | None


@dataclass(frozen=True)
class _InitialWeights:
    """Where the weights before the first step came from."""

    weights: InitialWeights
    initial_network: InitialNetwork | None
    warnings: list[str]


def fit(
    train: Packed,
    val: Packed,
    recipe: Recipe,
    folders: Folders,
    machine: MachineParams,
    logger: LoggerParams = NO_LOGGER,
    data_warnings: Sequence[str] = (),
) -> Trained | None:
    """Train a network on packed arrays and return it as it was at its best epoch on the validation set.

    `data_warnings` are said beforehand and kept in the description. Equal inputs, seed, versions and kind of device
    give bit-equal weights where `train.deterministic` is on. Of several ranks the first alone writes and returns the
    result, the others return None. Raises `UserError` where the sections do not fit each other, the data, or the
    initial network.
    """
    pl.seed_everything(recipe.seed, verbose=False)
    recipe.task.check_training(_labels(train), _labels(val))
    _check_background(train)
    logits = recipe.task.logits
    network = build_model(recipe.model, train.geometry.channels, logits)
    start = _initialise(network, recipe, folders.weights, data_warnings)
    with _run_folder(folders, start) as folder, _quiet():
        checkpoints = Checkpoints(folder, folders.metrics, recipe.train.patience)
        trainer = _trainer(recipe, machine, folders, logger, checkpoints, val)
        rank, device = Rank(trainer.global_rank, trainer.world_size), trainer.strategy.root_device
        module, batches = _set_up(network, train, recipe, logits, start.initial_network, folders.weights, rank, device)
        if trainer.is_global_zero:
            _announce(recipe, train, val, start, device, last_epoch(folder))
            restore_logs(folder, folders.metrics)
        codes = recipe.task.codes(val.index["label"])
        _fit(trainer, module, batches, validation_batches(val, codes, recipe.train.batch_size, rank, device))
        if not trainer.is_global_zero:
            return None
        best = checkpoints.load_best(module.cpu())
    notes = [*_substitutes(recipe, trainer), *_notes(best, trainer.current_epoch)]
    _warn(notes)
    notes = [*train.warnings, *val.warnings, *notes]
    description = _describe(recipe, train, start, best, trainer.current_epoch, notes)
    return Trained(network.eval(), description, best.optimizer_state, best.scheduler_state)


@contextmanager
def _run_folder(folders: Folders, start: _InitialWeights) -> Iterator[Path]:
    """The folder of the run's checkpoints: another for other initial weights, since `auto` may find none."""
    if folders.state is not None:
        yield folders.state / hashlib.sha256(repr(start).encode()).hexdigest()
        return
    with tempfile.TemporaryDirectory(prefix="medseg-") as folder:
        yield Path(folder)


def _labels(packed: Packed) -> pd.DataFrame:
    return pd.DataFrame({"label": packed.index["label"], "annotated": annotated_shares(packed) > 0})


def _check_background(train: Packed) -> None:
    if not any((mask == 0).any() for mask in train.masks):
        raise UserError(
            "every annotated pixel of every training sample is foreground, so there is nothing to tell apart: look at "
            "samples.png and at full_masks in metrics/manifest.json, whether the masks are what you mean"
        )


def _set_up(
    network: Network,
    train: Packed,
    recipe: Recipe,
    logits: int,
    initial_network: InitialNetwork | None,
    placed: Path,
    rank: Rank,
    device: torch.device,
) -> tuple[SegmentationModule, Batches]:
    """Return the module to train and its batches. Raises `UserError` where sections do not fit each other."""
    loss = build_loss(recipe.loss, logits)
    check_heads(recipe.loss, network.head_count)
    codes = recipe.task.codes(train.index["label"])
    sampling = Sampling(recipe.sampling, train, recipe.seed)
    first_epoch = initial_network.epochs_before if initial_network else 0
    batches = training_batches(
        train, codes, sampling, recipe.online, recipe.train.batch_size, first_epoch, rank, device
    )
    _check_scaling(recipe)
    if recipe.train.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch leaves its type out
    optimizer = build_optimizer(recipe.optimizer, network)
    schedule = build_schedule(recipe.scheduler, optimizer, recipe.train.epochs, len(batches))
    if initial_network and initial_network.continued:
        load_state(placed / initial_network.name, optimizer, schedule, recipe.optimizer, recipe.scheduler)
    module = SegmentationModule(
        network, loss, recipe.loss.head_weights, optimizer, schedule, logits, compiled=recipe.train.compile
    )
    return module, batches


def _check_scaling(recipe: Recipe) -> None:
    """Raise `UserError` for clipping in 16-mixed with a fused optimiser, which unscales gradients after clipping."""
    scaled = recipe.train.precision == "16-mixed" and recipe.train.gradient_clip > 0
    if scaled and not isinstance(recipe.optimizer, RmsProp) and recipe.optimizer.fused:
        raise UserError(
            "params.yaml: optimizer.fused = true: can't clip gradients in train.precision = 16-mixed; set it to false, "
            "train.gradient_clip to 0, or train.precision to bf16-mixed"
        )


def _initialise(network: Network, recipe: Recipe, placed: Path, data_warnings: Sequence[str]) -> _InitialWeights:
    if name := recipe.train.initial_network:
        initial_network = load_initial_network(network, name, placed, continued=recipe.train.continue_from is not None)
        return _InitialWeights("initial_network", initial_network, [*data_warnings])
    if not isinstance(recipe.model, Encoded):
        return _InitialWeights("random", None, [*data_warnings])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        encoder = network.core.get_submodule("encoder")
        origin = load_encoder_weights(encoder, recipe.model.encoder, recipe.model.encoder_weights, placed)
    notes = [str(warning.message) for warning in caught if warning.category is RandomWeightsWarning]
    return _InitialWeights(origin, None, [*data_warnings, *notes])


def _announce(
    recipe: Recipe, train: Packed, val: Packed, start: _InitialWeights, device: torch.device, finished: int
) -> None:
    _warn(start.warnings)
    if device.type == "cpu" and recipe.train.precision != "32-true":
        print(f"warning: train.precision = {recipe.train.precision} is for GPUs: most CPUs are much slower in it")
    origin = f", starting from {start.initial_network.name}" if start.initial_network else ""
    samples = f"{len(train.images)} samples of {_size(train)}, {len(val.images)} to validate"
    print(f"training {_title(recipe.model)}{origin} on {samples}")
    if finished:
        print(f"resuming from epoch {finished} of {recipe.train.epochs}, after which an earlier run was interrupted")


def _warn(notes: list[str]) -> None:
    for note in notes:
        print(f"warning: {note}")


def _substitutes(recipe: Recipe, trainer: pl.Trainer) -> list[str]:
    """Return what ran instead of what `params.yaml` asks for: the record of the parameters alone would mislead."""
    wanted = recipe.train.precision
    return [] if trainer.precision == wanted else [f"{trainer.precision} ran in place of train.precision = {wanted}"]


def _notes(best: Best, epochs: int) -> list[str]:
    """Return warnings about the epoch that was kept."""
    if best.learned:
        return []
    if best.constant_dice == 0:
        return ["no validation sample is annotated: the epoch was chosen by val/loss, and val/dice says nothing"]
    return [
        f"the network has not learned to segment: val/dice is {best.dice:.3f}, and one class for all pixels would have "
        f"{best.constant_dice:.3f}; the epoch was chosen by val/loss. More epochs than {epochs}, another learning rate "
        "or pretrained weights may help"
    ]


def _describe(
    recipe: Recipe, train: Packed, start: _InitialWeights, best: Best, epochs: int, notes: list[str]
) -> Description:
    record = Training(
        initial_weights=start.weights,
        initial_network=start.initial_network,
        warnings=[*start.warnings, *notes],
        best_epoch=best.epoch,
        epochs=epochs,
        val_dice=round(best.dice, 6),
        samples=len(train.images),
        packages={name: importlib.metadata.version(name) for name in RECORDED_PACKAGES},
    )
    channels: Literal[1, 3] = train.geometry.channels
    return Description(
        model=recipe.model,
        channels=channels,
        task=recipe.task,
        geometry=train.geometry,
        intensity=train.intensity,
        training=record,
    )


def _fit(trainer: pl.Trainer, module: SegmentationModule, train: Batches, val: Batches) -> None:
    try:
        if trainer.local_rank > 0:
            end_with_parent()
        trainer.fit(module, train, val)
    except SystemExit:  # Lightning turns Ctrl-C into it
        raise KeyboardInterrupt from None
    except torch.OutOfMemoryError as error:
        raise UserError("params.yaml: train.batch_size: such batches do not fit the GPU's memory; lower it") from error
    except InductorError as error:
        raise UserError(
            f"params.yaml: train.compile = true: torch.compile fails here, where it may lack a compiler; set it to "
            f"false: {error}"
        ) from error
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            "params.yaml: train.batch_size: a batch of one small sample can't be trained on, since batch "
            "normalisation needs more than one value per channel; raise it, or prepare larger samples"
        ) from error


def _trainer(
    recipe: Recipe,
    machine: MachineParams,
    folders: Folders,
    logger: LoggerParams,
    checkpoints: Checkpoints,
    val: Packed,
) -> pl.Trainer:
    params = recipe.train
    has_bar = sys.stdout.isatty()
    resumed = last_epoch(checkpoints.folder) > 0
    loggers, drawing = build_loggers(logger, folders.metrics, folders.logs, resumed, val, recipe.task)
    callbacks = [checkpoints, _ProgressBar(refresh_rate=10) if has_bar else EpochLines(), *drawing]
    if params.ema_decay:  # after the images: it takes the averaged weights back when its turn comes
        average = get_ema_multi_avg_fn(params.ema_decay)  # type: ignore[no-untyped-call]  # torch leaves its type out
        callbacks.append(WeightAveraging(multi_avg_fn=average))
    try:
        trainer = pl.Trainer(
            accelerator=machine.accelerator,
            devices=params.devices,
            num_nodes=params.num_nodes,
            strategy=params.strategy,
            use_distributed_sampler=False,  # our samplers split the batches
            precision=params.precision,
            max_epochs=params.epochs,
            gradient_clip_val=params.gradient_clip or None,
            deterministic=params.deterministic,
            benchmark=not params.deterministic,  # cuDNN tries its kernels on each of the two sizes of batches
            logger=loggers,
            callbacks=callbacks,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            enable_model_summary=False,
            enable_checkpointing=False,
            enable_progress_bar=has_bar,
        )
    except MisconfigurationException as error:
        wanted = f"machine.accelerator = {machine.accelerator}, train.devices = {params.devices}"
        raise UserError(f"params.yaml: {wanted}: {error}") from error
    check_nodes(trainer)
    # With deterministic algorithms torch also fills all memory that it allocates, which takes a tenth of the time on
    # the CPU and only helps to find reads of uninitialised memory.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # set by a module's class
    return trainer


class _ProgressBar(TQDMProgressBar):
    """Lightning's bar without the logger's version number."""

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return the metrics beside the bar."""
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress messages of Lightning that no user can act on; all other warnings pass."""
    logs = [logging.getLogger(name) for name in QUIETED_LOGS]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for category, message in IGNORED_WARNINGS:
                warnings.filterwarnings("ignore", message, category)
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def _title(params: ModelParams) -> str:
    kind = params.arch if isinstance(params, Library) else params.name
    return f"{kind} with {params.encoder}" if isinstance(params, Encoded) else kind


def _size(packed: Packed) -> str:
    _, height, width, channels = packed.images.shape
    return f"{width}x{height}x{channels}"
